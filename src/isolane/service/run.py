"""The life of one run, from RUN_STARTED to its one end, whatever its agent does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from ag_ui.core import RunAgentInput

from isolane.agents.translate import to_event
from isolane.clock import Clock, now_ms
from isolane.context import UserExecutionContext
from isolane.contracts import Agent, BegunRun, RunDraft, RunStop, StoppedBy
from isolane.errors import (
    AgentError,
    AgentProtocol,
    AgentTimeout,
    GoingAway,
    IsolaneError,
    NotFound,
    Unavailable,
    chain_of,
    traceback_of,
)
from isolane.events import (
    RUN_ERROR,
    RUN_FINISHED,
    RUN_STARTED,
    Event,
    run_failed,
    run_finished,
    run_started,
)
from isolane.ids import new_error_id, new_message_id
from isolane.service.writer import RunWriter
from isolane.tasks import TaskOwner

STOP_GRACE_S: Final = 1.0
"""How long an agent may take to end by itself after the stop signal."""
CANCEL_GRACE_S: Final = 2.0
"""How long a cancelled agent may take before it is abandoned; both together stay under 5 s."""
AFTER_END_S: Final = 1.0
AFTER_END_MAX: Final = 1000
BREATH_EVENTS: Final = 64
RETRY_MAX_S: Final = 2.0

_log = structlog.get_logger(__name__)


class Stop:
    """Tells an agent that nobody wants its answer; agents see `is_set` and `wait` of it."""

    def __init__(self, clock: Clock = now_ms) -> None:
        """Begin unset."""
        self._clock = clock
        self._event = asyncio.Event()
        self._requested_at = 0
        self.error: IsolaneError | None = None
        """Why the run ends in an error although it was stopped; None is the user's own wish."""
        self.by = StoppedBy.GATEWAY
        """What it takes; the gateway's own word does as long as there is no agent."""

    def set(self, error: IsolaneError | None = None) -> None:
        """Stop; the first call says why, and is when it was asked for."""
        if not self._event.is_set():
            self.error = error
            self._requested_at = self._clock()
        self._event.set()

    def to_report(self) -> RunStop:
        """Return how the run was stopped, for one that ends now because of it."""
        took_ms = max(self._clock() - self._requested_at, 0)
        return RunStop(self._requested_at, took_ms, self.by)

    def is_set(self) -> bool:
        """Say whether the run was stopped."""
        return self._event.is_set()

    async def wait(self) -> bool:
        """Return once the run is stopped."""
        return await self._event.wait()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends: with an outcome, or with an error and what caused it."""

    outcome: Mapping[str, Any] = field(default_factory=lambda: {"type": "success"})
    kept: Mapping[str, Any] = field(default_factory=dict)
    error: IsolaneError | None = None
    is_stopped: bool = False
    """Whether it ends because it was stopped."""


CANCELLED: Final = Ending({"type": "cancelled"}, is_stopped=True)


@dataclass(slots=True)
class Run:
    """A run that this process has taken on."""

    context: UserExecutionContext
    draft: RunDraft
    agent: Agent
    stop: Stop = field(default_factory=Stop)
    writer: RunWriter | None = None
    begun: BegunRun | None = None
    is_deleted: bool = False
    """Whether its thread was deleted under it."""
    has_slot: bool = False
    """Whether it counts against its user's limit; what a restart found does not."""
    is_abandoned: bool = False
    """Whether its agent goes on although nobody hears it."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    taken_on_at: int = field(default_factory=now_ms)
    """Milliseconds since 1970; before a restart, if there was one since."""

    @property
    def thread_id(self) -> str:
        """The thread it belongs to."""
        return self.context.thread_key.thread_id

    @property
    def run_id(self) -> str:
        """Its id, which is its user's own."""
        return self.context.run_key.run_id


