"""A build of the server with a mistake in it, to see what comes of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).parents[2] / "src"


class Mistake(NamedTuple):
    """What stands once in a file of the package, and what is to stand there instead."""

    file: str
    right: str
    wrong: str


def build_with(folder: Path, *mistakes: Mistake) -> dict[str, str]:
    """Copy the package to `folder`, make the mistakes, return the environment that runs it.

    A text that isn't there just once fails: the mistake would not be made.
    """
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for mistake in mistakes:
        file = folder / "isolane" / mistake.file
        text = file.read_text()
        assert text.count(mistake.right) == 1, mistake
        file.write_text(text.replace(mistake.right, mistake.wrong))
    return {"PYTHONPATH": str(folder)}
