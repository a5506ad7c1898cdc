"""How the command says that it was used wrongly."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from isolane.cli import main


@pytest.mark.parametrize(
    "words",
    [
        ["http://127.0.0.1:1"],
        ["ftp://127.0.0.1:1", "--token", "t"],
        ["http://127.0.0.1:1", *(["--token", "t"] * 3)],
        ["http://127.0.0.1:1", "--token", "t", "--repeat", "0"],
    ],
    ids=["no token", "no such scheme", "three tokens", "no round"],
)
def test_wrong_use_is_told_apart_from_a_failure(words: list[str]) -> None:
    ended = CliRunner().invoke(main, ["check", *words])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "Error: " in ended.stderr
