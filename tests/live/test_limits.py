"""Limits in a rush: a slot is taken before anything is waited for, so none is given away twice.

Each rush comes again and again at the same server: a slot that is lost, or given back twice, is
missing or too many in the next round.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import httpx
import pytest
from tests.live.client import RECV_TIMEOUT_S, TERMINAL, Client, Follower, Frame, parse_id, run_frame
from tests.live.event_stream import EventStream
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, read_to_close, shared_server, steps
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUNDS: Final = 20
RUSH: Final = 25
CONNECTIONS: Final = 20
RUNS: Final = 5
THREADS: Final = 5
SAID: Final = "one two three "

MANY_FRAMES: Final = {"ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000"}
server = shared_server(SCRIPT, env={**MANY_FRAMES, "ISOLANE_LIMIT_THREADS_PER_USER": "1000"})
narrow_server = shared_server(
    SCRIPT,
    env={
        **MANY_FRAMES,
        "ISOLANE_LIMIT_THREADS_PER_USER": str(THREADS),
        "ISOLANE_LIMIT_CONNECTIONS_PER_USER": str(RUSH + 1),
    },
)


def assert_limited(error: Frame, limit: str, most: int) -> None:
    """Fail unless the frame refuses for this limit, with its value and when to come back."""
    assert (error["type"], error["code"]) == ("error", "limit_exceeded"), error
    assert {limit, str(most)} <= set(error["message"].split()), error
    assert (error["retryable"], error["retryAfterMs"] > 0) == (True, True), error


def of_type(frames: Sequence[Frame], kind: str) -> list[Frame]:
    """Return the frames of a type."""
    return [frame for frame in frames if frame["type"] == kind]


async def ask_all(client: Client, frames: Sequence[Frame]) -> list[Frame]:
    """Send frames, then one that changes nothing; return what was said before its answer came."""
    for frame in [*frames, {"type": "unsubscribe", "threadId": "fence"}]:
        await client.send(frame)
    came = await client.until(lambda frame: frame.get("type") == "unsubscribed")
    return [frame for frame in came if frame.get("type") in {"accepted", "subscribed", "error"}]


@asynccontextmanager
async def devices(lane: Lane, count: int) -> AsyncIterator[list[Client]]:
    """Open that many sockets of one user."""
    async with AsyncExitStack() as stack:
        opening = (stack.enter_async_context(lane.connect()) for _ in range(count))
        yield await asyncio.gather(*opening)


# --- connections ---------------------------------------------------------------------------------


async def knock(stack: AsyncExitStack, lane: Lane) -> tuple[Client, Frame]:
    """Connect and greet, and return the socket with the first frame that it got."""
    client = await stack.enter_async_context(lane.connect(hello=False))
    with suppress(ConnectionClosed):  # who is refused may have heard so already
        await client.send({"type": "hello", "v": 1})
    return client, await client.recv()


async def storm_the_door(lane: Lane) -> None:
    """Come with twice as many sockets as may be at once; some of those let in go without a word."""
    async with AsyncExitStack() as stack:
        answers = await asyncio.gather(*(knock(stack, lane) for _ in range(2 * CONNECTIONS)))
        admitted = [client for client, frame in answers if frame["type"] == "welcome"]
        refused = [(client, frame) for client, frame in answers if frame["type"] != "welcome"]
        assert (len(admitted), len(refused)) == (CONNECTIONS, CONNECTIONS)
        for client, error in refused:
            assert_limited(error, "connectionsPerUser", CONNECTIONS)
            assert await read_to_close(client) == ([], (4429, "limit_exceeded"))
        said = await asyncio.gather(*(ask_all(client, []) for client in admitted))
        assert said == [[]] * CONNECTIONS
        for client in admitted[::4]:
            client.socket.transport.abort()


async def test_of_many_sockets_at_once_exactly_as_many_as_allowed_get_in(server: Server) -> None:
    lane, baseline = Lane(server), await server.gauges()
    for _ in range(ROUNDS):
        await storm_the_door(lane)
        await server.wait_for_gauges(baseline)


# --- threads -------------------------------------------------------------------------------------


async def open_threads(client: Client, threads: Sequence[str]) -> list[Frame]:
    """Subscribe to threads and return the errors; those that opened get their followers."""
    answers = await ask_all(client, [{"type": "subscribe", "threadId": name} for name in threads])
    assert [answer["threadId"] for answer in answers] == list(threads)  # one each, none later
    for answer in of_type(answers, "subscribed"):
        epoch, _ = parse_id(answer["head"])
        client.followers[answer["threadId"]] = Follower(answer["threadId"], f"{epoch}-0")
    return of_type(answers, "error")


async def watch_to_the_end(client: Client) -> None:
    """Follow a run on each of a socket's threads: nothing is missing, and nothing refused now."""
    followers = client.followers.values()
    while not all(follower.has_ended(f"run-{follower.thread_id}") for follower in followers):
        frame = await client.recv()
        assert frame.get("type") in {None, "thread", "accepted"}, frame
    assert [follower.text for follower in followers] == [SAID] * len(followers)
    assert await ask_all(client, []) == []


