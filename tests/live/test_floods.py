"""One user at fifty times each published limit, beside others who keep to theirs.

The others' p99 stays within twice that of a quiet moment. Strangers, who are no user and whose
handshakes come before anybody knows that, are held to what every hostile input is held to.

Whoever is refused is told which limit it was, its value and when to come back. The others are
measured by a neighbour of their own process: in quiet, before the first flood, and beside each.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias

import httpx
import pytest
import pytest_asyncio
from tests.live.client import RECV_TIMEOUT_S, Client, Frame, connect, run_frame
from tests.live.framing import TEXT, frame, hear_close, raw_socket
from tests.live.hostile.siege import NEIGHBOUR_S, Neighbour, neighbour_of, tell
from tests.live.hostile.wire import request, wire_to
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, read_to_close, shared_server, steps
from tests.live.stopwatch import Turns
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidStatus

from isolane.settings import Settings

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.alone,
]

TIMES: Final = 50
WINDOW_S: Final = 2.0
RATIO_MAX: Final = 2.0
NOISE_S: Final = 0.02
"""What nobody sees, and a busy machine adds to either window."""
WINDOWS: Final = 3
"""The best of so many counts: whatever else the machine does only adds."""
LIMITS: Final = Settings().published_limits
FAILED: Final = "failedHandshakesPerAddress"
FAILED_MAX: Final = Settings().limit_failed_handshakes_per_address
NAMED: Final = re.compile(r"(\w+) is limited to (\d+)")

server = shared_server(SCRIPT)


class Refusal(NamedTuple):
    """What somebody is told who has too much."""

    limit: str
    value: int

    @classmethod
    def of(cls, error: Frame) -> Refusal:
        """Read it; fails unless it says when to come back."""
        assert error["code"] == "limit_exceeded", error
        assert error["retryable"] is True, error
        assert 0 < error["retryAfterMs"] <= 60_000, error
        found = NAMED.search(error.get("message") or error["detail"])
        assert found is not None, error
        return cls(found[1], int(found[2]))


Flood: TypeAlias = Callable[[Lane], Awaitable[set[Refusal]]]
Report: TypeAlias = dict[str, Any]
"""What the neighbour says: its delays, and what it found wrong."""
FLOODS: Final[dict[str, Flood]] = {}


def flood(limit: str) -> Callable[[Flood], Flood]:
    """Register what floods a limit. It ends by itself, in seconds."""

    def register(deed: Flood) -> Flood:
        FLOODS[limit] = deed
        return deed

    return register


async def ask_all(client: Client, frames: Iterable[Frame]) -> set[Refusal]:
    """Send frames as fast as they are taken, and return what was refused in the meantime."""
    refused: set[Refusal] = set()
    is_refused = asyncio.Event()

    async def send() -> None:
        for one in frames:
            await client.send(one)

    async def listen() -> None:
        while True:
            answer = await client.recv(timeout_s=60)
            if answer.get("type") == "error":
                refused.add(Refusal.of(answer))
                is_refused.set()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send()), group.create_task(listen())]
        await asyncio.sleep(WINDOW_S)  # who is refused is read slowly: that is the answer
        await asyncio.wait_for(is_refused.wait(), RECV_TIMEOUT_S)
        for task in tasks:
            task.cancel()
    return refused


@flood("framesPerMinute")
async def too_many_frames(lane: Lane) -> set[Refusal]:
    async with lane.connect() as client:
        count = TIMES * LIMITS["framesPerMinute"]
        return await ask_all(client, ({"type": "ping", "t": n} for n in range(count)))


@flood("connectionsPerUser")
async def too_many_connections(lane: Lane) -> set[Refusal]:
    count = LIMITS["connectionsPerUser"]
    refused: set[Refusal] = set()

    async def knock() -> None:
        async with lane.connect(hello=False) as client:
            frames, _ = await read_to_close(client)
            refused.update(Refusal.of(frame) for frame in frames)

    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(lane.connect())
        for _ in range(TIMES):
            await asyncio.gather(*(knock() for _ in range(count)))
    return refused


@flood("threadsPerUser")
async def too_many_threads(lane: Lane) -> set[Refusal]:
    async with lane.connect() as client:
        count = min(TIMES * LIMITS["threadsPerUser"], LIMITS["framesPerMinute"] - 10)
        return await ask_all(
            client, ({"type": "subscribe", "threadId": f"t-{n}"} for n in range(count))
        )


@flood("runsPerUser")
async def too_many_runs(lane: Lane) -> set[Refusal]:
    async with lane.connect() as client:
        count = TIMES * LIMITS["runsPerUser"]
        return await ask_all(client, (_run(lane, f"t-{n}", n) for n in range(count)))


@flood("queuedRunsPerThread")
async def too_many_queued_runs(lane: Lane) -> set[Refusal]:
    """Of the runs in all there may be five, so on one thread there are five, and four wait."""
    async with lane.connect() as client:
        count = TIMES * LIMITS["queuedRunsPerThread"]
        return await ask_all(client, (_run(lane, "t", n) for n in range(count)))


def _run(lane: Lane, thread_id: str, number: int) -> Frame:
    text = steps(["hold", "never"])
    return run_frame(thread_id, f"{lane.user}-{number}", text)


@flood("requestsPerUser")
async def too_many_requests(lane: Lane) -> set[Refusal]:
    refused: set[Refusal] = set()

    async def ask(http: httpx.AsyncClient) -> None:
        answer = await http.get("/api/threads")
        if answer.status_code != 200:
            assert answer.status_code == 429, answer.text
            refused.add(Refusal.of(answer.json()))

    async with lane.server.http(lane.token) as http:
        for _ in range(LIMITS["requestsPerUser"] // 2):
            await asyncio.gather(*(ask(http) for _ in range(2 * TIMES)))
    return refused


@flood("frameBytes")
async def too_large_frames(lane: Lane) -> set[Refusal]:
    """It has a code and a close of its own: `too_large`, 1009."""
    for _ in range(3):
        async with raw_socket(lane.server.port, lane.token) as own:
            with suppress(OSError):
                await own.send(frame(TEXT, b" " * TIMES * LIMITS["frameBytes"]))
            assert (await hear_close(own, []) or "1009").startswith("1009")
    return set()


@flood("requestBytes")
async def too_large_bodies(lane: Lane) -> set[Refusal]:
    """It has a code of its own, `too_large`, and is said before the body is read."""
    length = f"Content-Length: {TIMES * LIMITS['requestBytes']}"
    head = request("POST /agui", f"Authorization: Bearer {lane.token}", length)
    for _ in range(TIMES):
        async with wire_to(lane.server.port) as wire:
            await wire.push(head)
            assert await wire.status() == "413"
    return set()


@flood("chatFrameBytes")
async def too_large_chat_frames(lane: Lane) -> set[Refusal]:
    """It closes with 1009, as soon as the frame says how long it is."""
    said = TIMES * LIMITS["chatFrameBytes"]
    for _ in range(TIMES):
        async with wire_to(lane.server.port) as wire:
            token = f"Authorization: Bearer {lane.token}"
            assert await wire.upgrade(token, path="/ai/chat") == "101"
            await wire.push(frame(TEXT, b" " * 65536, length=said))
            assert await wire.end() == "1009"
    return set()


@flood("eventBytes")
async def too_large_events(lane: Lane) -> set[Refusal]:
    """What an agent says too much ends its run: `agent_protocol`."""
    for number in range(TIMES // 2):
        text = steps(["blobs", 1, 2 * LIMITS["eventBytes"]])
        *_, end = await lane.play("t", f"{lane.user}-{number}", text)
        assert end["code"] == "agent_protocol", end
    return set()


@flood(FAILED)
async def too_many_strangers(lane: Lane) -> set[Refusal]:
    refused: set[Refusal] = set()

    async def knock(http: httpx.AsyncClient) -> int:
        answer = await http.get("/ws", headers={**UPGRADE, "Authorization": "Bearer nobody.s.own"})
        if answer.status_code != 401:
            assert answer.status_code == 429, answer.text
            refused.add(Refusal.of(answer.json()))
        return answer.status_code

    async with lane.server.http() as http:
        rounds, answers = 0, [401]
        # And on until all are refused, for the minute may have begun anew.
        while rounds * TIMES < 2 * FAILED_MAX or set(answers) != {429}:
            assert rounds * TIMES < 4 * FAILED_MAX, "nobody is refused"
            answers = await asyncio.gather(*(knock(http) for _ in range(TIMES)))
            rounds += 1
    with pytest.raises(InvalidStatus) as caught:
        await connect_as("nobody", lane.server)
    assert caught.value.response.status_code == 429
    async with connect(lane.server.websocket_url(), "nobody.s.own", hello=False) as client:
        frames, close = await read_to_close(client)
    assert close == (4429, "limit_exceeded")
    refused.update(map(Refusal.of, frames))
    # Who has a good credential is let in from the same address.
    await lane.play("t", lane.user, "word")
    return refused


UPGRADE: Final = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}


async def connect_as(token: str, one: Server) -> None:
    """Upgrade without our subprotocol: a refusal is a status then."""
    headers = {"Authorization": f"Bearer {token}"}
    async with open_websocket(one.websocket_url(), additional_headers=headers, proxy=None):
        pass


# --- what the others see -------------------------------------------------------------------------

EXPECTED: Final[dict[str, set[Refusal]]] = {
    "framesPerMinute": {Refusal("framesPerMinute", LIMITS["framesPerMinute"])},
    "connectionsPerUser": {Refusal("connectionsPerUser", LIMITS["connectionsPerUser"])},
    "threadsPerUser": {Refusal("threadsPerUser", LIMITS["threadsPerUser"])},
    "runsPerUser": {Refusal("runsPerUser", LIMITS["runsPerUser"])},
    "queuedRunsPerThread": {Refusal("runsPerUser", LIMITS["runsPerUser"])},
    "requestsPerUser": {Refusal("requestsPerUser", LIMITS["requestsPerUser"])},
    "frameBytes": set(),
    "requestBytes": set(),
    "chatFrameBytes": set(),
    "eventBytes": set(),
    FAILED: {Refusal(FAILED, FAILED_MAX)},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neighbour(server: Server) -> AsyncIterator[Neighbour]:
    async with neighbour_of(server) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def quiet(server: Server, neighbour: Neighbour) -> Report:
    """How the neighbour fares when nobody floods anything."""
    return (await watch(server, neighbour, rest))[0]


async def test_every_published_limit_is_flooded() -> None:
    """But the send timeout, a deadline, a run's bounds, which end it, and quotas of what is kept.

    `test_slow_readers.py`, `test_runs.py` and `test_quotas.py` have those.
    """
    elsewhere = {"sendTimeoutMs", "runBytes", "runEvents"}
    elsewhere |= {"storedThreadsPerUser", "storedBytesPerUser"}
    assert set(FLOODS) == set(EXPECTED) == {*LIMITS, FAILED} - elsewhere


@pytest.mark.parametrize("limit", FLOODS)
async def test_one_user_at_fifty_times_a_limit_is_told_and_nobody_notices(
    server: Server, neighbour: Neighbour, quiet: Report, limit: str
) -> None:
    for window in range(WINDOWS):
        if window:  # what was quiet a minute ago need not be so now
            quiet, _, _ = await watch(server, neighbour, rest)
        flooded, refused, stretch = await watch(server, neighbour, FLOODS[limit])
        assert refused == EXPECTED[limit]
        for report in (quiet, flooded):
            assert not report["troubles"]
            assert not report["lost"]
        most_s = NEIGHBOUR_S if limit == FAILED else RATIO_MAX * quiet["p99_s"] + NOISE_S
        bound = most_s * stretch + flooded["control_p99_s"]
        tell(f"{limit}: p99 {flooded['p99_s']:.4f} s, quiet {quiet['p99_s']:.4f}, x{stretch:.2f}")
        if flooded["p99_s"] < bound:
            return
        assert window < WINDOWS - 1, (quiet, flooded, stretch)


async def rest(lane: Lane) -> set[Refusal]:
    """Let a window pass in quiet."""
    del lane
    await asyncio.sleep(WINDOW_S)
    return set()


async def watch(
    one: Server, neighbour: Neighbour, deed: Flood
) -> tuple[Report, set[Refusal], float]:
    """Return how the neighbour fared meanwhile, what the deed brought, and the server's stretch."""
    turns, refused, until = Turns.of_main(one.pid), set[Refusal](), monotonic() + WINDOW_S
    await neighbour.begin()
    try:
        while monotonic() < until:
            refused |= await deed(Lane(one))
    finally:
        report = await neighbour.report()
    return report, refused, turns.stretch(Turns.of_main(one.pid))
