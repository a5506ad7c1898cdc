"""Thousands who come back at once: all are caught up soon, and the database hardly notices.

They live in this process: what it is late itself is part of every figure.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

import pytest
from tests.live.client import Client, Follower, is_terminal, parse_id, run_frame
from tests.live.crowd import Member, crowd
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, steps

from isolane.log.feed import QUIET_S

pytestmark = [
    pytest.mark.usefixtures("room_for_many"),
    pytest.mark.alone,
]

USERS: Final = 100
"""Each has one thread, so there are as many of these."""
FEW_EACH, MANY_EACH, SOAK_EACH = 5, 20, 50
"""Sockets of each user, all on that thread."""
EVENTS: Final = 240
"""Of the run that each thread begins with, in which everybody stands somewhere."""
LIVE_USERS: Final = 10
"""Whose thread goes on while everybody comes back."""
LIVE: Final = "count 100 every 50ms"
CAUGHT_UP_WITHIN_S: Final = 60.0
NEWCOMER_WITHIN_S: Final = 5.0
"""Of the server's own time: what it takes while they wait, whatever else the machine does."""
NEWCOMER_AT_MOST_S: Final = 30.0
"""By the clock."""
READS_EACH_MAX: Final = 4
"""For each thread, however many follow it: its bounds, its window, the run on it; besides the
looks, of which there are more where all takes longer."""
SPREAD_EACH_MAX: Final = 1
"""What of this may differ from one storm to the other, besides the looks."""
ENV: Final = {
    # Those who were cut off may not be known to be gone yet.
    "ISOLANE_LIMIT_CONNECTIONS_PER_USER": str(2 * SOAK_EACH),
    "ISOLANE_HEARTBEAT_S": "100",
}
_runs: Final = count(1)


@dataclass(frozen=True)
class Owner(Lane):
    """A user who has a thread, and signs one token for all sockets."""

    head: str = ""
    """Of the thread, as all who come back have seen it."""

    @cached_property
    def _token(self) -> str:
        return super().token

    @property
    def token(self) -> str:
        """The user's token."""
        return self._token


class Returning(Member):
    """A socket of somebody who has been here, and goes on with their thread behind `after`."""

    after = ""

    async def go_on(self, after: str, *, until_seq: int) -> None:
        """Follow the thread behind `after`; return once everything up to `until_seq` is here."""
        self.after = after
        self.send({"type": "subscribe", "threadId": "t", "after": after})
        await self.wait_for(until_seq)

    async def wait_for(self, seq: int) -> None:
        """Return once everything up to `seq` is here."""
        await self.until(lambda: self._seq >= seq, within_s=CAUGHT_UP_WITHIN_S)

    @property
    def _seq(self) -> int:
        """How far it is; not anywhere before it was answered."""
        for received in reversed(self.received):
            if received.text.startswith(b'{"id":"'):
                return parse_id(received.text[7 : received.text.index(b'"', 7)].decode())[1]
        return parse_id(self.after)[1] if self.has_frame("subscribed") else -1

    def assert_nothing_is_missing(self) -> None:
        """Fail unless every entry came once, in order, without a gap."""
        seen = Follower("t", self.after)
        frames = [received.frame for received in self.received]
        assert all(f["recovered"] for f in frames if f.get("type") == "subscribed")
        for frame in frames:
            if "chunk" in frame:
                seen.apply(frame)


class Wait(NamedTuple):
    """How long a newcomer waited for an answer: by the clock, and of the server's own time."""

    clock_s: float
    server_s: float


class Storm(NamedTuple):
    """What came of one: when the last was caught up, what was read, how newcomers fared."""

    took_s: float
    reads_each: float
    """For each thread that was followed."""
    looks_each: int
    """What of it may be followers who look into a quiet thread, at most."""
    newcomers: Sequence[Wait]

    def assert_calm(self) -> None:
        """Fail unless everybody was served in time, without many reads."""
        assert self.took_s < CAUGHT_UP_WITHIN_S
        assert max(wait.server_s for wait in self.newcomers) < NEWCOMER_WITHIN_S
        assert max(wait.clock_s for wait in self.newcomers) < NEWCOMER_AT_MOST_S
        assert self.reads_each <= READS_EACH_MAX + self.looks_each


@asynccontextmanager
async def world(data: Path) -> AsyncIterator[tuple[Server, list[Owner]]]:
    """Start a server whose users have a thread each."""
    async with own_server(data, SCRIPT, "slow=agents:slow", env=ENV) as server:
        yield server, await asyncio.gather(*(settle(Lane(server)) for _ in range(USERS)))


async def settle(lane: Lane) -> Owner:
    """Give a user a thread."""
    async with lane.connect() as client:
        seen = await client.subscribe("t")
        await client.run("t", "r", steps(["blobs", EVENTS, 20]))
        await client.until_end("r", timeout_s=CAUGHT_UP_WITHIN_S)
    return Owner(lane.server, lane.user, seen.cursor)


