"""A real server for a test: it is there as long as the block, and its output is judged."""

from __future__ import annotations

import errno
import socket
import sys

import pytest

from isolane.testing.server import LOOPBACK, Server, ServerError, free_port
from isolane.testing.servers import Servers

ECHO = "examples.echo:agent"
FORGETFUL = "tests.unit.testing.forgetful:agent"


async def ask(server: Server, token: str, question: str = "Hello?") -> str:
    """Return the whole event stream of a run."""
    message = {"id": "m1", "role": "user", "content": question}
    frame = {"threadId": "t1", "runId": "r1", "messages": [message]}
    async with server.http(token) as http:
        answer = await http.post("/agui", json=frame)
    return answer.raise_for_status().text


async def load_threads(server: Server, token: str) -> list[str]:
    async with server.http(token) as http:
        answer = await http.get("/api/threads")
    return [thread["threadId"] for thread in answer.raise_for_status().json()["threads"]]


async def test_a_server_answers_while_its_block_runs_and_keeps_its_data_over_restarts(
    isolane_server: Servers,
) -> None:
    async with isolane_server(ECHO) as server:
        token = await server.token("ada")
        assert '"Hello? "' in await ask(server, token)
        assert server.websocket_url("echo") == f"ws://127.0.0.1:{server.port}/ws/echo"
        assert (await server.restart()).code == 0
        assert await load_threads(server, token) == ["t1"]
        assert (await server.kill()).code < 0
        await server.start()
        assert await load_threads(server, token) == ["t1"]
        assert {entry["event"] for entry in server.logs} >= {"ready"}
    assert not server.is_running


async def test_what_a_server_left_un_awaited_fails_the_test(isolane_server: Servers) -> None:
    with pytest.raises(AssertionError, match=r"coroutine 'sleep' was never awaited"):
        async with isolane_server(FORGETFUL) as server:
            assert "Done." in await ask(server, await server.token("ada"))


async def test_servers_of_one_test_share_neither_data_nor_port(isolane_server: Servers) -> None:
    async with isolane_server(ECHO) as server, isolane_server(ECHO) as other:
        assert server.data != other.data
        assert server.url != other.url


@pytest.mark.skipif(sys.platform != "linux", reason="a port can be kept on Linux only")
def test_a_free_port_is_given_to_nobody_else_before_its_server_listens_and_after() -> None:
    port = free_port()
    for _ in range(2):
        for address in (LOOPBACK, "127.0.0.2", "0.0.0.0"):  # noqa: S104 - for a moment
            with socket.socket() as other, pytest.raises(OSError, match=r"in use") as refused:
                other.bind((address, port))
            assert refused.value.errno == errno.EADDRINUSE
        with socket.create_server((LOOPBACK, port)):  # as servers do, with SO_REUSEADDR
            pass


async def test_a_server_that_does_not_start_says_why(isolane_server: Servers) -> None:
    with pytest.raises(ServerError, match=r"nowhere"):
        async with isolane_server("nowhere:agent"):
            pytest.fail("it is not there")


async def end_behind_its_back(server: Server) -> None:
    assert server._process is not None
    server._process.terminate()
    await server._process.wait()


async def test_a_server_that_ends_by_itself_fails_the_test(isolane_server: Servers) -> None:
    with pytest.raises(ServerError, match="ended by itself"):
        async with isolane_server(ECHO) as server:
            await end_behind_its_back(server)
