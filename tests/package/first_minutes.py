"""A newcomer's first minutes: serve the demo, open its link, load the page, ask."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
from websockets.asyncio.client import connect
from websockets.typing import Origin, Subprotocol

START_S: Final = 240.0
"""A checkout makes its environments first, and builds the page."""
STOP_S: Final = 60.0
ANSWER_S: Final = 30.0
_LINK: Final = re.compile(r"alice: (http://[^/]+)(/\S+)")
KEPT: Final = (
    *("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *(name for name in os.environ if name.startswith(("PIP_", "NPM_CONFIG_", "NODE_"))),
)
"""What of this process's environment a newcomer has too: where packages come from."""


@asynccontextmanager
async def serving_demo(*command: str | Path, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Run a command that serves the demo; give its address, and the path of alice's link."""
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**env, "HOME": str(folder)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # so that a signal reaches what the command starts, too
    )
    assert process.stdout is not None
    told = ""
    try:
        async with asyncio.timeout(START_S):
            while (found := _LINK.search(told)) is None:
                line = await process.stdout.readline()
                assert line, f"it ended: {told}"
                told += line.decode()
        yield found[1], found[2]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        rest, _ = await asyncio.wait_for(process.communicate(), STOP_S)
    told += rest.decode()
    assert "Traceback" not in told, told


async def ask_the_demo(*command: str | Path, folder: Path, question: str) -> str:
    """Sign in by the link, load the page with all that it names, ask, and return the answer."""
    async with (
        serving_demo(*command, folder=folder) as (address, link),
        httpx.AsyncClient(base_url=address, trust_env=False) as http,
    ):
        assert (await http.get(link)).is_redirect
        page = (await http.get("/")).raise_for_status().text
        assets = re.findall(r'(?:src|href)="(?:\./|/)?(assets/[^"]+)"', page)
        assert assets
        for asset in assets:
            assert (await http.get(f"/{asset}")).raise_for_status().content
        return await _ask(address, http.cookies, question)


async def _ask(address: str, cookies: httpx.Cookies, question: str) -> str:
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    message = {"id": "m1", "role": "user", "content": question}
    answer = ""
    async with (
        asyncio.timeout(ANSWER_S),
        connect(
            address.replace("http", "ws", 1) + "/ws",
            additional_headers={"Cookie": cookie},
            origin=Origin(address),
            subprotocols=[Subprotocol("agui.v1")],
        ) as socket,
    ):
        await socket.send(json.dumps({"threadId": "t1", "runId": "r1", "messages": [message]}))
        async for frame in socket:
            event = json.loads(frame).get("chunk", {})
            if event.get("type") == "TEXT_MESSAGE_CONTENT":
                answer += event["delta"]
            if event.get("type") in {"RUN_FINISHED", "RUN_ERROR"}:
                break
    return answer