# --- the storms ----------------------------------------------------------------------------------


async def test_a_server_that_was_killed_is_caught_up_with_by_all_who_come_back(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as (server, owners), crowd() as members:
        await server.kill()
        await server.start()
        (await storm(owners, MANY_EACH, members)).assert_calm()


async def test_reads_grow_with_the_threads_and_not_with_those_who_come_back(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as (_, owners):
        async with crowd() as members:
            few = await storm(owners, FEW_EACH, members)
        async with crowd() as members:  # those were all cut off at once
            many = await storm(owners, MANY_EACH, members)
    few.assert_calm()
    many.assert_calm()
    assert many.reads_each - few.reads_each <= SPREAD_EACH_MAX + many.looks_each


@pytest.mark.soak
@pytest.mark.timeout(400)
async def test_five_thousand_come_back(tmp_path: Path) -> None:
    async with world(tmp_path) as (server, owners), crowd() as members:
        await server.kill()
        await server.start()
        (await storm(owners, SOAK_EACH, members)).assert_calm()


async def storm(owners: Sequence[Owner], each: int, members: list[Member]) -> Storm:
    """Let that many sockets of each user come back at once, while threads go on and others come."""
    server = owners[0].server
    before = await reads_of(server)
    began_s = monotonic()
    async with AsyncExitStack() as lives:
        live = {o.user: await lives.enter_async_context(alive(o)) for o in owners[:LIVE_USERS]}
        comers = [come_back(owner, number) for number in range(each) for owner in owners]
        coming = asyncio.gather(*comers)
        newcomers = asyncio.create_task(asyncio.to_thread(let_newcomers_in, server, coming))
        members += (back := await coming)
        took_s = monotonic() - began_s
        heads = {user: await end_of(client) for user, client in live.items()}
    for member in back:
        await member.wait_for(heads.get(member.lane.user, 0))
    waits = await newcomers
    reads_each = (await reads_of(server) - before) / (USERS + len(waits))
    done = Storm(took_s, reads_each, int((monotonic() - began_s) / QUIET_S), waits)
    for member in back:
        member.assert_nothing_is_missing()
    sys.stdout.write(
        f"\n{len(back)} back in {took_s:.1f} s, {done.reads_each:.1f} reads a thread, "
        f"{len(waits)} newcomers, {max(waits)}\n"
    )
    return done


async def come_back(owner: Owner, number: int) -> Returning:
    """Connect and go on; return once everything is here that there was before."""
    member = await Returning.join(owner, within_s=CAUGHT_UP_WITHIN_S)
    await member.go_on(place_of(owner, number), until_seq=parse_id(owner.head)[1])
    return member


def place_of(owner: Owner, number: int) -> str:
    """Return where a user's socket of that number stands: a third at either end of the thread."""
    epoch, head_seq = parse_id(owner.head)
    places = (head_seq, 1 + number * (head_seq - 1) // SOAK_EACH, 0)
    return f"{epoch}-{places[number % len(places)]}"


@asynccontextmanager
async def alive(owner: Owner) -> AsyncIterator[Client]:
    """Have a thread go on: a run is under way."""
    async with owner.connect(agent="slow") as client:
        run_id = f"live-{next(_runs)}"
        await client.run("t", run_id, LIVE)
        await client.until_event("RUN_STARTED", run_id)
        yield client


async def end_of(client: Client) -> int:
    """Return the number of the last entry of the run that is under way."""
    frames = await client.until(is_terminal, timeout_s=CAUGHT_UP_WITHIN_S)
    return parse_id(frames[-1]["id"])[1]


def let_newcomers_in(server: Server, coming: asyncio.Future[list[Returning]]) -> list[Wait]:
    """Let one new user after the other ask something, as long as others come back.

    On a loop of their own, in a thread: beside thousands on one loop they would wait for that.
    """
    waits: list[Wait] = []
    while not (waits and coming.done()):
        began_s, spent_s = monotonic(), server.cpu_s()
        asyncio.run(ask(Lane(server)))
        waits.append(Wait(monotonic() - began_s, server.cpu_s() - spent_s))
    return waits


async def ask(lane: Lane) -> None:
    """Ask something, and get the answer."""
    member = await Member.join(lane, within_s=NEWCOMER_AT_MOST_S)
    try:
        member.send(run_frame("new", "r", "hello there"))
        await member.until(
            lambda: any(b'"RUN_FINISHED"' in one.text for one in member.received),
            within_s=NEWCOMER_AT_MOST_S,
        )
    finally:
        member.leave()


async def reads_of(server: Server) -> float:
    """Return how often the logs were read so far."""
    metrics = await server.metrics()
    return metrics["isolane_log_reads_total"] + metrics["isolane_log_bounds_reads_total"]
