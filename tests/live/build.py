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

    def made_in(self, text: str) -> str:
        """Return the file's text with the mistake in it; fails unless it fits in just one place."""
        assert text.count(self.right) == 1, self
        return text.replace(self.right, self.wrong)


def build_with(folder: Path, *mistakes: Mistake) -> dict[str, str]:
    """Copy the package to `folder`, make the mistakes, return the environment that runs it.

    A text that isn't there just once fails: the mistake would not be made.
    """
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for mistake in mistakes:
        file = folder / "isolane" / mistake.file
        file.write_text(mistake.made_in(file.read_text()))
    return {"PYTHONPATH": str(folder)}
