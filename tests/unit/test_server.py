"""What `isolane serve` refuses before it listens."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from isolane import server
from isolane.server import StartFailed, serve
from isolane.settings import Settings


def test_compression_needs_a_websockets_that_refuses_what_it_should(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "version", lambda _: "16.0.1")
    with pytest.raises(StartFailed, match=r"with websockets 16\.0\.1: it needs websockets 17;"):
        serve(FastAPI(), Settings(compression=True), host="127.0.0.1", port=0)
