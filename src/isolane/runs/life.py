"""The life of one run, from RUN_STARTED to its one end, whatever its agent does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from isolane.contracts import StoppedBy
from isolane.errors import AgentError, AgentTimeout, HandedOver, IsolaneError, caused
from isolane.events.event import Event
from isolane.events.transcript import Message
from isolane.health.fairness import Turns
from isolane.runs.agent_call import AgentCall
from isolane.runs.ending import Ending, end_run, ending_now, ending_of_stop
from isolane.runs.run import Run
from isolane.runs.writer import RunWriter
from isolane.tasks import TaskOwner

LoadWritten = Callable[[], Awaitable[Sequence[Event]]]
HandOver = Callable[[], Awaitable[bool]]

STOP_GRACE_S: Final = 1.0
"""Seconds in which an agent may end by itself after the stop signal."""
CANCEL_GRACE_S: Final = 2.0
"""Seconds in which a cancelled agent may end; then it is abandoned. A stop takes under 5 s."""

_log = structlog.get_logger(__name__)


class RunLife:
    """Leads one begun run to its end. `live()` is the only thing to call."""

    def __init__(
        self,
        run: Run,
        history: Sequence[Message],
        writer: RunWriter,
        *,
        load_written: LoadWritten,
        hand_over: HandOver,
        tasks: TaskOwner,
        turns: Turns,
        timeout_s: float,
    ) -> None:
        """Take over a run that has begun, with the `history` for its agent.

        `load_written` returns what the log has of a run that begins anew. `hand_over` lets another
        process have the run, or says False. `timeout_s` is the most time that the agent may take.
        """
        self._run = run
        self._history = history if run.get_begun().is_anew else ()
        self._writer = writer
        self._load_written = load_written
        self._hand_over_row = hand_over
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._call = AgentCall(run, history, writer, turns=turns)

    async def live(self) -> Event | None:
        """Write RUN_STARTED, let the agent speak, and write the end; see `end_run`."""
        run = self._run
        try:
            await self._begin()
            ending = await self._supervise()
            if isinstance(ending.error, HandedOver) and await self._hand_over():
                return None
        except IsolaneError as error:  # the log can't be written
            ending = Ending(error=error)
        except Exception as error:  # noqa: BLE001 - the top of the task that owns a run
            ending = Ending(error=caused(IsolaneError("the run broke"), error))
        self._tell_left_out()
        return await end_run(run, self._writer, ending)

    async def _begin(self) -> None:
        """Write RUN_STARTED, or that the run begins anew after what the log has of it."""
        begun = self._run.get_begun()
        if not begun.is_anew:
            await self._writer.start(self._run.to_started())
            return
        self._writer.replay((await self._load_written())[1:])
        self._writer.begin_anew(attempt=begun.attempt, history=self._history)
        self._history = ()

    async def _hand_over(self) -> bool:
        """Let another process have the run; False when it has to end here."""
        try:
            await self._writer.let_go()
            is_gone = await self._hand_over_row()
        except IsolaneError as error:
            _log.warning("run_not_handed_over", reason=str(error), **self._run.log_fields)
            return False
        if is_gone:
            _log.info("run_handed_over", **self._run.log_fields)
        return is_gone

    async def _supervise(self) -> Ending:
        """Wait for the agent, an exit, the stop or the deadline, whichever comes first."""
        run = self._run
        if run.stop.is_set():
            return ending_of_stop(run)
        run.stop.by = StoppedBy.AGENT
        agent = self._tasks.start(self._call.drive(), name=f"agent of {run.run_id}")
        stop = self._tasks.start(run.stop.wait(), name=f"stop of {run.run_id}")
        waits: set[asyncio.Future[Any]] = {agent, stop, self._call.exited}
        try:
            await asyncio.wait(waits, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._call.exited.done():
                return await self._end_exited(agent, self._call.exited.result())
            if agent.done():
                return agent.result()
            if run.stop.is_set():
                await asyncio.wait({agent}, timeout=self._stop_grace_s)
                if not agent.done():
                    run.stop.by = await self._end_agent(agent)
                return ending_of_stop(run)
            await self._end_agent(agent)
            if stop.done():  # the wait for a stop has broken, so nobody would hear of one
                stop.result()
            return Ending(error=AgentTimeout(f"no end within {self._timeout_s:g} s"))
        finally:
            stop.cancel()

    @property
    def _stop_grace_s(self) -> float:
        """Seconds until a stopped agent is cancelled; 0 for an agent that can't hear the stop.

        What it says is taken back when its run goes on elsewhere, so that has no time either.
        """
        run = self._run
        is_heard = getattr(run.agent, "hears_stop", True)
        return STOP_GRACE_S if is_heard and not isinstance(run.stop.error, HandedOver) else 0

    async def _end_exited(self, agent: asyncio.Task[Ending], error: BaseException) -> Ending:
        """End an agent when something that it started asked for the end of the process."""
        await self._end_agent(agent)
        failed = Ending(error=caused(AgentError("the agent exited"), error))
        return ending_now(self._run, failed)

    async def _end_agent(self, agent: asyncio.Task[Ending]) -> StoppedBy:
        """Cancel the agent. Abandon it when it goes on all the same."""
        agent.cancel()
        _, stuck = await asyncio.wait({agent}, timeout=CANCEL_GRACE_S)
        if not stuck:
            return StoppedBy.CANCELLATION
        self._run.is_abandoned = True
        _log.warning("agent_abandoned", **self._run.log_fields)
        return StoppedBy.ABANDONMENT

    def _tell_left_out(self) -> None:
        """Warn once of everything that the run left out."""
        left_out = self._run.left_out.to_report()
        if left_out:
            _log.warning("left_out", left_out=left_out, **self._run.log_fields)