class RunLife:
    """Drives one begun run to its end. `live()` is the only thing to call."""

    def __init__(
        self, run: Run, begun: BegunRun, writer: RunWriter, *, tasks: TaskOwner, timeout_s: float
    ) -> None:
        """Take over a run whose turn has come."""
        self._run = run
        self._begun = begun
        self._writer = writer
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._text_id: str | None = None
        self._ending: Ending | None = None

    async def live(self) -> None:
        """Write RUN_STARTED, let the agent speak, write the end."""
        run = self._run
        started = run_started(
            thread_id=run.thread_id,
            run_id=run.run_id,
            messages=self._begun.added,
            rewind_to=run.draft.rewind_to,
        )
        try:
            await self._writer.start(started)
            ending = await self._supervise()
        except IsolaneError as error:  # the log can't be written
            ending = Ending(error=error)
        except Exception as error:  # noqa: BLE001 - the top of the task that owns a run
            ending = Ending(error=_caused(IsolaneError("the run broke"), error))
        await end_run(run, self._writer, ending)

    async def _supervise(self) -> Ending:
        if self._run.stop.is_set():
            return self._stopped()
        self._run.stop.by = StoppedBy.AGENT
        agent = self._tasks.start(self._drive(), name=f"agent of {self._run.run_id}")
        stop = self._tasks.start(self._run.stop.wait(), name=f"stop of {self._run.run_id}")
        try:
            await asyncio.wait(
                {agent, stop}, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if agent.done():
                return agent.result()
            if self._run.stop.is_set():
                await asyncio.wait({agent}, timeout=STOP_GRACE_S)
                if not agent.done():
                    self._run.stop.by = await self._end_agent(agent)
                return self._stopped()
            await self._end_agent(agent)
            return Ending(error=AgentTimeout(f"no end within {self._timeout_s:g} s"))
        finally:
            stop.cancel()

    def _ending_now(self, ending: Ending) -> Ending:
        """Return `ending`, unless the run was stopped: then that is why it ended."""
        return self._stopped() if self._run.stop.is_set() else ending

    def _stopped(self) -> Ending:
        error = self._run.stop.error
        return CANCELLED if error is None else Ending(error=error, is_stopped=True)

    async def _end_agent(self, agent: asyncio.Task[Ending]) -> StoppedBy:
        agent.cancel()
        _, stuck = await asyncio.wait({agent}, timeout=CANCEL_GRACE_S)
        if not stuck:
            return StoppedBy.CANCELLATION
        self._run.is_abandoned = True
        _log.warning("agent abandoned", **_names(self._run))
        return StoppedBy.ABANDONMENT

    async def _drive(self) -> Ending:
        """Let the agent speak. The top of the task that owns it: nothing gets past here."""
        run, taken = self._run, 0
        try:
            async with aclosing(run.agent.run(self._input(), run.context, run.stop)) as stream:
                async for value in stream:
                    taken += 1
                    if taken % BREATH_EVENTS == 0:
                        await asyncio.sleep(0)  # an agent that never waits would stop everybody
                    if self._ending is None:
                        await self._take(value)
                    if self._ending is not None:
                        await self._drop_rest(stream)
                        break
        except IsolaneError as error:
            return Ending(error=error)
        except BaseException as error:  # noqa: BLE001 - a SystemExit that left a task would end the loop
            failed = Ending(error=_caused(AgentError("the agent raised"), error))
            return self._ending or self._ending_now(failed)
        return self._ending or self._ending_now(Ending())

    def _input(self) -> RunAgentInput:
        return RunAgentInput.model_validate(
            {
                **self._run.draft.request,
                "threadId": self._run.thread_id,
                "runId": self._run.run_id,
                "messages": list(self._begun.history),
            }
        )

    async def _take(self, value: object) -> None:
        if isinstance(value, str):
            await self._say(value)
            return
        event = to_event(value, thread_id=self._run.thread_id, run_id=self._run.run_id)
        if event["type"] == RUN_FINISHED:
            self._ending = self._ending_now(_agents_ending(event))
        elif event["type"] == RUN_ERROR:
            error = AgentError(f"the agent said: {event['message']}")
            self._ending = self._ending_now(Ending(error=error))
        elif event["type"] != RUN_STARTED:
            await self._writer.write(event)

    async def _say(self, text: str) -> None:
        """Wrap plain text into the run's one message."""
        if not text:
            return
        if self._text_id is None:
            self._text_id = new_message_id()
            start = {"type": "TEXT_MESSAGE_START", "messageId": self._text_id, "role": "assistant"}
            await self._writer.write(start)
        await self._writer.write(
            {"type": "TEXT_MESSAGE_CONTENT", "messageId": self._text_id, "delta": text}
        )

    async def _drop_rest(self, stream: Any) -> None:  # noqa: ANN401 - any asynchronous iterator
        """Give an agent that has said its end a moment to return; what it adds is dropped."""
        dropped = 0
        try:
            async with asyncio.timeout(AFTER_END_S):
                async for _ in stream:
                    dropped += 1
                    if dropped >= AFTER_END_MAX:
                        break
        except TimeoutError:
            _log.warning("agent goes on after its end", **_names(self._run))
        if dropped:
            _log.warning("events after the end dropped", count=dropped, **_names(self._run))


def _agents_ending(event: Event) -> Ending:
    outcome = event.get("outcome") or {"type": "success"}
    kept: dict[str, Any] = {
        name: event[name] for name in ("result", "usage", "metadata") if name in event
    }
    return Ending(outcome, kept)


def _caused(error: IsolaneError, cause: BaseException) -> IsolaneError:
    error.__cause__ = cause
    return error


async def end_run(run: Run, writer: RunWriter, ending: Ending) -> None:
    """Write the run's one end; when the log can't be written, try until it can."""
    error_id = None if ending.error is None else new_error_id()
    terminal, outcome = _terminal(run, ending, error_id)
    # Whose log is gone with its thread did no wrong. The log says so before the service is told.
    is_deleted = run.is_deleted or isinstance(ending.error, NotFound)
    if ending.error is not None and not is_deleted:
        _report(run, ending.error, error_id)
    wait_s = 0.05
    while True:
        try:
            await writer.finish(
                terminal,
                outcome=outcome,
                error_id=error_id,
                stop=run.stop.to_report() if ending.is_stopped else None,
                interrupts=ending.outcome.get("interrupts", ()) if ending.error is None else (),
            )
        except Unavailable as error:
            _log.error("run's end can't be written", reason=str(error), **_names(run))
            await asyncio.sleep(wait_s)  # between two tries; the run waits for the disk
            wait_s = min(wait_s * 2, RETRY_MAX_S)
        except NotFound:  # the thread was deleted under the run
            return
        except AgentProtocol as error:  # the agent's own result is too large, or no JSON
            await end_run(run, writer, Ending(error=error))
            return
        else:
            return


def _terminal(run: Run, ending: Ending, error_id: str | None) -> tuple[Event, str]:
    if ending.error is not None and error_id is not None:
        return run_failed(ending.error, error_id, run_id=run.run_id), ending.error.code
    event = run_finished(
        thread_id=run.thread_id, run_id=run.run_id, outcome=ending.outcome, **ending.kept
    )
    return event, str(ending.outcome["type"])


def _report(run: Run, error: IsolaneError, error_id: str | None) -> None:
    level = _log.info if isinstance(error, GoingAway) else _log.error
    level(
        "run failed",
        error_id=error_id,
        code=error.code,
        chain=chain_of(error),
        exception=traceback_of(error),
        **_names(run),
    )


def _names(run: Run) -> dict[str, str]:
    context = run.context
    return {
        "user_id": context.user_id,
        "thread_id": run.thread_id,
        "run_id": run.run_id,
        "request_id": context.request_id,
    }
