"""A run that this process has taken on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from isolane.clock import now_ms
from isolane.context import UserExecutionContext
from isolane.contracts import Agent, BegunRun, RunDraft
from isolane.errors import NoActiveRun
from isolane.events.event import Event, run_started
from isolane.events.left_out import LeftOut
from isolane.events.transcript import Message
from isolane.runs.readers import OnDisconnect
from isolane.runs.stop import Stop
from isolane.runs.writer import RunWriter


@dataclass(slots=True)
class Run:
    """A run from the moment it is taken on to its end."""

    context: UserExecutionContext
    draft: RunDraft
    agent: Agent
    stop: Stop = field(default_factory=Stop)
    writer: RunWriter | None = None
    begun: BegunRun | None = None
    is_deleted: bool = False
    """True once its thread was deleted."""
    is_lost: bool = False
    """True for a run that was under way when the process before this one died. It only gets its
    end."""
    has_turn: bool = False
    """True once the run's turn has come after it waited."""
    is_abandoned: bool = False
    """True when its agent goes on although nobody hears it."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What its client and its agent sent, and the gateway doesn't know."""
    on_disconnect: OnDisconnect | None = None
    """What becomes of it without readers; None when it was not asked over HTTP."""
    is_revived: bool = False
    """True for a run that waited over a restart. The door that it came through isn't known."""
    unread: asyncio.TimerHandle | None = None
    """Timer that stops it soon, because its reader has left."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    taken_on_at: int = field(default_factory=now_ms)
    """Milliseconds since 1970. A restart doesn't change it."""

    def get_begun(self) -> BegunRun:
        """Return how it began.

        Raises:
            NoActiveRun: It waits for its turn.
        """
        if self.begun is None:
            raise NoActiveRun("the run waits for its turn")
        return self.begun

    def take_history(self) -> Sequence[Message]:
        """Return the messages for its agent, once, because a long history takes megabytes.

        Raises:
            NoActiveRun: It waits for its turn.
        """
        begun = self.get_begun()
        self.begun = replace(begun, history=())
        return begun.history

    @property
    def asked(self) -> Sequence[Message]:
        """The messages that it adds to its thread, or the question that it asks again."""
        return self.draft.messages if self.begun is None else self.begun.added

    def get_asked(self, message_id: str) -> Message | None:
        """Return the message of `asked` that has this id."""
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
        """True when a user's message is among `asked`."""
        return any(one["role"] == "user" for one in self.asked)

    @property
    def is_restartable(self) -> bool:
        """True when another process may begin it anew."""
        return getattr(self.agent, "restartable", False) is True

    @property
    def waits(self) -> bool:
        """True while this process doesn't drive it: another node may have begun it."""
        return self.begun is None and not (self.has_turn or self.is_lost)

    @property
    def goes_on(self) -> bool:
        """True while it still answers, or will: it was neither stopped nor lost."""
        return not (self.stop.is_set() or self.is_lost)

    def is_answered_by(self, agent: str) -> bool:
        """Say whether its answer serves somebody who asks its question of `agent`."""
        return self.draft.agent == agent and self.goes_on

    def note_asked_again(self, on_disconnect: OnDisconnect | None) -> None:
        """Note what a second frame says about readers that leave. A known first frame counts."""
        if self.is_revived and self.on_disconnect is None:
            self.on_disconnect = on_disconnect

    @property
    def thread_id(self) -> str:
        """The thread it belongs to."""
        return self.context.thread_key.thread_id

    @property
    def run_id(self) -> str:
        """Its id, which is unique per user."""
        return self.context.run_key.run_id

    @property
    def log_fields(self) -> dict[str, str]:
        """The ids that each log line about the run names."""
        return {
            "user_id": self.context.user_id,
            "thread_id": self.thread_id,
            "run_id": self.run_id,
            "request_id": self.context.request_id,
        }
