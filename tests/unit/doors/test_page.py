"""The chat page where nobody built it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request

from isolane.doors import page


async def test_page_that_is_missing_tells_a_checkout_and_a_pip_user_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("PACKAGED", "BUILT"):
        monkeypatch.setattr(page, folder, tmp_path / folder)
    answer = await page.page(Request({"type": "http", "headers": [], "root_path": ""}))
    told = bytes(answer.body).decode()
    assert answer.status_code == 404
    assert "`make page`" in told
    assert "`pip install --force-reinstall isolane`" in told
