"""Agents on event loops of their own, so that an agent that blocks its thread delays no socket."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

import structlog
from ag_ui.core import RunAgentInput

from isolane.agents.exits import contain_exits
from isolane.context import UserExecutionContext
from isolane.contracts import Agent, StopSignal
from isolane.errors import traceback_of

AHEAD_MAX: Final = 64
"""Events that an agent may be ahead of the gateway's loop. Above that the agent waits."""
JOIN_S: Final = 2.0
"""Seconds that closing waits for a thread to end."""

_log = structlog.get_logger(__name__)

Watch = Callable[[str], Callable[[], None]]
"""Starts to watch the calling loop under a name; the result ends the watch."""


@dataclass(eq=False)
class _Place:
    """A thread with an event loop, and the number of runs on it."""

    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    runs: int = 0


class AgentThreads:
    """Threads with an event loop each. A run stays on the thread that had the fewest runs."""

    def __init__(self, count: int, *, watch: Watch) -> None:
        """Start `count` threads; each is watched from its start."""
        self._places = [_start(f"agents {number + 1}", watch) for number in range(count)]

    def wrap(self, agent: Agent) -> Agent:
        """Return an agent that runs `agent` on one of the threads."""
        return _ThreadedAgent(agent, self)

    def pick(self) -> _Place:
        """Return the thread with the fewest runs."""
        return min(self._places, key=lambda place: place.runs)

    def close(self) -> None:
        """Stop the loops. A blocked thread is left behind and ends with the process."""
        for place in self._places:
            place.loop.call_soon_threadsafe(place.loop.stop)
        for place in self._places:
            place.thread.join(JOIN_S)


def _start(name: str, watch: Watch) -> _Place:
    started: deque[asyncio.AbstractEventLoop] = deque()
    is_up = threading.Event()

    def live() -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            started.append(loop)
            forget: list[Callable[[], None]] = []
            loop.call_soon(lambda: forget.append(watch(name)))
            loop.call_soon(is_up.set)
            contain_exits(loop)
            _run_until_stopped(loop)
            forget[0]()

    thread = threading.Thread(target=live, name=name, daemon=True)
    thread.start()
    is_up.wait()
    return _Place(thread, started[0])


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop again after an exit of unknown origin, because later runs need the loop."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            _log.error("agent_loop_exit_ignored", exception=traceback_of(error))
        else:
            return


class _ThreadedAgent:
    """Passes the events of an agent on another loop to the caller's loop."""

    def __init__(self, agent: Agent, threads: AgentThreads) -> None:
        self._agent = agent
        self._threads = threads
        self.hears_stop = getattr(agent, "hears_stop", True)
        self.raw_ids = getattr(agent, "raw_ids", False)
        self.restartable = getattr(agent, "restartable", False)

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield the agent's events, and raise the agent's error."""
        place = self._threads.pick()
        crossing = _Crossing(place.loop)
        place.runs += 1
        messenger = asyncio.create_task(crossing.bring(stop), name="stop's messenger")
        try:
            crossing.begin(self._agent, input, context)
            async for value in crossing.values():
                yield value
        finally:
            messenger.cancel()
            crossing.leave()
            try:
                await crossing.outlast()
            finally:
                place.runs -= 1


class _Crossing:
    """The bridge of one run from the agent's loop (away) to the gateway's loop (home).

    Events cross in a bounded queue. Each side is woken once for all events that wait.
    """

    def __init__(self, away: asyncio.AbstractEventLoop) -> None:
        self._home = asyncio.get_running_loop()
        self._away = away
        self._values: deque[object] = deque()
        self._arrived = asyncio.Event()
        self._is_rung = False
        self._is_full = False
        self._room = asyncio.Event()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_left = False
        self._error: BaseException | None = None
        self._ended = asyncio.Event()

    # --- on the gateway's loop -------------------------------------------------------------------

    def begin(self, agent: Agent, run_input: RunAgentInput, context: UserExecutionContext) -> None:
        """Start the agent on its own loop."""

        def start() -> None:
            work = self._drive(agent, run_input, context)
            self._task = self._away.create_task(work, name=f"agent of {context.run_id}")

        self._call_away(start)

    async def values(self) -> AsyncIterator[object]:
        """Yield events until the agent has ended, and raise the agent's error."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            self._is_rung = False
            while self._values:
                yield self._values.popleft()
            if self._is_full:
                self._is_full = False
                self._call_away(self._room.set)
            if self._ended.is_set() and not self._values:
                break
        if self._error is not None:
            raise self._error

    async def bring(self, stop: StopSignal) -> None:
        """Pass a stop of the run on to the agent's loop."""
        await stop.wait()
        self._call_away(self._stop.set)

    def leave(self) -> None:
        """Stop taking events, and cancel the agent when it still runs."""
        self._is_left = True

        def cancel() -> None:
            self._room.set()
            if self._task is not None:
                self._task.cancel()

        self._call_away(cancel)

    async def outlast(self) -> None:
        """Wait until the agent has ended, even when this task is cancelled.

        The run must know whether an abandoned agent still works.
        """
        cancelled: asyncio.CancelledError | None = None
        while not self._ended.is_set():
            try:
                await self._ended.wait()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _call_away(self, callback: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the agent's loop is closed, because the process ends
            self._away.call_soon_threadsafe(callback)

    # --- on the agent's loop ---------------------------------------------------------------------

    async def _drive(
        self, agent: Agent, run_input: RunAgentInput, context: UserExecutionContext
    ) -> None:
        """Run the agent and catch every error, because a SystemExit would end the loop."""
        try:
            async with aclosing(agent.run(run_input, context, self._stop)) as stream:
                async for value in stream:
                    await self._put(value)
                    if self._is_left:
                        break
        except BaseException as error:  # noqa: BLE001 - raised again on the gateway's loop
            self._error = error
        with suppress(RuntimeError):  # the gateway's loop is closed already
            self._home.call_soon_threadsafe(self._end)

    async def _put(self, value: object) -> None:
        while len(self._values) >= AHEAD_MAX and not self._is_left:
            self._room.clear()
            self._is_full = True
            # checked again, because the other side may have emptied it just now
            if len(self._values) >= AHEAD_MAX:
                await self._room.wait()
        self._values.append(value)
        if not self._is_rung:
            self._is_rung = True
            self._home.call_soon_threadsafe(self._arrived.set)

    def _end(self) -> None:
        self._ended.set()
        self._arrived.set()
