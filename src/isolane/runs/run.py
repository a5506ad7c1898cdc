"""The life of one run, from RUN_STARTED to its one end, whatever its agent does."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog
from ag_ui.core import Message as AgentMessage
from ag_ui.core import RunAgentInput
from pydantic import TypeAdapter

from isolane.agents.exits import contain_exits, tell_of_exits
from isolane.agents.foreign import UNKNOWN, Foreign
from isolane.agents.naming import Naming
from isolane.agents.translate import to_event
from isolane.backoff import Backoff
from isolane.clock import Clock, now_ms
from isolane.context import RunIds, UserExecutionContext
from isolane.contracts import Agent, BegunRun, RunDraft, RunStop, StoppedBy
from isolane.errors import (
    AgentError,
    AgentFailed,
    AgentProtocolError,
    AgentTimeout,
    DatabaseFailed,
    GoingAway,
    IsolaneError,
    NotFound,
    Unavailable,
    chain_of,
    traceback_of,
)
from isolane.events.event import (
    RUN_ERROR,
    RUN_FINISHED,
    RUN_STARTED,
    SUBAGENT_ERROR,
    Event,
    encode_mended,
    run_failed,
    run_finished,
    run_started,
)
from isolane.events.left_out import LeftOut
from isolane.events.surrogates import mend_text
from isolane.events.transcript import Message
from isolane.ids import new_error_id, new_message_id
from isolane.runs.draft import INSTRUCTIONS
from isolane.runs.readers import OnDisconnect
from isolane.runs.writer import RunWriter, Share
from isolane.tasks import TaskOwner

STOP_GRACE_S: Final = 1.0
"""How long an agent may take to end by itself after the stop signal."""
CANCEL_GRACE_S: Final = 2.0
"""How long a cancelled agent may take before it is abandoned; both together stay under 5 s."""
AFTER_END_S: Final = 1.0
AFTER_END_MAX: Final = 1000
BREATH_EVENTS: Final = 64
HISTORY_STEP: Final = 1000
"""Messages that are made into an agent's input at once, in some milliseconds."""
PUBLIC_MAX_CHARACTERS: Final = 2000
"""What is told of an agent's own error message, where the agent made that public."""
_MESSAGES: Final = TypeAdapter(list[AgentMessage])
_AGENT_CODE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

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

    def set(self, error: IsolaneError | None = None, *, asked_at: int | None = None) -> None:
        """Stop; the first call says why, and when it was asked for: now, if it names no time."""
        if not self._event.is_set():
            self.error = error
            self._requested_at = self._clock() if asked_at is None else asked_at
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
    share: int = Share.WHOLE
    """The most of the run that its end may bring along."""


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
    is_lost: bool = False
    """Whether it was under way when the process before this one died; all it gets is its end."""
    has_turn: bool = False
    """True once the run's turn has come after it waited."""
    is_abandoned: bool = False
    """Whether its agent goes on although nobody hears it."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What its client and its agent sent, and nobody here knows."""
    on_disconnect: OnDisconnect | None = None
    """What becomes of it when nobody reads it; None when nobody has asked it over HTTP."""
    is_revived: bool = False
    """Whether it waited over a restart: which door it came through isn't known."""
    unread: asyncio.TimerHandle | None = None
    """Stops it soon, because its reader has left."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    taken_on_at: int = field(default_factory=now_ms)
    """Milliseconds since 1970; before a restart, if there was one since."""

    @property
    def asked(self) -> Sequence[Message]:
        """The messages that it adds to its thread, or the question that it asks again."""
        return self.draft.messages if self.begun is None else self.begun.added

    def get_asked(self, message_id: str) -> Message | None:
        """Return the one of `asked` that has this id."""
        return next((one for one in self.asked if one["id"] == message_id), None)

    def to_started(self) -> Event:
        """Return its first event, which shows what it brings."""
        return run_started(
            thread_id=self.thread_id,
            run_id=self.run_id,
            messages=self.asked,
            rewind_to=self.draft.rewind_to,
            request=self.draft.request,
        )

    @property
    def has_question(self) -> bool:
        """Whether a user's message is among `asked`."""
        return any(one["role"] == "user" for one in self.asked)

    @property
    def goes_on(self) -> bool:
        """Whether it still answers, or will: nobody stopped it, and it outlived no process."""
        return not (self.stop.is_set() or self.is_lost)

    def is_answered_by(self, agent: str) -> bool:
        """Say whether its answer is what somebody waits for who asks its question of `agent`."""
        return self.draft.agent == agent and self.goes_on

    def note_asked_again(self, on_disconnect: OnDisconnect | None) -> None:
        """Note what a second frame says of readers that leave: the first one counts, if known."""
        if self.is_revived and self.on_disconnect is None:
            self.on_disconnect = on_disconnect

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
        self._naming = _naming_of(run, begun)
        self._text_id: str | None = None
        self._foreign = Foreign(run.left_out)
        self._ending: Ending | None = None
        self._exited: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def live(self) -> Event | None:
        """Write RUN_STARTED, let the agent speak, write the end; see `end_run`."""
        run = self._run
        try:
            await self._writer.start(run.to_started())
            ending = await self._supervise()
        except IsolaneError as error:  # the log can't be written
            ending = Ending(error=error)
        except Exception as error:  # noqa: BLE001 - the top of the task that owns a run
            ending = Ending(error=_caused(IsolaneError("the run broke"), error))
        _tell_left_out(run)
        return await end_run(run, self._writer, ending)

    async def _supervise(self) -> Ending:
        if self._run.stop.is_set():
            return self._stopped()
        self._run.stop.by = StoppedBy.AGENT
        agent = self._tasks.start(self._drive(), name=f"agent of {self._run.run_id}")
        stop = self._tasks.start(self._run.stop.wait(), name=f"stop of {self._run.run_id}")
        waits: set[asyncio.Future[Any]] = {agent, stop, self._exited}
        try:
            await asyncio.wait(waits, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._exited.done():
                return await self._end_exited(agent, self._exited.result())
            if agent.done():
                return agent.result()
            if self._run.stop.is_set():
                await asyncio.wait({agent}, timeout=self._stop_grace_s)
                if not agent.done():
                    self._run.stop.by = await self._end_agent(agent)
                return self._stopped()
            await self._end_agent(agent)
            if stop.done():  # whoever waits for a stop has broken: nobody would hear of one
                stop.result()
            return Ending(error=AgentTimeout(f"no end within {self._timeout_s:g} s"))
        finally:
            stop.cancel()

    @property
    def _stop_grace_s(self) -> float:
        """Seconds until a stopped agent is cancelled; none for one that can't hear the stop."""
        return STOP_GRACE_S if getattr(self._run.agent, "hears_stop", True) else 0

    async def _end_exited(self, agent: asyncio.Task[Ending], error: BaseException) -> Ending:
        """End an agent of which a part asked for the end of the process."""
        await self._end_agent(agent)
        return self._ending_now(Ending(error=_caused(AgentError("the agent exited"), error)))

    def _tell_of_exit(self, error: BaseException) -> None:
        """Note an exit in what the agent started, on whichever thread that was."""
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            self._exited.get_loop().call_soon_threadsafe(self._note_exit, error)

    def _note_exit(self, error: BaseException) -> None:
        if not self._exited.done():
            self._exited.set_result(error)

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
        _log.warning("agent_abandoned", **_names(self._run))
        return StoppedBy.ABANDONMENT

    async def _drive(self) -> Ending:
        """Let the agent speak. The top of the task that owns it: nothing gets past here."""
        run, taken = self._run, 0
        contain_exits(asyncio.get_running_loop())
        tell_of_exits(self._tell_of_exit)
        try:
            context = run.context.for_agent(
                self._begun.agent_ids, is_history_claimed=self._begun.is_history_claimed
            )
            made = await self._make_input()
            async with aclosing(run.agent.run(made, context, run.stop)) as stream:
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

    async def _make_input(self) -> RunAgentInput:
        """Return what the agent gets. A long history is made in steps, for others' sake."""
        ids, history = self._naming.agent, self._begun.history
        request = dict(self._run.draft.request)
        told = request.pop(INSTRUCTIONS, None)
        first = [] if told is None else [_to_instruction(told)]
        messages = _MESSAGES.validate_python([*first, *history[:HISTORY_STEP]])
        for start in range(HISTORY_STEP, len(history), HISTORY_STEP):
            await asyncio.sleep(0)
            messages += _MESSAGES.validate_python(history[start : start + HISTORY_STEP])
        return RunAgentInput.model_validate(
            {
                **request,
                **({} if self._begun.state is None else {"state": self._begun.state}),
                "threadId": ids.thread_id,
                "runId": ids.run_id,
                "parentRunId": ids.parent_run_id,
                "messages": messages,
            }
        )

    async def _take(self, value: object) -> None:
        if isinstance(value, str):
            await self._say(value)
            return
        known = self._foreign.adapt(value)
        if known is UNKNOWN:
            return
        event = to_event(known, naming=self._naming)
        if event["type"] == RUN_FINISHED:
            self._ending = self._ending_now(_agents_ending(event))
        elif event["type"] == RUN_ERROR:
            self._ending = self._ending_now(Ending(error=_agents_error(event)))
        elif event["type"] == SUBAGENT_ERROR:
            await self._writer.write(_subagents_error(event, self._run))
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
            _log.warning("agent_running_after_end", **_names(self._run))
        if dropped:
            _log.warning("events_after_end_dropped", count=dropped, **_names(self._run))


def _to_instruction(text: str) -> Message:
    return {"id": new_message_id(), "role": "system", "content": text}


def _naming_of(run: Run, begun: BegunRun) -> Naming:
    """Return both sides' ids of a run; one side's where the agent wants the client's."""
    client = RunIds(run.thread_id, run.run_id, run.draft.request.get("parentRunId"))
    is_raw = getattr(run.agent, "raw_ids", False) is True
    return Naming(client, client if is_raw else begun.agent_ids)


def _agents_ending(event: Event) -> Ending:
    _, event = encode_mended(event, max_bytes=sys.maxsize)  # its interrupts are kept as well
    outcome = event.get("outcome") or {"type": "success"}
    kept: dict[str, Any] = {
        name: event[name] for name in ("result", "usage", "metadata") if name in event
    }
    return Ending(outcome, kept)


def _agents_error(event: Event) -> AgentFailed:
    """Return the error that an agent told: its code, and its text where that may be read."""
    code, message = event.get("code"), mend_text(event["message"])
    is_public = (event.get("metadata") or {}).get("public") is True
    return AgentFailed(
        message,
        agent_code=code if code is not None and _AGENT_CODE.fullmatch(code) else None,
        agent_message=(message[:PUBLIC_MAX_CHARACTERS] or None) if is_public else None,
    )


def _subagents_error(event: Event, run: Run) -> Event:
    """Return what a client may read of a subagent's error, and log the rest; its run goes on.

    What the agent didn't make public may be the text of any exception, also in `rawEvent`.
    """
    error, error_id = _agents_error(event), new_error_id()
    _log.warning("subagent_failed", error_id=error_id, reason=str(error), **_names(run))
    metadata = {**(event.get("metadata") or {}), "errorId": error_id}
    told = {**event, "message": error.message, "code": error.agent_code, "metadata": metadata}
    if error.agent_message is None:
        told["rawEvent"] = None
    return {name: value for name, value in told.items() if value is not None}


def _tell_left_out(run: Run) -> None:
    """Warn once of all that a run left out."""
    left_out = run.left_out.to_report()
    if left_out:
        _log.warning("left_out", left_out=left_out, **_names(run))


def _caused(error: IsolaneError, cause: BaseException) -> IsolaneError:
    error.__cause__ = cause
    return error


async def end_run(run: Run, writer: RunWriter, ending: Ending) -> Event | None:
    """Write the run's one end. Returns the end when the database refuses even that for good.

    What may pass is waited for. What can't be written whole is ended without it: first without
    its messages, then without the events that wait.
    """
    error_id = None if ending.error is None else new_error_id()
    terminal, outcome = _terminal(run, ending, error_id)
    if ending.error is not None:
        _report(run, ending.error, error_id)
    for share in Share:
        if share < ending.share:
            continue
        end = partial(
            writer.finish,
            terminal,
            outcome=outcome,
            error_id=error_id,
            failure=ending.error if isinstance(ending.error, AgentFailed) else None,
            share=share,
        )
        try:
            await _write_end(run, end, ending)
        except NotFound:  # the thread was deleted under the run
            return None
        except AgentProtocolError as error:  # the agent's own result is too large, or no JSON
            return await end_run(run, writer, Ending(error=error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must end
            refused = _caused(DatabaseFailed("the run's end can't be written whole"), error)
            if ending.error is None:
                return await end_run(run, writer, replace(ending, error=refused, share=share + 1))
            _report_refused(run, refused, error_id)
        else:
            return None
    return terminal


async def _write_end(run: Run, end: Callable[..., Awaitable[None]], ending: Ending) -> None:
    """Write the end; while the log can't be written for now, try until it can."""
    backoff = Backoff()
    interrupts = ending.outcome.get("interrupts", ()) if ending.error is None else ()
    while True:
        stop = run.stop.to_report() if ending.is_stopped else None
        try:
            return await end(stop=stop, interrupts=interrupts)
        except Unavailable as error:
            _log.error("run_end_write_failed", reason=str(error), **_names(run))
            await backoff.pause()  # between two tries; the run waits for the disk


def _terminal(run: Run, ending: Ending, error_id: str | None) -> tuple[Event, str]:
    if ending.error is not None and error_id is not None:
        return run_failed(ending.error, error_id, run_id=run.run_id), ending.error.code
    event = run_finished(
        thread_id=run.thread_id, run_id=run.run_id, outcome=ending.outcome, **ending.kept
    )
    return event, str(ending.outcome["type"])


def _report(run: Run, error: IsolaneError, error_id: str | None) -> None:
    # Whose log is gone with its thread did no wrong. The log says so before the service is told.
    if run.is_deleted or isinstance(error, NotFound):
        return
    level = _log.info if isinstance(error, GoingAway) else _log.error
    level(
        "run_failed",
        error_id=error_id,
        code=error.code,
        chain=chain_of(error),
        exception=traceback_of(error),
        **_names(run),
    )


def _report_refused(run: Run, error: IsolaneError, error_id: str | None) -> None:
    _log.error("run_end_refused", error_id=error_id, chain=chain_of(error), **_names(run))


def _names(run: Run) -> dict[str, str]:
    context = run.context
    return {
        "user_id": context.user_id,
        "thread_id": run.thread_id,
        "run_id": run.run_id,
        "request_id": context.request_id,
    }
