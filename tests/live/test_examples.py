"""What the README and `examples/` show works as it stands there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.live.conftest import StartProxy
from tests.live.server import (
    LOOPBACK,
    POLL_S,
    START_TIMEOUT_S,
    Server,
    ServerError,
    free_port,
    running_server,
)
from tests.live.stage import SECRET_KEY, mint
from websockets.asyncio.client import connect

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
QUESTION: Final = "Which words will come back to me?"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Give a server of the examples' agents."""
    named = ("examples.echo:agent", "assistant=examples.assistant:agent")
    agents = (*named, "guide=isolane.agents.guide:agent")
    env = {
        "PYTHONPATH": str(ROOT),
        "ISOLANE_SECRET_KEY": SECRET_KEY,
        "ISOLANE_DRAIN_TIMEOUT_S": "0",  # of a run that nobody waits for
    }
    async with running_server(tmp_path / "data", *agents, env=env) as server:
        yield server
    server.assert_clean()


async def run_client(
    address: str, *, token: str, question: str = QUESTION, name: str = "client.py"
) -> tuple[str, str, int]:
    """Run a client; return what it wrote to stdout and stderr, and its exit code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), address, token, question),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
    return out.decode(), err.decode(), process.returncode or 0


async def test_client_prints_what_the_agents_say(server: Server) -> None:
    token = mint("ada")
    told, _, code = await run_client(server.websocket_url(), token=token)
    assert (told.split(), code) == (QUESTION.split(), 0)
    told, _, _ = await run_client(server.websocket_url("assistant"), token=token)
    assert told.strip() == "Your question has 7 words."


async def test_client_loses_and_doubles_nothing_however_often_it_is_cut(
    server: Server, break_line_to: StartProxy
) -> None:
    proxy = await break_line_to(server)
    proxy.cut_after(b'"chunk"', 2, 3)
    address = server.websocket_url(address=proxy.address)
    told, _, code = await run_client(address, token=mint("ada"))
    assert (told.split(), code) == (QUESTION.split(), 0)
    assert proxy.cuts == 2


async def test_openai_client_reads_on_however_often_it_is_cut(
    server: Server, break_line_to: StartProxy
) -> None:
    proxy = await break_line_to(server)
    proxy.cut_after(b"sequence_number", 2, 4)
    address = f"http://{proxy.address}/v1"
    told, _, code = await run_client(address, token=mint("ada"), name="openai_client.py")
    assert (told.split(), code) == (QUESTION.split(), 0)
    assert proxy.cuts == 2
    _, error, code = await run_client(address, token="no", name="openai_client.py")
    assert ("A valid credential is needed" in error, code) == (True, 1)


async def test_client_that_is_refused_says_why(server: Server) -> None:
    told, why, code = await run_client(server.websocket_url(), token="no token at all")
    assert (told, code) == ("", 1)
    # It reads either the error, or, when the line was closed before it could speak, the close.
    assert why.startswith("unauthenticated: ") or why == "refused: invalid\n"


async def test_remote_agent_passes_on_what_another_server_streams(
    server: Server, tmp_path: Path
) -> None:
    env = {
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": LOOPBACK,
        "ISOLANE_SECRET_KEY": SECRET_KEY,
        "REMOTE_URL": f"{server.url}/agui",
        "REMOTE_TOKEN": mint("front"),
    }
    async with running_server(tmp_path / "front", "examples.remote:agent", env=env) as front:
        chunks = await chunks_of(front.websocket_url(), mint("ada"))
    assert "".join(deltas_of(chunks)).split() == ["Hello"]
    assert [chunk["type"] for chunk in chunks].count("RUN_STARTED") == 1
    assert chunks[-1]["type"] == "RUN_FINISHED"


async def test_the_guide_answers_from_its_pages(server: Server) -> None:
    question = "What is the capital of France?"
    told, _, _ = await run_client(
        server.websocket_url("guide"), token=mint("ada"), question=question
    )
    assert told.startswith("I answer questions about Isolane")
    told, _, _ = await run_client(
        server.websocket_url("guide"), token=mint("ada"), question="What is Isolane?"
    )
    assert told.startswith("From **Isolane > What Isolane is** (`docs/index.md`):")


async def test_client_that_reaches_nobody_says_so_and_gives_up(server: Server) -> None:
    wanted = {
        f"ws://{LOOPBACK}:{free_port()}/ws": "nobody listens there",
        "ws://no-such-host.invalid/ws": "no such host",
        f"ws://{server.address}/nowhere": "instead of a WebSocket",
        f"wss://{server.address}/ws": "TLS is not good",
        server.url: "the address must be like ws://",
    }
    token = mint("ada")
    ends = await asyncio.gather(*(run_client(address, token=token) for address in wanted))
    for (address, said), (told, why, code) in zip(wanted.items(), ends, strict=True):
        assert (told, code) == ("", 1)
        (sentence,) = why.splitlines()
        assert said in sentence
        assert address in sentence


async def test_client_that_is_interrupted_says_nothing(server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "client.py"), server.websocket_url(), mint("ada")),
        " ".join(["word"] * 1000),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.read(4) == b"word"
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), timeout=30)
    assert (process.returncode, err) == (130, b"")


async def test_demo_answers_on_an_install_without_extras(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pydantic_ai'] = None\n")
    env = {"PYTHONPATH": str(tmp_path), "ISOLANE_SECRET_KEY": SECRET_KEY}
    server = Server(tmp_path / "data", (), env, ("--demo",))
    await server.start()
    chunks = await chunks_of(server.websocket_url(), mint("ada"), "How do I stop a run?")
    await server.stop()
    assert "TOOL_CALL_RESULT" in {chunk["type"] for chunk in chunks}
    assert "".join(deltas_of(chunks)).startswith("From **Clients > How to stop a run**")
    assert len(deltas_of(chunks)) > 20


@asynccontextmanager
async def running_app(folder: Path, app: str, env: Mapping[str, str]) -> AsyncIterator[str]:
    """Serve an app by uvicorn, as the README says; yield its address."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", app, "--port", str(port)),
        *("--ws", "isolane.server:WebSocketProtocol", "--log-level", "warning"),
        cwd=folder,
        env={**os.environ, **env},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await _wait_until_ready(process, f"http://{LOOPBACK}:{port}/agent/readyz")
        yield f"{LOOPBACK}:{port}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
        told = err.decode()
        assert "never awaited" not in told
        assert "Traceback" not in told, told


