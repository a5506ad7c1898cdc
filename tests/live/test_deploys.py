"""A deploy is not noticed: what SIGTERM sets in motion, and many deploys under load."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from time import monotonic
from typing import Any, Final

import pytest
from tests.live.client import RECV_TIMEOUT_S, TERMINAL, Client, Follower
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, steps
from websockets.exceptions import ConnectionClosed, WebSocketException

from isolane.sockets.registry import BYE_PAUSE_S

PATIENT: Final = {"ISOLANE_DRAIN_TIMEOUT_S": "50"}


async def stop_twice(server: Server, client: Client) -> Any:  # noqa: ANN401 - how it stopped
    """Ask it to end, and again once it drains."""
    stopping = asyncio.create_task(server.stop())
    await client.until_type("draining")
    server.send_signal(signal.SIGTERM)
    return await stopping


@pytest.mark.parametrize("held", [["hold", "never"], ["deaf"]], ids=["kind", "deaf"])
async def test_a_second_sigterm_hurries_and_still_leaves_no_run_without_an_end(
    tmp_path: Path, held: list[str]
) -> None:
    async with own_server(tmp_path, SCRIPT, env=PATIENT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            follower = await client.subscribe("t")
            await client.run("t", "r-1", steps(["say", "1 "], held))
            await client.run("t", "r-2", steps(["say", "2 "]))
            await client.until(lambda frame: frame.get("disposition") == "queued")
            await client.until_true(lambda: bool(follower.text))
            stopped = await stop_twice(server, client)
            assert await client.closed() == (1001, "going_away")
        # The time that an agent has which ignores the stop, and a goodbye: nothing of the 50 s.
        assert (stopped.code, stopped.duration_s < 20) == (0, True)
        assert follower.events[-1]["code"] == "going_away"
        await server.start()
        async with lane.connect() as client:
            await client.follow(follower)
            await client.until_true(lambda: follower.has_ended("r-2"))
    ends = [event["type"] for event in follower.events if event["type"] in TERMINAL]
    assert ends == ["RUN_ERROR", "RUN_FINISHED"]


CROWD: Final = 250
BATCH: Final = 100
CLOCKS_S: Final = 0.02
"""What the clock of pauses and that of the log may differ by."""


async def test_sockets_close_in_batches_with_time_between(tmp_path: Path) -> None:
    """By the server's own clock: it is the one that must wait between them."""
    env = {"ISOLANE_LIMIT_CONNECTIONS_PER_USER": str(CROWD)}
    async with own_server(tmp_path, SCRIPT, env=env) as server, AsyncExitStack() as stack:
        lane = Lane(server)
        opening = (stack.enter_async_context(lane.connect()) for _ in range(CROWD))
        clients = await asyncio.gather(*opening)
        stopped = await server.stop()
        closes = await asyncio.gather(*(client.closed() for client in clients))
    assert set(closes) == {(1001, "going_away")}
    assert stopped.code == 0
    (began,) = times_of(server, "draining")
    gone_at = times_of(server, "disconnected")
    assert len(gone_at) == CROWD
    # From before the first pause: whatever else holds the server up only adds to it.
    waited_s = [(first - began).total_seconds() for first in gone_at[::BATCH]]
    assert all(s > number * BYE_PAUSE_S - CLOCKS_S for number, s in enumerate(waited_s)), waited_s


def times_of(server: Server, event: str) -> list[datetime]:
    """Return when the server logged these events, in order."""
    told = (entry["timestamp"] for entry in server.logs if entry["event"] == event)
    return sorted(datetime.fromisoformat(timestamp) for timestamp in told)


# --- many of them --------------------------------------------------------------------------------

RESTARTS: Final = 5
SOAK_RESTARTS: Final = 20
USERS: Final = 8
BACK_S: Final = 5.0
"""What clients may need beyond the restart itself, to notice and to come back."""
RETRY_S: Final = 0.05
GOODBYES: Final = (OSError, TimeoutError, WebSocketException)


