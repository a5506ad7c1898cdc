"""An hour of churn with faults: nothing is lost, nothing is doubled, and nothing stays.

Users come, ask, are cut off, come back, stop, delete and go, while the server is frozen, locked out
of its database, flooded and lied to. Most of it is one long life of a process, whose memory is
watched; then comes a hard life of kills and restarts.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from time import monotonic
from typing import Any, Final, NamedTuple

import pytest
from tests.live.churn.faults import HARD_LIFE, LONG_LIFE, Fault, befall
from tests.live.churn.visits import cut_now_and_then, live
from tests.live.churn.world import Person, World
from tests.live.proxy import proxy_to
from tests.live.server import POLL_S, Server, ServerError
from tests.live.stage import Lane, kept_events, own_server, text_of

# ruff: noqa: S311 - chance that can be repeated from its seed, no secrets

SOAK_S: Final = float(os.environ.get("ISOLANE_SOAK_S", "3600"))
"""Seconds of churn; the environment may ask for less."""
SEED: Final = int(os.environ.get("ISOLANE_SOAK_SEED", random.randrange(1 << 32)))
"""Draws all that chance decides; the environment may ask for the same again."""
USERS: Final = 12
WARM_UP_SHARE, LONG_SHARE, HARD_SHARE = 0.1, 0.6, 0.3
SETTINGS: Final = {
    "ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000",
    # A thread is trimmed now and then, but never what somebody may come back to.
    **kept_events(1000),
    "ISOLANE_HEARTBEAT_S": "2",
    "ISOLANE_SEND_TIMEOUT_S": "2",
}
LOST_WITH_THE_PROCESS: Final = frozenset({"agent_lost", "going_away"})
EXPECTED_ERRORS: Final = {
    ("run_failed", "agent_error"),
    ("run_failed", "agent_lost"),
    ("event_loop_blocked", None),  # it was frozen, or the machine has other things to do
}
"""What the server may say of itself: event and code."""
QUIET_WITHIN_S: Final = 10.0
"""The last agents that hear nothing take 5 s of it; the promise's 2 s are `test_quiet.py`'s."""
STEADY_LOOKS: Final = 10
TOLD_EVERY_S: Final = 60.0
SAMPLED_EVERY_S: Final = 1.0
WINDOWS: Final = 60
"""Of the long life, each of which gives the least that was held in it."""
SETTLED_AFTER_H: Final = 0.5
"""What is watched for less says how the heap settles, and nothing of leaks."""
GROWTH_MAX_KIB_PER_HOUR: Final = 10_000
"""For what is too large to be counted in blocks, over 512 bytes: as much left behind by every run,
6 a second, would be more. It can't be less, for the heap takes steps of some MiB."""
BLOCKS_A_RUN_MAX: Final = 0.25
"""100 bytes that every run leaves behind are a block for each of them, or more."""
BLOCKS_NOISE: Final = 2000
"""What caches come and go by, however long it takes."""
MEMORY_GROWTH_MAX: Final = 1.25
AGENTS: Final = ("actor=churn.agents:actor", "weigher=churn.agents:weigher")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SOAK_S * 1.2 + 300)]


class Held(NamedTuple):
    """What a process holds that nobody is connected to."""

    gauges: dict[str, float]
    descriptors: Counter[str]
    resident_kib: int
    blocks: int
    """Of memory, as Python counts what small objects take, whatever the heap holds beside."""

    def __str__(self) -> str:
        """Return it as people read it."""
        gauges = {name.removeprefix("isolane_"): int(value) for name, value in self.gauges.items()}
        opened = dict(sorted(self.descriptors.items()))
        memory = f"{self.resident_kib} KiB, {self.blocks} blocks"
        return f"{gauges}, descriptors {opened}, {memory}"