async def storm_the_threads(lane: Lane, number: int, *, sockets: int) -> None:
    """Subscribe to far more threads than may be open, then run on each that was opened."""
    threads = [f"t-{number}-{place}" for place in range(RUSH)]
    async with devices(lane, sockets) as clients, lane.connect() as starter:
        shares = [threads[place::sockets] for place in range(sockets)]
        answers = await asyncio.gather(*map(open_threads, clients, shares))
        errors = [error for some in answers for error in some]
        opened = [thread for client in clients for thread in client.followers]
        assert (len(opened), len(errors)) == (THREADS, RUSH - THREADS)
        for error in errors:
            assert_limited(error, "threadsPerUser", THREADS)
        for thread in opened:  # from another socket, so the subscription alone feeds its own
            starter.followers[thread] = Follower(thread, "0-0")
            await starter.run(thread, f"run-{thread}", SAID)
        await asyncio.gather(*map(watch_to_the_end, [*clients, starter]))


async def test_of_many_subscribes_at_once_exactly_as_many_as_allowed_open_and_stay_open(
    narrow_server: Server,
) -> None:
    lane, baseline = Lane(narrow_server), await narrow_server.gauges()
    for number in range(ROUNDS):
        await storm_the_threads(lane, number, sockets=RUSH if number % 2 else 5)
        await narrow_server.wait_for_gauges(baseline)


# --- runs ----------------------------------------------------------------------------------------


async def start_runs(client: Client, runs: Sequence[Frame]) -> list[Frame]:
    """Send run frames and return the errors; the followers keep what comes of each thread."""
    client.followers |= {run["threadId"]: Follower(run["threadId"], "0-0") for run in runs}
    answers = await ask_all(client, runs)
    assert [answer["runId"] for answer in answers] == [run["runId"] for run in runs]
    for error in of_type(answers, "error"):
        assert not client.followers.pop(error["threadId"]).envelopes
    started = of_type(answers, "accepted")
    assert {answer["disposition"] for answer in started} <= {"started"}
    return of_type(answers, "error")


async def storm_the_runs(lane: Lane, clients: Sequence[Client], number: int) -> None:
    """Start far more runs than may be, each on a thread of its own, and let the few end."""
    gate = f"{lane.user} {number}"
    held = steps(["hold", gate], ["say", SAID])
    runs = [run_frame(f"t-{number}-{n}", f"run-t-{number}-{n}", held) for n in range(RUSH)]
    for client in clients:
        client.followers.clear()
    shares = [runs[place :: len(clients)] for place in range(len(clients))]
    answers = await asyncio.gather(*map(start_runs, clients, shares))
    errors = [error for some in answers for error in some]
    started = [thread for client in clients for thread in client.followers]
    assert (len(started), len(errors)) == (RUNS, RUSH - RUNS)
    for error in errors:
        assert_limited(error, "runsPerUser", RUNS)
    await lane.open_gate(gate)
    await asyncio.gather(*map(watch_to_the_end, clients))


