"""Runs the tests on each Python that is here, with the lowest and with the newest dependencies.

`versions.py` prints a table of all rows; `versions.py 3.12-newest …` runs only those.
`versions.py --locked` runs a part of the tests on the row that requirements/lowest.lock pins, which
no release of anybody can change. `versions.py --lock` writes that file anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / ".venvs"
UV: Final = str(Path(sys.prefix) / "bin" / "uv")
LOCK: Final = ROOT / "requirements" / "lowest.lock"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
LEVELS: Final = {"lowest": "lowest-direct", "newest": "highest"}
LOCKED: Final = "3.11-lowest"
EXTRAS: Final = ("postgres", "redis", "pydantic-ai", "testing")
WHAT: Final = (
    "pyproject.toml",
    *(word for extra in EXTRAS for word in ("--extra", extra)),
    *("--group", "test"),
)
SMOKE: Final = (
    "tests/live/test_connecting.py",
    "tests/live/test_cuts.py",
    "tests/live/test_embedding.py",
    "tests/live/test_framing.py",
    "tests/live/test_http.py",
    "tests/live/test_log.py",
    "tests/live/test_signin.py",
    "tests/live/test_stopping.py",
)
"""Live tests of what hangs on a dependency: sockets, HTTP, the database, hosts, sign-in, agents."""
PART: Final = ("tests/contracts", "tests/live/test_embedding.py")
"""What `--locked` runs, so that it takes a minute."""
OTHER_TOOLS: Final = (
    "tests/unit/doors/test_schema.py::test_the_client_was_generated_from_this_schema"
)
"""Runs Node, which only the developers' environment has."""
SINCE_WEBSOCKETS_17: Final = "compressed_frames or what_the_client_asks_of_the_server"
"""Older releases take odd compressed frames, and fail at an offer of the smallest window."""


class RowError(Exception):
    """A row has no verdict but this text."""


def run(*command: str) -> str:
    """Run a command and return what it printed; raise `RowError` with its complaint if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RowError(f"{done.stdout}{done.stderr}".strip())
    return done.stdout.strip()


def find_python(version: str) -> str:
    """Return the path of an interpreter of that version; raise `RowError` when there is none."""
    in_pyenv = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    for path in (sys.executable, shutil.which(f"python{version}"), *map(str, in_pyenv)):
        try:
            if (
                path
                and run(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])") == version
            ):
                return path
        except RowError:  # a stand-in for an interpreter that isn't there
            continue
    raise RowError(f"no Python {version} on this machine")


def compile_lock(python: str, level: str, *options: str) -> str:
    """Return the text of a lock for one row; packages without a wheel for it are passed over."""
    return run(
        *(UV, "pip", "compile", *WHAT, "--quiet", "--no-header", "--no-annotate"),
        *("--no-emit-index-url", "--no-build", "--python-version", python),
        *("--resolution", LEVELS[level], *options),
    )


def make_environment(row: str) -> Path:
    """Make the environment of a row anew and return its interpreter."""
    version, _, level = row.partition("-")
    folder = FOLDER / row
    run(UV, "venv", "--quiet", "--clear", "--python", find_python(version), str(folder))
    python = folder / "bin" / "python"
    lock = LOCK
    if row != LOCKED:
        lock = folder / "requirements.txt"
        lock.write_text(compile_lock(version, level, "--generate-hashes") + "\n")
    install = (UV, "pip", "install", "--quiet", "--python", str(python), "--no-deps")
    run(*install, "--require-hashes", "--requirement", str(lock))
    run(*install, "--no-build-isolation", "--editable", str(ROOT))
    return python


def run_tests(row: str, tests: Sequence[str]) -> str:
    """Run tests and return pytest's last line; raise `RowError` with all it said if one fails."""
    python = make_environment(row)
    picked = ["-k", f"not ({SINCE_WEBSOCKETS_17})"] if row.endswith("-lowest") else []
    said = run(
        *(str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak"),
        *("--deselect", OTHER_TOOLS, *picked, *tests),
    )
    return said.splitlines()[-1]


def judge(row: str, tests: Sequence[str]) -> bool | None:
    """Run a row and print its line; return None when this machine has no such Python."""
    began = monotonic()
    try:
        find_python(row.partition("-")[0])
    except RowError as error:
        print(f"{row:12}  not run: {error}", flush=True)
        return None
    try:
        said = run_tests(row, tests)
    except RowError as error:
        print(error, file=sys.stderr)
        print(f"{row:12}  FAILED after {monotonic() - began:.0f} s", flush=True)
        return False
    print(f"{row:12}  {said}", flush=True)
    return True


def main(words: Sequence[str]) -> int:
    """Do what the command line says; 0 when no row failed."""
    if list(words) == ["--lock"]:
        LOCK.write_text(compile_lock("3.11", "lowest", "--generate-hashes") + "\n")
        return 0
    every = [f"{version}-{level}" for version in PYTHONS for level in LEVELS]
    is_locked = list(words) == ["--locked"]
    rows = [LOCKED] if is_locked else words or every
    if unknown := set(rows) - set(every):
        print(f"no row is called {', '.join(sorted(unknown))}: {', '.join(every)}", file=sys.stderr)
        return 2
    tests = PART if is_locked else ("tests/unit", "tests/contracts", *SMOKE)
    return 1 if False in [judge(row, tests) for row in rows] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