@dataclass
class Memory:
    """How much the process held, again and again."""

    samples: list[tuple[float, int]] = field(default_factory=list)
    """Hours and KiB."""

    @property
    def hours(self) -> float:
        """How long it was watched."""
        return self.samples[-1][0] - self.samples[0][0]

    @property
    def slope(self) -> float:
        """The growth in KiB an hour, by least squares, of what the process never held less than.

        Buffers that come and go for one flood are not what is asked.
        """
        size = -(-len(self.samples) // WINDOWS)
        parts = [self.samples[at : at + size] for at in range(0, len(self.samples), size)]
        least = [min(part, key=lambda sample: sample[1]) for part in parts]
        return linear_regression(*zip(*least, strict=True)).slope


async def test_nothing_is_lost_and_nothing_stays_after_an_hour_of_churn(tmp_path: Path) -> None:
    tell(f"\nISOLANE_SOAK_SEED={SEED} ISOLANE_SOAK_S={SOAK_S:.0f}")
    async with own_server(tmp_path / "data", *AGENTS, env=SETTINGS) as server:
        world = World(server, random.Random(SEED))
        try:
            async with people(world) as everybody:
                await lead_both_lives(world, everybody)
        finally:
            kept = tmp_path / "server.log"
            kept.write_text("\n".join(server.lines))
            tell(f"ISOLANE_SOAK_SEED={SEED}; what the server said is in {kept}", *table(world))
    assert world.tally["runs ended"] > USERS


async def lead_both_lives(world: World, everybody: Sequence[Person]) -> None:
    server, memory = world.server, Memory()
    baseline = await server.gauges()
    await churn(world, everybody, LONG_LIFE, for_s=SOAK_S * WARM_UP_SHARE)
    start = await look(server, baseline)
    tell(f"the long life begins with {start}")
    runs = world.tally["runs ended"]
    await churn(world, everybody, LONG_LIFE, for_s=SOAK_S * LONG_SHARE, memory=memory)
    runs = world.tally["runs ended"] - runs
    end = await look(server, baseline)
    tell(f"the long life ends with   {end}")
    blocks = end.blocks - start.blocks
    tell(f"memory: {memory.slope:+.0f} KiB/h over {memory.hours:.2f} h")
    tell(f"blocks: {blocks:+} over {runs} runs")
    assert blocks < BLOCKS_NOISE + runs * BLOCKS_A_RUN_MAX
    assert end.descriptors == start.descriptors
    assert end.resident_kib < start.resident_kib * MEMORY_GROWTH_MAX
    world.faulty_outcomes = LOST_WITH_THE_PROCESS
    await churn(world, everybody, HARD_LIFE, for_s=SOAK_S * HARD_SHARE)
    last = await look(server, baseline)
    tell(f"the hard life ends with   {last}")
    assert memory.slope < GROWTH_MAX_KIB_PER_HOUR or memory.hours < SETTLED_AFTER_H
    assert not faults_logged(server)
    assert not last.descriptors - start.descriptors  # so young a process may have read less at once


def tell(*lines: str) -> None:
    """Write to whoever watches: it is run with `-s`."""
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


# --- the churn -----------------------------------------------------------------------------------


async def churn(
    world: World,
    everybody: Sequence[Person],
    faults: Sequence[Fault],
    *,
    for_s: float,
    memory: Memory | None = None,
) -> None:
    """Let every user live for so long, and the faults happen."""
    world.live_for(for_s)
    async with asyncio.TaskGroup() as group:
        for person in everybody:
            group.create_task(live(person))
            group.create_task(cut_now_and_then(person))
        group.create_task(befall(world, faults, every_s=(1, 5)))
        group.create_task(tell_now_and_then(world))
        if memory is not None:
            group.create_task(watch(world, memory))


@asynccontextmanager
async def people(world: World) -> AsyncIterator[list[Person]]:
    """Give the users, each with a line of their own."""
    async with AsyncExitStack() as lines:
        everybody = []
        for number in range(USERS):
            proxy = await lines.enter_async_context(proxy_to(world.server.port))
            lane = Lane(world.server, f"soaked-{number}")
            chance, pace = (random.Random(world.chance.random()) for _ in range(2))
            everybody.append(Person(world, lane, proxy, chance, pace))
        yield everybody


async def tell_now_and_then(world: World) -> None:
    began = monotonic()
    while not world.is_over:
        left_s = max(world.deadline - monotonic(), 0)
        await asyncio.sleep(min(TOLD_EVERY_S, left_s))  # the pace of the news
        tell(f"{monotonic() - began:5.0f} s: {news(world)}")


def news(world: World) -> str:
    """Return how far it has come, in a line."""
    tally, server = world.tally, world.server
    faults = sum(number for name, number in tally.items() if name.startswith("faults:"))
    seen = f"{tally['runs ended']} runs, {tally['events checked']} events"
    met = f"{tally['line cuts']} cuts, {faults} faults"
    # Between two lives there is no process to look into.
    with suppress(ServerError, OSError, StopIteration):
        met += f", {server.resident_kib()} KiB, CPU {server.cpu_s():.0f} s"
    return f"{seen}, {met} and {sum(os.times()[:2]):.0f} s here (seed {SEED})"


async def watch(world: World, memory: Memory) -> None:
    """Note how much the process holds."""
    while not world.is_over:
        memory.samples.append((monotonic() / 3600, world.server.resident_kib()))
        await asyncio.sleep(SAMPLED_EVERY_S)  # the pace of the samples


# --- what is left --------------------------------------------------------------------------------


async def look(server: Server, baseline: dict[str, float]) -> Held:
    """Return what the server holds once its gauges are as they were, and its sockets are closed."""
    await server.wait_for_gauges(baseline, within_s=QUIET_WITHIN_S)
    blocks = await weigh(server)
    await server.wait_for_gauges(baseline, within_s=QUIET_WITHIN_S)
    gauges = await server.gauges()
    deadline, seen = monotonic() + QUIET_WITHIN_S, [server.descriptors()]
    # The sockets of the looks at the gauges are on their way out.
    while seen[-STEADY_LOOKS:] != [seen[-1]] * STEADY_LOOKS:
        assert monotonic() < deadline, f"descriptors come and go: {seen[-2:]}"
        await asyncio.sleep(POLL_S)
        seen.append(server.descriptors())
    return Held(gauges, by_kind(seen[-1]), server.resident_kib(), blocks)


async def weigh(server: Server) -> int:
    """Return how many blocks of memory the server's objects take."""
    lane = Lane(server)
    return int(text_of(await lane.play("scales", lane.user, "weigh", agent="weigher")))


def by_kind(descriptors: Counter[str]) -> Counter[str]:
    """Return how many of each kind are open; a file is known by its name."""
    kinds: Counter[str] = Counter()
    for name, number in descriptors.items():
        kinds[Path(name).name if name.startswith("/") else name.partition(":")[0]] += number
    return kinds


def faults_logged(server: Server) -> list[dict[str, Any]]:
    """Return what the server said of itself that no agent, client or kill is the reason of."""
    grave = [e for e in server.logs if e.get("level") in {"error", "critical"}]
    return [e for e in grave if (e["event"], e.get("code")) not in EXPECTED_ERRORS]


def table(world: World) -> Iterable[str]:
    """Yield what was counted, the server's complaints among it."""
    complaints = [e for e in world.server.logs if e.get("level") not in {None, "info", "debug"}]
    logged = Counter(f"logged: {e['event']} {e.get('code', '')}" for e in complaints)
    for name, number in sorted({**world.tally, **logged}.items()):
        yield f"{number:>12}  {name}"
    if world.stop_s:
        yield f"stops: median {median(world.stop_s):.2f} s, longest {max(world.stop_s):.2f} s"