async def test_of_many_runs_at_once_exactly_as_many_as_allowed_start_and_all_end(
    server: Server,
) -> None:
    lane, baseline = Lane(server), await server.gauges()
    async with devices(lane, 5) as clients:
        for number in range(ROUNDS):  # who has seen the end of a run may start the next at once
            await storm_the_runs(lane, clients, number)
    await server.wait_for_gauges(baseline)


async def post_run(stack: AsyncExitStack, http: httpx.AsyncClient, run: Frame) -> httpx.Response:
    """Ask for a run over HTTP and return the answer's head; an event stream stays open."""
    request = http.build_request("POST", "/agui", json=run, timeout=RECV_TIMEOUT_S)
    response = await http.send(request, stream=True)
    stack.push_async_callback(response.aclose)
    return response


async def assert_refused(response: httpx.Response) -> None:
    """Fail unless the answer refuses for the limit of runs."""
    problem: dict[str, Any] = json.loads(await response.aread())
    assert (response.status_code, problem["code"]) == (429, "limit_exceeded"), problem
    assert {"runsPerUser", str(RUNS)} <= set(problem["detail"].split()), problem


async def storm_both_doors(
    lane: Lane, http: httpx.AsyncClient, client: Client, number: int, *, by_socket: int
) -> None:
    """Hold some runs by a socket and rush for the rest over HTTP; then neither takes one more."""
    gate = f"{lane.user} {number}"
    held = steps(["hold", gate], ["say", SAID])
    runs = [run_frame(f"t-{number}-{n}", f"run-t-{number}-{n}", held) for n in range(RUSH)]
    client.followers.clear()
    async with AsyncExitStack() as stack:
        assert await start_runs(client, runs[:by_socket]) == []
        rush = runs[by_socket : by_socket + 2 * RUNS]
        responses = await asyncio.gather(*(post_run(stack, http, run) for run in rush))
        taken = [response for response in responses if response.is_success]
        assert len(taken) == RUNS - by_socket
        for response in responses:
            if response not in taken:
                await assert_refused(response)
        (error,) = await start_runs(client, runs[-1:])
        assert_limited(error, "runsPerUser", RUNS)
        await lane.open_gate(gate)
        await watch_to_the_end(client)
        for response in taken:
            *_, end = await EventStream(response, response.aiter_lines()).rest()
            assert end.event["type"] in TERMINAL


@pytest.mark.parametrize("by_socket", [0, 3, RUNS])
async def test_runs_over_http_and_by_socket_have_one_limit(server: Server, by_socket: int) -> None:
    lane, baseline = Lane(server), await server.gauges()
    async with lane.connect() as client, server.http(lane.token) as http:
        for number in range(5):
            await storm_both_doors(lane, http, client, number, by_socket=by_socket)
    await server.wait_for_gauges(baseline)


# --- whose limit it is ---------------------------------------------------------------------------


async def test_users_who_rush_at_once_have_a_limit_of_connections_each(server: Server) -> None:
    lanes, baseline = [Lane(server), Lane(server)], await server.gauges()
    for _ in range(3):
        await asyncio.gather(*map(storm_the_door, lanes))
        await server.wait_for_gauges(baseline)


async def test_users_who_rush_at_once_have_a_limit_of_threads_each(narrow_server: Server) -> None:
    lanes, baseline = [Lane(narrow_server), Lane(narrow_server)], await narrow_server.gauges()
    for number in range(3):
        storms = (storm_the_threads(lane, number, sockets=5) for lane in lanes)
        await asyncio.gather(*storms)
        await narrow_server.wait_for_gauges(baseline)


async def test_users_who_rush_at_once_have_a_limit_of_runs_each(server: Server) -> None:
    lanes, baseline = [Lane(server), Lane(server)], await server.gauges()
    async with devices(lanes[0], 5) as some, devices(lanes[1], 5) as others:
        for number in range(3):
            storms = map(storm_the_runs, lanes, [some, others], [number, number])
            await asyncio.gather(*storms)
    await server.wait_for_gauges(baseline)
