"""pytest in a process of its own, which need not import again what no mistake changes.

The processes are forked from one that has imported the packages of others, and nothing of Isolane.
These imports take as long as most of the tests that are run so.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final

PRELOADED: Final = (
    "ag_ui.core",
    "alembic.context",
    "fastapi",
    "httpx",
    "hypothesis.stateful",
    "jwt",
    "pytest_asyncio",
    "sqlalchemy.ext.asyncio",
    "structlog",
    "uvicorn",
    "uvloop",
    "websockets.asyncio.client",
)
ALREADY_IMPORTED: Final = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
"""pytest says so of its plugins: their own assertions are not explained, which nobody needs."""
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(PRELOADED))


def run_pytest(
    *words: str, env: Mapping[str, str], output: Path, timeout_s: float
) -> CompletedProcess[str]:
    """Run pytest with the arguments `words` and with `env` on top of this environment.

    What it writes goes to the file `output` and comes back as `stdout`. When it takes longer than
    `timeout_s` it is killed, and the code is a negative signal number, as of any killed process.
    """
    process = _CONTEXT.Process(target=_become_pytest, args=(words, dict(env), output))
    process.start()
    process.join(timeout_s)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return CompletedProcess(words, process.exitcode, output.read_text(errors="replace"))


def _become_pytest(words: tuple[str, ...], env: Mapping[str, str], output: Path) -> None:
    """Take the environment as a new process would: the folders of PYTHONPATH come first."""
    with output.open("w") as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
    assert "isolane" not in sys.modules, "the sound package would be tested"
    os.environ.update(env)
    sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
    import pytest  # noqa: PLC0415 - only what is forked needs it

    sys.exit(pytest.main([*words, "-W", ALREADY_IMPORTED]))
