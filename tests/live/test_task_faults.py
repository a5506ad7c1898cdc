"""A fault in each kind of task that the gateway starts: whoever it serves is told, or it goes on.

What serves a socket ends it with 1011, a request is answered 500, a run gets its end, each with an
`errorId` of one record of the log. What serves the house is logged with its chain, and comes again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from tests.live.client import Frame, run_frame
from tests.live.event_stream import open_stream
from tests.live.server import Looks, Server
from tests.live.stage import Lane, own_server, read_to_close, text_of, types_of
from tests.live.task_faults import PLACES, UNFORESEEN, VARIABLE
from tests.live.test_aisdk_socket import hear, knock, put, send_frame, until
from tests.live.test_aisdk_socket import text_of as text_of_chunks
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCE: Final = Path(__file__).parents[2] / "src" / "isolane"
KINDS: Final[dict[str, str]] = {
    "agent of ": "agent",
    "authentication": "authentication",
    "beat": "beat",
    "bye": "farewell",
    "chat on ": "chat",
    "claim of runs": "claim",
    "deletion of ": "deletion",
    "drain": "drain",
    "event stream": "event stream",
    "event stream's reader": "event stream's reader",
    "follower ": "follower",
    "frames ": "line",
    "hurry": "drain",
    "log commits": "commits",
    "log sweep": "sweep of the log",
    "look for stops": "stops of others",
    "look into the logs": "look into the logs",
    "manager in the making": "manager",
    "news of ": "news",
    "pressure": "pressure",
    "recovery of ": "recovery",
    "removal of ": "deletion",
    "removal of requests": "requests",
    "retention": "retention",
    "revocations": "revocations",
    "run ": "run",
    "shutdown of runs": "drain",
    "start of ": "start",
    "stop of ": "stop",
    "writer ": "writer of a socket",
    "writer of ": "writer of a run",
}
"""Each kind of task by its name, and the place that breaks for it."""
ELSEWHERE: Final = {
    "connection slots",
    "event for ",
    "recovery",
    "session in use",
    "session seen",
    "sweep",
    "threads of ",
}
"""Tasks that need another database, a full disk or minutes. `test_disk.py` here has the recovery,
the contracts' `test_limits.py` the slots, and the unit tests `test_sessions.py`, `test_sweeper.py`
and `test_user_news.py` have the sessions, the sweep and the threads. What breaks in an event's
reaches its caller."""
ENV: Final = {
    "ISOLANE_LOG_MAX_EVENTS": "8",
    "ISOLANE_LIMIT_RUN_EVENTS": "8",
    "ISOLANE_HEARTBEAT_S": "1",
    "ISOLANE_REQUEST_THREADS_KEPT_S": "1",
}


_numbers: Final[Iterator[int]] = count()


@dataclass(frozen=True)
class Fault:
    """What breaks next, once."""

    file: Path

    def plant(self, place: str) -> None:
        """Let a place break when something comes there."""
        self.file.write_text(place, encoding="utf-8")

    async def until_met(self) -> None:
        """Return once something has come there."""
        async for _ in Looks(10):
            if not self.file.exists():
                return
        raise AssertionError(f"nothing came to {self.file.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Fault:
    return Fault(tmp_path_factory.mktemp("fault") / "place")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(fault: Fault, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    data, env = tmp_path_factory.mktemp("faults") / "data", {**ENV, VARIABLE: str(fault.file)}
    async with own_server(data, "talker=task_faults:talker", env=env) as one:
        yield one


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


async def assert_logged(server: Server, error: Frame) -> None:
    """Say that an error's id names a record that tells the chain down to the fault."""
    found = error.get("errorId") or error["metadata"]["errorId"]
    entry = await server.wait_for_log(lambda entry: entry.get("error_id") == found)
    assert UNFORESEEN in entry["chain"][-1]


def names_of_tasks(path: Path) -> Iterator[str]:
    """Yield how each kind of task is called that a file starts, up to what names one of them."""
    source = path.read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for call in calls:
        if not re.search(r"tasks\.(start|detach|complete)$", ast.unparse(call.func)):
            continue
        name = next(each.value for each in call.keywords if each.arg == "name")
        text = ast.unparse(name)
        if isinstance(name, ast.Name):
            text = re.findall(rf"\b{name.id} = (f?\".+?\")", source)[-1]
        yield re.split("[{]", text.removeprefix("f").strip("'\""))[0]


