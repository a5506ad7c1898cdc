"""After a storm all is as it was, and however many are connected, one more costs the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, kept_events, own_server, steps
from tests.live.tcp import drop

pytestmark = pytest.mark.alone

MESSAGES = 500
LINE = 5

WARM_UP = 200
WARM_UP_AT_ONCE = 30
CYCLES = 1000
AT_ONCE = 10
QUIET_WITHIN_S = 2.0
MEMORY_GROWTH_MAX = 1.05

FEW, SOME, MANY = 200, 1000, 2000
PER_USER = 20
BATCH = 100
BATCHES = 8
MEMORY_EACH_GROWTH_MAX = 1.25
COST_GROWTH_MAX = 1.5
IDLE = {"ISOLANE_HEARTBEAT_S": "3600"}
"""No heartbeat falls into what is measured: it costs by the second, not by the connection."""


# --- one connection ------------------------------------------------------------------------------


async def test_hundreds_of_messages_on_one_connection_meet_one_manager(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        baseline = await server.gauges()
        lane = Lane(server)
        async with lane.connect() as client:
            await client.subscribe("t")
            between_runs = await server.gauges()
            assert between_runs["isolane_managers"] == 1
            await lane.finish(client, "t", "r-1", "first")
            await server.wait_for_gauges(between_runs, within_s=QUIET_WITHIN_S)
            for number in range(2, MESSAGES + 1):
                await lane.finish(client, "t", f"r-{number}", "next")
            assert (await server.gauges())["isolane_managers"] == 1
            await server.wait_for_gauges(between_runs, within_s=QUIET_WITHIN_S)
        await server.wait_for_gauges(baseline, within_s=QUIET_WITHIN_S)


async def test_messages_that_wait_in_line_share_one_manager(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        baseline = await server.gauges()
        lane = Lane(server)
        async with lane.connect() as client:
            await client.run("t", "r-0", steps(["hold", "line"]))
            for number in range(1, LINE):
                await client.run("t", f"r-{number}", "next")
            last = f"r-{LINE - 1}"
            await client.until(lambda f: f.get("type") == "accepted" and f.get("runId") == last)
            assert (await server.gauges())["isolane_managers"] == 1
            await lane.open_gate("line")
            await client.until_end(last)
        await server.wait_for_gauges(baseline, within_s=QUIET_WITHIN_S)


# --- a storm -------------------------------------------------------------------------------------


async def test_after_a_thousand_connections_all_is_as_it_was(tmp_path: Path) -> None:
    env = {
        "ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000",
        "ISOLANE_LIMIT_RUNS_PER_USER": str(WARM_UP_AT_ONCE * 2),
        "ISOLANE_LIMIT_QUEUED_RUNS_PER_THREAD": str(WARM_UP_AT_ONCE * 2),
        # What is said on and on in one thread takes memory too, and that is not what is asked.
        **kept_events(250),
    }
    async with own_server(tmp_path / "data", "slow=agents:slow", env=env) as server:
        baseline = await server.gauges()
        # The first connections bring imports, database threads and caches that stay. More of them
        # at once than later, so that the heap has room for whatever meets by chance.
        await storm(server, range(WARM_UP), at_once=WARM_UP_AT_ONCE)
        await server.wait_for_gauges(baseline, within_s=QUIET_WITHIN_S)
        open_before, early_kib = server.descriptors(), server.resident_kib()
        await storm(server, range(WARM_UP, WARM_UP + CYCLES), at_once=AT_ONCE)
        await server.wait_for_gauges(baseline, within_s=QUIET_WITHIN_S)
        await server.wait_for_descriptors(open_before, within_s=QUIET_WITHIN_S)
        assert server.resident_kib() <= early_kib * MEMORY_GROWTH_MAX


async def storm(server: Server, numbers: Iterable[int], *, at_once: int) -> None:
    """Go through as many cycles as there are numbers."""
    waiting = iter(numbers)

    async def take_turns() -> None:
        for number in waiting:
            await cycle(server, number)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(take_turns())


async def cycle(server: Server, number: int) -> None:
    """Connect, run and drop; the number says who, where, when and how, in every combination."""
    is_regular = number % 2
    lane = Lane(server, f"regular-{number // 2 % 2}") if is_regular else Lane(server)
    async with lane.connect() as client:
        run_id = f"r-{number}"
        await client.run(f"t-{number // 4 % 2}", run_id, "count 12 every 2ms")
        if number // 8 % 2:
            await client.until_event("TEXT_MESSAGE_CONTENT", run_id)
        else:
            await client.until_end(run_id)
        if number % 3 == 0:
            drop(client.socket.transport, is_reset=number // 16 % 2 == 0)


# --- a crowd -------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.usefixtures("room_for_many")
async def test_memory_grows_by_the_same_for_each_idle_connection(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT, env=IDLE) as server:
        baseline = await server.gauges()
        kib: dict[int, int] = {}
        async with AsyncExitStack() as crowd:
            for held, wanted in ((0, FEW), (FEW, SOME), (SOME, MANY)):
                await join(crowd, server, range(held, wanted))
                kib[wanted] = server.resident_kib()
            assert (await server.gauges())["isolane_connections"] == MANY
        early_each = (kib[SOME] - kib[FEW]) / (SOME - FEW)
        late_each = (kib[MANY] - kib[SOME]) / (MANY - SOME)
        assert late_each <= early_each * MEMORY_EACH_GROWTH_MAX, kib
        await server.wait_for_gauges(baseline, within_s=QUIET_WITHIN_S)


@pytest.mark.soak
@pytest.mark.usefixtures("room_for_many")
async def test_a_connection_costs_no_more_among_many_than_among_few(tmp_path: Path) -> None:
    async with (
        own_server(tmp_path / "few", SCRIPT, env=IDLE) as few,
        own_server(tmp_path / "many", SCRIPT, env=IDLE) as many,
        AsyncExitStack() as crowd,
    ):
        await join(crowd, few, range(FEW))
        await join(crowd, many, range(MANY))
        # They take turns, so that whatever else the machine does strikes both; and the least of
        # several counts, for noise and garbage collections only add.
        costs = [(await cost_of_batch(few), await cost_of_batch(many)) for _ in range(BATCHES)]
        assert (await many.gauges())["isolane_connections"] == MANY
    among_few_s, among_many_s = map(min, zip(*costs, strict=True))
    assert among_many_s <= among_few_s * COST_GROWTH_MAX


async def join(crowd: AsyncExitStack, server: Server, numbers: Iterable[int]) -> None:
    """Open a connection for each number, `PER_USER` to a user, and leave them idle."""
    for number in numbers:
        lane = Lane(server, f"idle-{number // PER_USER}")
        await crowd.enter_async_context(lane.connect())


async def cost_of_batch(server: Server) -> float:
    """Return the CPU time that the server takes to let `BATCH` connections in and out."""
    lanes = [Lane(server) for _ in range(BATCH // PER_USER)]
    began_s = server.cpu_s()
    async with AsyncExitStack() as batch:
        for number in range(BATCH):
            await batch.enter_async_context(lanes[number // PER_USER].connect())
    return server.cpu_s() - began_s