async def _wait_until_ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(START_TIMEOUT_S):
        while process.returncode is None:
            try:
                if (await http.get(url)).is_success:
                    return
            except httpx.TransportError:
                await asyncio.sleep(POLL_S)
    raise ServerError(f"uvicorn ended with {process.returncode}")


async def chunks_of(address: str, token: str, question: str = "Hello") -> list[dict[str, Any]]:
    """Return the events of one run, asked for as the shortest client would."""
    message = {"id": "m1", "role": "user", "content": question}
    headers = {"Authorization": f"Bearer {token}"}
    chunks: list[dict[str, Any]] = []
    async with connect(address, additional_headers=headers) as socket, asyncio.timeout(10):
        await socket.send(json.dumps({"threadId": "t1", "runId": "r1", "messages": [message]}))
        while not chunks or chunks[-1]["type"] not in {"RUN_FINISHED", "RUN_ERROR"}:
            frame = json.loads(await socket.recv())
            chunks += [frame["chunk"]] if "chunk" in frame else []
    return chunks


def deltas_of(chunks: list[dict[str, Any]]) -> list[str]:
    return [chunk["delta"] for chunk in chunks if chunk["type"] == "TEXT_MESSAGE_CONTENT"]


async def test_embedded_app_greets_whom_it_gave_the_token(tmp_path: Path) -> None:
    env = {"ISOLANE_DATA": str(tmp_path / "data")}
    async with running_app(EXAMPLES, "embed:app", env) as address:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
            token = (await http.post("/token/bob")).json()["token"]
            assert (await http.get("/agent/api/threads")).status_code == 401
        chunks = await chunks_of(f"ws://{address}/agent/ws", token)
    assert "".join(deltas_of(chunks)) == "Hello bob, this thread has 1 messages."