async def test_every_kind_of_task_has_a_fault() -> None:
    found = {name for path in SOURCE.rglob("*.py") for name in names_of_tasks(path)}
    assert found == {*KINDS, *ELSEWHERE}
    # A timer and a thread are no tasks.
    assert set(KINDS.values()) | {"pulse", "watchdog"} == set(PLACES)


# --- what serves a socket ------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["follower", "line", "manager", "pulse", "start"])
async def test_socket_that_is_served_by_it_ends_with_an_error(
    lane: Lane, fault: Fault, place: str
) -> None:
    async with lane.connect() as client:
        fault.plant(place)
        await client.run("t", f"run-{lane.user}", "hello")
        frames, close = await read_to_close(client)
    assert close == (1011, "internal")
    await assert_logged(lane.server, frames[-1])
    assert types_of(await lane.play("t", f"run-{lane.user}", "hello"))[-1] == "RUN_FINISHED"


async def test_socket_that_cannot_be_written_to_is_cut(lane: Lane, fault: Fault) -> None:
    async with lane.connect() as client:
        fault.plant("writer of a socket")
        await client.send({"type": "ping"})
        _, (code, _) = await read_to_close(client)
    assert code in {None, 1006, 1011}
    await fault.until_met()


async def test_handshake_whose_authentication_breaks_is_refused(lane: Lane, fault: Fault) -> None:
    fault.plant("authentication")
    async with lane.connect(hello=False) as client:
        frames, close = await read_to_close(client)
    assert close == (1011, "internal")
    await assert_logged(lane.server, frames[-1])


async def test_chat_that_is_served_by_it_ends_with_an_error_and_the_others_go_on(
    lane: Lane, fault: Fault
) -> None:
    async with knock(lane) as socket:
        fault.plant("chat")
        await put(socket, send_frame("hello", request_id="broken"))
        frame = await hear(socket)
        assert (frame["type"], frame["requestId"]) == ("error", "broken")
        assert "(internal, err_" in frame["errorText"]
        await put(socket, send_frame("hello", "u", request_id="fine"))
        assert text_of_chunks(await until(socket, "end", "fine")) == "word"
    await fault.until_met()


async def test_chats_whose_credential_is_watched_by_it_come_back(lane: Lane, fault: Fault) -> None:
    fault.plant("pulse")
    async with knock(lane) as socket:
        with pytest.raises(ConnectionClosed):
            await hear(socket)
    assert socket.close_code == 1011
    async with knock(lane) as socket:
        await put(socket, send_frame("hello", request_id="fine"))
        assert text_of_chunks(await until(socket, "end", "fine")) == "word"


# --- what serves a request -----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["start", "deletion", "authentication", "event stream"])
async def test_request_that_is_served_by_it_is_answered_with_an_error(
    lane: Lane, fault: Fault, place: str
) -> None:
    body = run_frame("t", f"run-{lane.user}", "hello")
    async with lane.server.http(lane.token) as http:
        await http.post("/api/threads", json={"threadId": "t"})
        fault.plant(place)
        if place == "deletion":
            error = (await http.delete("/api/threads/t")).json()
        elif place == "event stream":
            async with open_stream(http, "/agui", body) as stream:
                error = (await stream.rest())[-1].event
        else:
            answer = await http.post("/agui", json=body)
            assert answer.status_code == 500
            error = answer.json()
    assert error["code"] == "internal"
    await assert_logged(lane.server, error)
    await fault.until_met()


async def test_event_stream_whose_reader_breaks_ends_and_comes_back(
    lane: Lane, fault: Fault
) -> None:
    body = run_frame("t", f"run-{lane.user}", "hello")
    async with lane.server.http(lane.token) as http:
        fault.plant("event stream's reader")
        async with open_stream(http, "/agui", body) as stream:
            error = (await stream.rest())[-1].event
        assert error["code"] == "internal"
        await assert_logged(lane.server, error)
        async with open_stream(http, "/agui", body) as stream:
            assert (await stream.until_end(f"run-{lane.user}")).event["type"] == "RUN_FINISHED"


