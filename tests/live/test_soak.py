"""Hours in minutes: users who come, ask, are cut off, come back, stop and go, again and again."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from tests.live.agents import numbered
from tests.live.client import Frame, connect, parse_id
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import Server
from tests.live.stage import Lane, is_terminal, own_server, text_of
from websockets.exceptions import ConnectionClosed, InvalidMessage

# ruff: noqa: S311 - chance that can be repeated from its seed, no secrets

SOAK_S = float(os.environ.get("ISOLANE_SOAK_S", "600"))
"""Seconds of churn; the environment may ask for more."""
USERS = 12
WORDS = 40
STOPPED_SHARE = 0.25
GAUGES = ("connections", "managers", "followers", "runs_active", "tasks")
MEMORY_GROWTH_MAX = 1.25

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SOAK_S + 300)]


async def test_nothing_is_lost_and_nothing_stays_after_a_long_churn(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    counts: Counter[str] = Counter()
    env = {"ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000", "ISOLANE_LOG_MAX_EVENTS": "2000"}
    async with own_server(tmp_path / "data", "slow=agents:slow", env=env) as server:
        baseline = await gauges(server)
        async with proxy_to(server.port) as proxy:
            await churn(server, proxy, seed, counts, for_s=SOAK_S / 10)
            early_kib = server.resident_kib()
            await churn(server, proxy, seed + 1, counts, for_s=SOAK_S * 9 / 10)
        late_kib = server.resident_kib()
        left = await gauges_as(server, baseline)
        sys.stdout.write(
            f"\nseed {seed}: {dict(counts)}; resident KiB {early_kib} -> {late_kib}\n"
            f"gauges before {baseline}, after {left}\n"
        )
        assert left == baseline
        assert late_kib < early_kib * MEMORY_GROWTH_MAX
        assert counts["runs"] > USERS


async def churn(
    server: Server, proxy: Proxy, seed: int, counts: Counter[str], *, for_s: float
) -> None:
    """Let every user live for that long; the cuts come from beside."""
    deadline = time.monotonic() + for_s
    async with asyncio.TaskGroup() as group:
        for number in range(USERS):
            chance = random.Random(seed * 1000 + number)
            group.create_task(live(Lane(server), proxy, chance, counts, deadline))
        group.create_task(cut_now_and_then(proxy, random.Random(seed), counts, deadline))


async def cut_now_and_then(
    proxy: Proxy, chance: random.Random, counts: Counter[str], deadline: float
) -> None:
    while time.monotonic() < deadline:
        await asyncio.sleep(chance.uniform(0.05, 0.8))  # the pace of the faults
        counts["cuts"] += 1
        proxy.cut()


async def live(
    lane: Lane, proxy: Proxy, chance: random.Random, counts: Counter[str], deadline: float
) -> None:
    """Run after run on a few threads: some to the end, some stopped, whatever the line does."""
    run = 0
    while time.monotonic() < deadline:
        run += 1
        stop_at = chance.randrange(WORDS) if chance.random() < STOPPED_SHARE else None
        frames = await pursue(lane, proxy, f"t{chance.randrange(3)}", f"r-{run}", stop_at)
        counts["runs"] += 1
        counts["events"] += len(frames)
        seqs = [parse_id(frame["id"])[1] for frame in frames]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert sum(is_terminal(frame) for frame in frames) == 1
        if stop_at is None:
            assert text_of([frame["chunk"] for frame in frames]) == numbered(WORDS)
        else:
            counts["stopped"] += 1


async def pursue(
    lane: Lane, proxy: Proxy, thread_id: str, run_id: str, stop_at: int | None
) -> list[Frame]:
    """Ask until the run's end is there; after a cut the same frame attaches and replays it."""
    url = lane.server.websocket_url(address=proxy.address)
    while True:
        frames: list[Frame] = []
        with suppress(ConnectionClosed, InvalidMessage, OSError):
            async with connect(url, lane.token, hello=False) as client:
                await client.run(thread_id, run_id, f"count {WORDS} every 5ms")
                while not (frames and is_terminal(frames[-1])):
                    frame = await client.recv()
                    frames += [frame] if frame.get("runId") == run_id and "id" in frame else []
                    if stop_at is not None and len(frames) == stop_at:
                        await client.send({"type": "abort", "runId": run_id})
                return frames


async def gauges(server: Server) -> dict[str, float]:
    metrics = await server.metrics()
    return {name: metrics[f"isolane_{name}"] for name in GAUGES}


async def gauges_as(server: Server, wanted: dict[str, float]) -> dict[str, float]:
    """Return the gauges once they are as wanted, or as they are after 5 s."""
    deadline = time.monotonic() + 5
    while (now := await gauges(server)) != wanted and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)  # between two looks
    return now