@dataclass
class Traveller:
    """A client that comes back whenever it is put out, and always has a run under way."""

    lane: Lane
    thread_id: str
    follower: Follower | None = None
    asked: list[str] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    stalls: list[float] = field(default_factory=list)
    is_leaving: bool = False

    async def travel(self) -> None:
        """Go on until it is told to leave and its last run has ended."""
        lost_at: float | None = None
        while not self._is_done():
            try:
                async with self.lane.connect() as client:
                    self.follower = await self._follow(client)
                    if lost_at is not None:
                        self.stalls.append(monotonic() - lost_at)
                        lost_at = None
                    await self._converse(client)
            except GOODBYES:
                lost_at = lost_at or monotonic()
                await asyncio.sleep(RETRY_S)  # as clients do between two tries

    async def _follow(self, client: Client) -> Follower:
        if self.follower is None:
            return await client.subscribe(self.thread_id)
        await client.follow(self.follower)
        return self.follower

    async def _converse(self, client: Client) -> None:
        """Ask again as soon as there is an answer; what was not accepted is asked again."""
        while not self._is_done():
            if not self.asked or self._has_ended(self.asked[-1]):
                self.asked.append(f"{self.thread_id}-{len(self.asked)}")
            if self.asked[-1] not in self.accepted:
                await client.run(self.thread_id, self.asked[-1], "count 20 every 40ms")
            await self._listen(client, self.asked[-1])

    async def _listen(self, client: Client, run_id: str) -> None:
        while not self._has_ended(run_id):
            frame = await client.recv(timeout_s=RECV_TIMEOUT_S)
            if frame.get("type") == "accepted":
                self.accepted.add(frame["runId"])
            elif frame.get("type") == "error":  # it drains: the close is on its way
                assert frame["code"] == "unavailable", frame
                await client.closed()
                raise ConnectionClosed(None, None)

    def _has_ended(self, run_id: str) -> bool:
        return self.follower is not None and self.follower.has_ended(run_id)

    def _is_done(self) -> bool:
        return self.is_leaving and bool(self.asked) and self._has_ended(self.asked[-1])

    def progress(self) -> int:
        """Return how many events it has."""
        return 0 if self.follower is None else len(self.follower.envelopes)


async def until_all_moved(travellers: Sequence[Traveller], *, within_s: float = 60.0) -> None:
    """Return once each has got something that it hadn't."""
    before = [traveller.progress() for traveller in travellers]
    deadline = monotonic() + within_s
    while any(one.progress() <= had for one, had in zip(travellers, before, strict=True)):
        assert monotonic() < deadline, "a client stands still"
        await asyncio.sleep(RETRY_S)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "restarts", [RESTARTS, pytest.param(SOAK_RESTARTS, marks=pytest.mark.soak)]
)
async def test_restarts_under_load_lose_and_double_nothing(tmp_path: Path, restarts: int) -> None:
    env = {"ISOLANE_DRAIN_TIMEOUT_S": "0.5"}
    async with own_server(tmp_path, "slow=agents:slow", env=env) as server:
        travellers = [Traveller(Lane(server), f"t-{number}") for number in range(USERS)]
        restarts_s: list[float] = []
        async with asyncio.TaskGroup() as group:
            for traveller in travellers:
                group.create_task(traveller.travel())
            for _ in range(restarts):
                await until_all_moved(travellers)
                began = monotonic()
                stopped = await server.restart()
                restarts_s.append(monotonic() - began)
                assert stopped.code == 0
            await until_all_moved(travellers)
            for traveller in travellers:
                traveller.is_leaving = True
        for traveller in travellers:
            await judge(traveller)
    stalls = [stall for traveller in travellers for stall in traveller.stalls]
    assert len(stalls) >= restarts * USERS
    p99 = quantiles(stalls, n=100)[98]
    longest_s = max(restarts_s)
    print(f"stalls: p99 {p99:.2f} s, worst {max(stalls):.2f} s; restarts: {longest_s:.2f} s")  # noqa: T201
    assert max(stalls) < longest_s + BACK_S


async def judge(traveller: Traveller) -> None:
    """Fail unless it has the whole log, each event once, and each run one end in order."""
    follower = traveller.follower
    assert follower is not None
    assert (await traveller.lane.load_log(traveller.thread_id)).envelopes == follower.envelopes
    for run_id in traveller.asked:
        ends = [event for event in follower.of_run(run_id) if event["type"] in TERMINAL]
        assert len(ends) == 1, (run_id, ends)
        # The server was told each time that it should end, so no run is one that it lost.
        assert ends[0].get("code") in {None, "going_away"}, ends