# --- what serves a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["commits", "writer of a run"])
async def test_run_whose_log_breaks_once_has_its_end_and_nothing_is_skipped(
    lane: Lane, fault: Fault, place: str
) -> None:
    told = count_tellings(lane.server)
    fault.plant(place)
    start, *words, end = await lane.play("t", f"run-{lane.user}", "hello")
    assert start["type"] == "RUN_STARTED"
    if end["type"] == "RUN_ERROR":  # the agent had gone on: it was told, and so is the client
        await assert_logged(lane.server, end)
    else:
        assert text_of(words) == "word"
    assert count_tellings(lane.server) > told


@pytest.mark.parametrize("place", ["agent", "run", "stop"])
async def test_run_that_is_served_by_it_ends_with_an_error(
    lane: Lane, fault: Fault, place: str
) -> None:
    fault.plant(place)
    *_, end = await lane.play("t", f"run-{lane.user}", "linger")
    assert (end["type"], end["runId"]) == ("RUN_ERROR", f"run-{lane.user}")
    await assert_logged(lane.server, end)
    assert types_of(await lane.play("t", f"next-{lane.user}", "hello"))[-1] == "RUN_FINISHED"


async def test_run_that_is_found_after_a_restart_ends_although_that_breaks(
    lane: Lane, fault: Fault
) -> None:
    run_id = f"run-{lane.user}"
    async with lane.connect(hello=False) as client:
        await client.run("t", run_id, "linger")
        await client.until(lambda frame: "chunk" in frame)
        await lane.server.kill()
        await read_to_close(client)
    fault.plant("recovery")
    await lane.server.start()
    await fault.until_met()
    entry = await lane.server.wait_for_log(
        lambda entry: entry["event"] == "run_recovery_failed" and entry["run_id"] == run_id
    )
    assert UNFORESEEN in entry["chain"][-1]
    async with lane.replay(run_id) as client:
        frames, _ = await read_to_close(client)
    assert frames[-1]["chunk"]["code"] == "agent_lost"


# --- what serves the house -----------------------------------------------------------------------


async def play_often(lane: Lane) -> None:
    for _ in range(4):
        await lane.play("t", f"{lane.user}-{next(_numbers)}", "hello")


async def stop_before_another(lane: Lane) -> None:
    """Stop a run for which another one waits, and see that one to its end."""
    first, second = (f"{lane.user}-{next(_numbers)}" for _ in range(2))
    async with lane.connect() as client:
        seen = await client.subscribe(first)
        for run_id, text in ((first, "linger"), (second, "hello")):
            await client.run(first, run_id, text)
            await client.until(lambda frame: frame.get("type") == "accepted")
        await client.abort(first)
        await client.until_true(lambda: seen.has_ended(second))


async def sit_still(lane: Lane) -> None:
    del lane


HOUSE: Final[dict[str, Callable[[Lane], Awaitable[None]]]] = {
    "beat": sit_still,
    "claim": stop_before_another,
    "news": play_often,
    "pressure": sit_still,
    "requests": sit_still,
    "retention": sit_still,
    "revocations": sit_still,
    "sweep of the log": play_often,
    "watchdog": sit_still,
}


@pytest.mark.parametrize("place", HOUSE)
async def test_what_serves_the_house_is_logged_and_comes_again(
    lane: Lane, fault: Fault, place: str
) -> None:
    for _ in range(2):  # a second time, for it has gone on
        told = count_tellings(lane.server)
        fault.plant(place)
        await HOUSE[place](lane)
        await fault.until_met()
        async for _ in Looks(10):
            if count_tellings(lane.server) > told:
                break
        else:
            raise AssertionError("the log doesn't tell of it")
    assert types_of(await lane.play("t", f"run-{lane.user}", "hello"))[-1] == "RUN_FINISHED"


def count_tellings(server: Server) -> int:
    """Return how many records of the log tell a chain down to a fault."""
    return sum(UNFORESEEN in str(entry.get("chain", [""])[-1]) for entry in server.logs)


@pytest.mark.parametrize("place", ["drain", "farewell"])
async def test_shutdown_in_which_something_breaks_ends_in_order(
    lane: Lane, fault: Fault, place: str
) -> None:
    async with lane.connect() as client:
        fault.plant(place)
        stopped = await lane.server.stop()
        _, (code, _) = await read_to_close(client)
    await fault.until_met()
    assert stopped.code == 0
    assert code in ({1001} if place == "drain" else {None, 1006})  # it can't be closed: it is cut
    await lane.server.start()
