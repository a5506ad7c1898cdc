"""The layer `resume`: TCP is cut during a run, and no event is missing or doubled afterwards."""

from __future__ import annotations

import asyncio
import math
from time import perf_counter
from typing import Final

from isolane.check.conversation import start_run, subscribe
from isolane.check.finding import Broken
from isolane.check.lane import Lane, new_name
from isolane.check.order import Frame, check_run, is_envelope
from isolane.check.walk import Run, Walk
from isolane.check.wire import Socket

_NUMBERS: Final = 80
_PAUSES_MS: Final = (10, 80)
"""Minimum and maximum milliseconds between two numbers; a far server gets a longer run."""
_PIECE: Final = 15
"""Events that are read before a cut."""
_MISSED: Final = 5
"""Minimum number of events that the run makes while no socket is open."""
_FROM_START: Final = "-1"


async def check_resume(walk: Walk) -> str:
    """Cut the connection twice during a run, then resume by frame and by address."""
    lane = walk.lane
    run = Run(lane.new_thread(), new_name("run"), "")
    pause_s = await _begin_and_cut(lane, run)
    await asyncio.sleep(_MISSED * pause_s)  # the run goes on while no socket is open
    await _follow_and_cut(lane, run)
    await asyncio.sleep(_MISSED * pause_s)  # the run goes on while no socket is open
    (head, rest), by_address = await asyncio.gather(
        _follow_to_end(lane, run), lane.load_replay(run.run_id, run.envelopes[-1]["id"])
    )
    run.envelopes += rest
    check_run(run.envelopes, thread_id=run.thread_id, run_id=run.run_id, after=run.after)
    _compare("the replay by address", by_address, rest)
    whole = await lane.load_replay(run.run_id, _FROM_START)
    _compare("the replay from the start", whole, run.envelopes)
    live = len(run.envelopes) - 1 - [frame["id"] for frame in run.envelopes].index(head)
    return f"2 cuts; after the last {len(rest) - live} events were caught up, {live} came live"


async def _begin_and_cut(lane: Lane, run: Run) -> float:
    """Return the seconds between two numbers of the run."""
    began = perf_counter()
    socket, _ = await lane.greet()
    run.after = str((await subscribe(socket, run.thread_id))["head"])
    returning_ms = (perf_counter() - began) * 1000
    least, most = _PAUSES_MS
    # Long enough that the run still goes on after two reconnects.
    pause_ms = min(max(least, math.ceil(4 * returning_ms / _NUMBERS)), most)
    await start_run(socket, run, ["count", _NUMBERS, pause_ms])
    run.envelopes += await _read_piece(socket)
    socket.cut()
    return pause_ms / 1000


async def _follow_and_cut(lane: Lane, run: Run) -> None:
    socket, _ = await lane.greet()
    await subscribe(socket, run.thread_id, run.envelopes[-1]["id"])
    run.envelopes += await _read_piece(socket)
    socket.cut()


async def _read_piece(socket: Socket) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < _PIECE:
        frames += (await socket.until(is_envelope, what="the next envelope"))[-1:]
    return frames


async def _follow_to_end(lane: Lane, run: Run) -> tuple[str, list[Frame]]:
    """Return the log's head at the reconnect, and the frames from there to the end."""
    socket, _ = await lane.greet()
    answer = await subscribe(socket, run.thread_id, run.envelopes[-1]["id"])
    return str(answer["head"]), await socket.read_run(run.run_id)


def _compare(what: str, found: list[Frame], wanted: list[Frame]) -> None:
    if found == wanted:
        return
    ids, wanted_ids = ([str(frame.get("id")) for frame in frames] for frames in (found, wanted))
    differences = {
        "missing": [event_id for event_id in wanted_ids if event_id not in ids],
        "too many": [event_id for event_id in ids if event_id not in wanted_ids],
        "doubled": [event_id for event_id in ids if ids.count(event_id) > 1],
    }
    raise Broken(
        f"{what} differs from what came by frame",
        came={name: ids[:5] for name, ids in differences.items() if ids} or found[:5],
        expected=f"{len(wanted)} envelopes, {' to '.join(wanted_ids[:: len(wanted_ids) - 1 or 1])}",
    )
