"""Every snippet of the README does what the README says, as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import which
from typing import Final, NamedTuple

import httpx
import pytest
from tests.live.server import LOOPBACK, START_TIMEOUT_S, Looks, free_port
from tests.live.stage import SECRET_KEY, mint

ROOT: Final = Path(__file__).parents[2]
NODE_FOLDER: Final = Path(__file__).with_name("node")
ADDRESS: Final = "127.0.0.1:8000"
"""Where the README's servers are; the tests have a port of their own."""

pytestmark = pytest.mark.timeout(120)


class Snippet(NamedTuple):
    """A block of code in the README."""

    language: str
    code: str


def _snippets() -> list[Snippet]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return [Snippet(*found) for found in re.findall(r"```(\w+)\n(.*?)```", readme, re.DOTALL)]


def find(language: str, word: str) -> str:
    """Return the only snippet of a language that holds a word."""
    (code,) = [each.code for each in _snippets() if each.language == language and word in each.code]
    return code


PLAIN: Final = find("js", "new WebSocket")
TANSTACK: Final = find("js", "ChatClient")
AGUI: Final = find("js", "HttpAgent")
AGENT: Final = find("python", "async def agent")
APP: Final = find("python", "FastAPI()")
SERVE: Final = find("sh", "isolane serve --agent")
TOKEN: Final = find("sh", "isolane token --user ada\n")
CLIENT: Final = find("sh", "examples/client.py")
UVICORN: Final = find("sh", "uvicorn")
PIP: Final = find("sh", "pip install")
MAKE: Final = find("sh", "make run")
"""These two are run by the tests of the package, which have a wheel and a clone."""


def test_no_snippet_is_left_untried() -> None:
    tried = {PLAIN, TANSTACK, AGUI, AGENT, APP, SERVE, TOKEN, CLIENT, UVICORN, PIP, MAKE}
    assert {each.code for each in _snippets()} == tried


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with the files that the README lets its readers save."""
    (tmp_path / "my_agent.py").write_text(AGENT, encoding="utf-8")
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return that of a shell in which `.venv/bin/activate` was read."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    data = str(folder / "isolane-data")
    return {
        **os.environ,
        "PATH": path,
        "ISOLANE_DATA": data,
        "ISOLANE_SECRET_KEY": SECRET_KEY,
        **more,
    }


@asynccontextmanager
async def running(command: str, folder: Path, ready: str) -> AsyncIterator[str]:
    """Run a command that serves, with a port of its own; give its address once it is ready."""
    port = free_port()
    process = await asyncio.create_subprocess_shell(
        f"exec {command.strip()} --port {port}",
        cwd=folder,
        env=environment(folder),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False) as http:
            async for _ in Looks(START_TIMEOUT_S):
                assert process.returncode is None
                if await is_up(http, ready):
                    break
        yield f"{LOOPBACK}:{port}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        _, told = await asyncio.wait_for(process.communicate(), 20)
        assert "Traceback" not in told.decode(), told.decode()


async def is_up(http: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await http.get(path)).is_success
    except httpx.TransportError:
        return False


async def run(command: str, folder: Path) -> str:
    """Run a command to its end, in a shell; return what it printed."""
    process = await asyncio.create_subprocess_shell(
        command, cwd=folder, env=environment(folder), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return out.decode()


async def print_until(word: str, script: str, token: str) -> str:
    """Run a snippet in Node until it has printed a word, which must come."""
    node = which("node")
    assert node is not None, "the live tests need Node: make live"
    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "-e", f"const token = {token!r}\n{script}"),
        cwd=NODE_FOLDER,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    told = ""
    try:
        async with asyncio.timeout(60):
            while word not in told:
                line = await process.stdout.readline()
                assert line, f"it ended: {told}"
                told += line.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    return told


@pytest.fixture
async def address(folder: Path) -> AsyncIterator[str]:
    """Give the address of the README's own agent, served as it says."""
    async with running(SERVE, folder, "/readyz") as address:
        yield address


async def test_snippets_of_the_clients_get_an_answer(address: str, folder: Path) -> None:
    token = (await run(TOKEN, folder)).strip()
    for script, end in (
        (PLAIN, "RUN_FINISHED"),
        (TANSTACK, "You said: Hello"),
        (AGUI, "You said:"),
    ):
        told = await print_until(end, script.replace(ADDRESS, address), token)
        assert "Hello" in told
    command = CLIENT.replace(ADDRESS, address).replace("examples/", f"{ROOT}/examples/")
    assert (await run(command, folder)).split() == ["You", "said:", "Hello"]


async def test_app_has_the_socket_and_the_page_below_its_path(folder: Path) -> None:
    async with running(UVICORN, folder, "/agent/readyz") as address:
        script = PLAIN.replace(f"{ADDRESS}/ws", f"{address}/agent/ws")
        assert "said:" in await print_until("RUN_FINISHED", script, mint("ada"))
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
            page = (await http.get("/agent/")).raise_for_status()
            assert page.headers["content-type"].startswith("text/html")
