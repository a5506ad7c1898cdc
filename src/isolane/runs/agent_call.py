"""The one call of a run's agent: its events go to the writer, and its errors become an ending."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

import structlog

from isolane.agents.exits import contain_exits, tell_of_exits
from isolane.agents.foreign import UNKNOWN, Foreign
from isolane.agents.translate import to_event
from isolane.errors import AgentError, IsolaneError, caused
from isolane.events.event import RUN_ERROR, RUN_FINISHED, RUN_STARTED, SUBAGENT_ERROR
from isolane.events.transcript import Message
from isolane.health.fairness import Turns
from isolane.ids import new_message_id
from isolane.runs.agent_endings import to_ending, to_failure, to_subagent_error
from isolane.runs.agent_input import make_input, naming_of
from isolane.runs.ending import Ending, ending_now
from isolane.runs.run import Run
from isolane.runs.writer import RunWriter

AFTER_END_S: Final = 1.0
"""Seconds in which an agent that has said its end should return."""
AFTER_END_MAX: Final = 1000
"""Maximum number of events after the end that are taken and dropped."""
BREATH_EVENTS: Final = 64
"""Events after which the event loop gets a pass, because an agent may never wait."""

_log = structlog.get_logger(__name__)


class AgentCall:
    """Lets a run's agent speak, once."""

    def __init__(
        self, run: Run, history: Sequence[Message], writer: RunWriter, *, turns: Turns
    ) -> None:
        """Prepare the call. A long `history` becomes the agent's input in several `turns`."""
        self._run = run
        self._history = list(history)
        """Messages for the agent's input. Empty once the input is made."""
        self._writer = writer
        self._turns = turns
        self._naming = naming_of(run)
        self._foreign = Foreign(run.left_out)
        self._text_id: str | None = None
        """Id of the message that plain text goes into."""
        self._ending: Ending | None = None
        """The end that the agent itself has said."""
        self.exited: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Resolves when something that the agent started asks for the end of the process."""

    async def drive(self) -> Ending:
        """Call the agent and return how the run ends; every error becomes an ending.

        This is the top of the agent's task. Cancelling it cancels the agent.
        """
        run, taken = self._run, 0
        contain_exits(asyncio.get_running_loop())
        tell_of_exits(self._tell_of_exit)
        try:
            begun = run.get_begun()
            context = run.context.for_agent(
                begun.agent_ids,
                is_history_claimed=begun.is_history_claimed,
                attempt=begun.attempt,
            )
            made = await make_input(run, self._history, self._naming, self._turns)
            async with aclosing(run.agent.run(made, context, run.stop)) as stream:
                async for value in stream:
                    taken += 1
                    if taken % BREATH_EVENTS == 0:
                        await asyncio.sleep(0)  # an agent that never waits would stop everybody
                    if self._ending is None and not self._take_word(value):
                        await self._take(value)
                    if self._ending is not None:
                        await self._drop_rest(stream)
                        break
        except IsolaneError as error:
            return Ending(error=error)
        except BaseException as error:  # noqa: BLE001 - a SystemExit that left a task would end the loop
            failed = Ending(error=caused(AgentError("the agent raised"), error))
            return self._ending or ending_now(run, failed)
        return self._ending or ending_now(run, Ending())

    def _take_word(self, value: object) -> bool:
        """Take one more word of the run's message, where that needs no waiting; say whether."""
        return (
            type(value) is str
            and self._text_id is not None
            and bool(value)
            and self._writer.write_piece("TEXT_MESSAGE_CONTENT", self._text_id, value)
        )

    async def _take(self, value: object) -> None:
        """Take one value that the agent yields."""
        if isinstance(value, str):
            await self._say(value)
            return
        known = self._foreign.adapt(value)
        if known is UNKNOWN:
            return
        event = to_event(known, naming=self._naming)
        if event["type"] == RUN_FINISHED:
            self._ending = ending_now(self._run, to_ending(event))
        elif event["type"] == RUN_ERROR:
            self._ending = ending_now(self._run, Ending(error=to_failure(event)))
        elif event["type"] == SUBAGENT_ERROR:
            await self._writer.write(to_subagent_error(event, self._run))
        elif event["type"] != RUN_STARTED:
            await self._writer.write(event)

    async def _say(self, text: str) -> None:
        """Put plain text into the run's one message."""
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
        """Give an agent that has said its end a moment to return, and drop what it adds."""
        dropped = 0
        try:
            async with asyncio.timeout(AFTER_END_S):
                async for _ in stream:
                    dropped += 1
                    if dropped >= AFTER_END_MAX:
                        break
        except TimeoutError:
            _log.warning("agent_running_after_end", **self._run.log_fields)
        if dropped:
            _log.warning("events_after_end_dropped", count=dropped, **self._run.log_fields)

    def _tell_of_exit(self, error: BaseException) -> None:
        """Note an exit in something that the agent started, on any thread."""
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            self.exited.get_loop().call_soon_threadsafe(self._note_exit, error)

    def _note_exit(self, error: BaseException) -> None:
        if not self.exited.done():
            self.exited.set_result(error)
