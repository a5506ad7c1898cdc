"""The build hook, which refuses to build a wheel or an sdist without the chat page."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NPM_CI: Final = ("ci", "--ignore-scripts", "--no-audit", "--no-fund")
TOLD_LINES: Final = 20
"""Lines of npm's output that an error repeats."""


class PageMissing(SystemExit):
    """The package can't be built, because the page is missing and can't be built here.

    It is an exit and no error, so that the user sees its sentence without a traceback.
    """


class PageHook(BuildHookInterface[Any]):
    """Builds the page in a checkout; an sdist has a built one."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make sure that the built page is there, unless the build is an editable one."""
        del build_data
        if version != "editable":
            ensure_page(Path(self.root))


def ensure_page(root: Path) -> None:
    """Build the page of the checkout at `root` when it is missing or older than its sources.

    Raises:
        PageMissing: The page can't be built.
    """
    built = root / "page" / "dist" / "index.html"
    sources = _find_sources(root)
    if built.is_file() and all(_age(source) <= _age(built) for source in sources):
        return
    if not sources:
        raise PageMissing(
            "This sdist has no built page (page/dist): take another one, or build from a checkout."
        )
    npm = shutil.which("npm")
    if npm is None:
        state = "is older than its sources" if built.is_file() else "is not built"
        raise PageMissing(
            f"The chat page (page/dist) {state} and no npm was found: install Node.js 22 or newer, "
            f"or run `make page` first."
        )
    for step in (NPM_CI, ("run", "build")):
        _run(npm, *step, page=root / "page")
    built.touch()  # the build may keep the time of a file that did not change


def _find_sources(root: Path) -> list[Path]:
    page = root / "page"
    plain = [page / "index.html", page / "package-lock.json", page / "vite.config.ts"]
    folders = (page / "src", root / "clients" / "typescript" / "src")
    nested = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in plain if path.is_file()] + nested


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _run(npm: str, *step: str, page: Path) -> None:
    """Run one step of npm in `page`. Raises `PageMissing` with npm's last words."""
    done = subprocess.run(  # noqa: S603 - npm, as found on the path
        (npm, *step), cwd=page, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        said = "\n".join(done.stdout.decode(errors="replace").splitlines()[-TOLD_LINES:])
        raise PageMissing(f"The chat page can't be built, `npm {step[0]}` failed:\n{said}")
