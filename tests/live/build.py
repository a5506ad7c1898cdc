"""A build of the server with a mistake in it, to see what comes of it."""

from __future__ import annotations

import shutil
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).parents[2] / "src"
PAGE: Final = Path(__file__).parents[2] / "page" / "dist"


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

    A text that isn't there just once fails: the mistake would not be made. What Python has compiled
    is copied too, but for the changed files. A file that Python is just writing may be gone again.
    """
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copytree(PAGE, folder / "isolane" / "page")
    for mistake in mistakes:
        file = folder / "isolane" / mistake.file
        file.write_text(mistake.made_in(file.read_text()))
        Path(cache_from_source(str(file))).unlink(missing_ok=True)
    return {"PYTHONPATH": str(folder)}
