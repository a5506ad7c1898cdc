"""Sites that are not the gateway's: a script with all that it needs in one file, and its page."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import which
from typing import Final

from tests.live.server import LOOPBACK, START_TIMEOUT_S

ROOT: Final = Path(__file__).parents[2]
MODULES: Final = ROOT / "tests/live/node/node_modules"
"""The published clients."""
BUNDLER: Final = ROOT / "page/node_modules/rolldown/bin/cli.mjs"
PAGE: Final = (
    b'<!doctype html><title>Elsewhere</title><div id="root"></div>'
    b'<script type="module" src="/page.js"></script>'
)


async def bundle(entry: Path, folder: Path) -> bytes:
    """Return a script with the published clients that it imports, in one file for a browser."""
    node = which("node", path=Path(sys.executable).parent) or which("node")
    assert node is not None, "there is no node on the PATH"
    made, config = folder / f"{entry.stem}.js", folder / f"{entry.stem}.config.mjs"
    options = {
        "input": str(entry),
        "platform": "browser",
        "resolve": {"modules": [str(MODULES)]},
        "transform": {"define": {"process.env.NODE_ENV": '"production"'}},
        "output": {"file": str(made), "format": "esm"},
    }
    config.write_text(f"export default {json.dumps(options)}")
    process = await asyncio.create_subprocess_exec(
        *(node, str(BUNDLER), "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=entry.parent,
    )
    said, _ = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
    assert process.returncode == 0, said.decode()
    return await asyncio.to_thread(made.read_bytes)


@asynccontextmanager
async def site(script: bytes) -> AsyncIterator[str]:
    """Serve the page at an origin of its own, and give that."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_script = head.startswith(b"GET /page.js ")
        kind, body = (b"text/javascript", script) if is_script else (b"text/html", PAGE)
        told = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %b\r\n" % kind
        writer.write(told + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, LOOPBACK, 0) as server:
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
