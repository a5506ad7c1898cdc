"""Agents that do what no agent should: each ends its own run, once, and nobody else's anything."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from tests.live.client import is_terminal, outcome_of
from tests.live.hostile.attack import Scene, attack
from tests.live.server import LIVE_FOLDER, START_TIMEOUT_S
from tests.live.stage import Lane, steps
from tests.live.test_runs import NONSENSE, RAISED

RUNS: Final = 4
"""Of each user at once."""


async def play_all(lane: Lane, texts: Sequence[str], *, agent: str | None = None) -> set[str]:
    """Let each play, some at a time, and return how they ended."""
    places = asyncio.Semaphore(RUNS)

    async def one(number: int, text: str) -> str:
        async with places:
            events = await lane.play(f"t-{number}", f"r-{number}", text, agent=agent)
        return outcome_of(events[-1])

    return set(await asyncio.gather(*(one(*each) for each in enumerate(texts))))


async def stop(lane: Lane, text: str, *, agent: str | None = None) -> str:
    """Let one begin, stop it, and return how it ended."""
    async with lane.connect(agent=agent) as client:
        await client.run("t", "r", text)
        await client.until_event("RUN_STARTED")
        await client.abort("r")
        end = (await client.until_end("r"))["chunk"]
    assert is_terminal((await lane.load_log("t")).envelopes[-1])
    return outcome_of(end)


@attack("agents/raise")
async def raises(scene: Scene) -> set[str]:
    texts = [steps(["say", "almost"], ["raise", kind, "text"]) for kind in RAISED]
    return await play_all(scene.lane(), texts)


@attack("agents/swallow-cancellation")
async def swallows(scene: Scene) -> set[str]:
    return {await stop(scene.lane(), "go", agent="deaf")}


@attack("agents/block", kind="other")
async def blocks(scene: Scene) -> set[str]:
    lane = scene.lane()
    return await play_all(lane, [steps(["say", "1 "], ["block", 2.5], ["say", "2"])])


@attack("agents/flood")
async def floods(scene: Scene) -> set[str]:
    return {await stop(scene.lane(), "go", agent="flood")}


@attack("agents/nonsense")
async def nonsense(scene: Scene) -> set[str]:
    texts = [steps(["say", "1 "], ["nonsense", kind]) for kind in NONSENSE]
    return await play_all(scene.lane(), texts)


@attack("agents/after-the-end")
async def after_the_end(scene: Scene) -> set[str]:
    lane = scene.lane()
    answers = await play_all(lane, ["go"] * RUNS, agent="late")
    log = await lane.load_log("t-0")
    assert log.text == "before "
    assert sum(is_terminal(envelope) for envelope in log.envelopes) == 1
    return answers


@attack("agents/never-yield")
async def never_yields(scene: Scene) -> set[str]:
    return {await stop(scene.lane(), steps(["wait"]))}


# --- what is no agent ----------------------------------------------------------------------------


async def serve(scene: Scene, agent: str) -> set[str]:
    """Start another server with what is no agent; it must not start."""
    data = scene.server.data.parent / "refused"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isolane", "serve", "--port", "0", "--data", str(data)),
        *("--agent", f"bad=hostile.misbehaving:{agent}"),
        cwd=LIVE_FOLDER,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
    assert process.returncode not in {0, None}
    assert err.startswith(f"Error: --agent bad=hostile.misbehaving:{agent} is a ".encode()), err
    assert not any(mark in err for mark in (b"Traceback", b"never awaited")), err
    return {"refused"}


for _name in ("returns-none", "sync-generator", "coroutine"):
    attack(f"agents/{_name}")(partial(serve, agent=_name.replace("-", "_")))
