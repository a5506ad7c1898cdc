"""Values that say who asks and for what; they carry isolation through the house."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Self

from isolane.clock import now_ms
from isolane.errors import InvalidContext, InvalidCursor
from isolane.ids import (
    check_request_id,
    check_user_id,
    check_wire_id,
    get_subject,
    new_request_id,
    to_parent_id,
)

DEPTH_MAX: Final = 10
"""Maximum number of contexts in a row that may descend from one another."""
ATTEMPT_MAX: Final = 1_000
"""Maximum of `attempt`, far above the attempts that a run has."""
TIME_MAX_MS: Final = 2**53 - 1
"""2**53 - 1, the largest whole number that every JSON reader keeps exactly."""
_EVENT_ID: Final = re.compile(r"([a-z0-9]{1,32})-(0|[1-9][0-9]{0,14})", re.ASCII)


class ThreadKey(NamedTuple):
    """The address of a log. It is a tuple, because two joined strings could be spelled alike."""

    user_id: str
    thread_id: str


class RunKey(NamedTuple):
    """The address of a run. Run ids belong to the user, not to the thread."""

    user_id: str
    run_id: str


class RunIds(NamedTuple):
    """The ids by which one side, a client or an agent, knows a run.

    A client chooses its own ids. An agent gets random ids, because another user may choose the same
    ones.
    """

    thread_id: str
    run_id: str
    parent_run_id: str | None = None
    """The run that this one continues, when the client named one."""


class EventId(NamedTuple):
    """A place in a log.

    `seq` counts from 1 without a gap per `epoch`; 0 is before the first entry.
    """

    epoch: str
    seq: int

    def __str__(self) -> str:
        """Return the wire form, `<epoch>-<seq>`."""
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """Return the event id that `text` spells.

        Raises:
            InvalidCursor: The text spells no event id.
        """
        found = _EVENT_ID.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InvalidCursor("after: must be an id as the server sent it, <epoch>-<number>")
        return cls(found[1], int(found[2]))


START: Final = EventId("0", 0)
"""The place before the first entry of any log. Number 0 goes with every epoch, so this is also
where the log of a thread ends that nobody has used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserExecutionContext:
    """The verified user, and the thread and run that the work is for.

    The door makes it once, from verified claims. It is valid by construction and is passed
    explicitly. `thread_id` and `run_id` are None until `for_thread()` and `for_run()`. The client
    chooses both, and two users may choose the same. `agent_thread_id` and `agent_run_id` are random
    UUIDs for the same thread and run. They are unique over all users, and only the agent's context
    has them.

    `request_id` is made by this gateway. A caller's own request id is kept as `parent_request_id`
    when it is well formed, and is dropped otherwise. `created_at` is in milliseconds since 1970.
    `depth` counts the contexts from which this one descends, at most 10.

    `issuer` is the `iss` of the user's tokens, or None. `subject` is the user's name at that
    issuer, before `to_user_id` made a user id of it. By default it is the decoded `user_id`.

    `is_history_claimed` tells the agent that a part of its history is only the caller's word. The
    gateway has not seen those messages. `attempt` counts from 1 how often a restartable agent was
    called for the run; a hand-over between processes isn't counted.

    Raises:
        InvalidContext: A value breaks its rule; the text names field, type and rule.
    """

    user_id: str
    thread_id: str | None = None
    run_id: str | None = None
    request_id: str = field(default_factory=new_request_id)
    connection_id: str | None = None
    created_at: int = field(default_factory=now_ms)
    parent_request_id: str | None = None
    depth: int = 0
    agent_thread_id: str | None = None
    agent_run_id: str | None = None
    issuer: str | None = None
    subject: str = ""
    is_history_claimed: bool = False
    attempt: int = 1

    def __post_init__(self) -> None:
        """Normalise the user id, and refuse every invalid value."""
        object.__setattr__(self, "user_id", check_user_id("userId", self.user_id))
        object.__setattr__(self, "subject", self.subject or get_subject(self.user_id))
        object.__setattr__(self, "parent_request_id", to_parent_id(self.parent_request_id))
        check_request_id("requestId", self.request_id)
        for name, value in (
            ("threadId", self.thread_id),
            ("runId", self.run_id),
            ("connectionId", self.connection_id),
            ("agentThreadId", self.agent_thread_id),
            ("agentRunId", self.agent_run_id),
        ):
            if value is not None:
                check_wire_id(name, value)
        if self.run_id is not None and self.thread_id is None:
            raise InvalidContext("runId", "needs a thread to belong to", self.run_id)
        _check_stands_for("agentThreadId", self.agent_thread_id, "a thread", self.thread_id)
        _check_stands_for("agentRunId", self.agent_run_id, "a run", self.run_id)
        _check_number("createdAt", self.created_at, most=TIME_MAX_MS)
        _check_number("depth", self.depth, most=DEPTH_MAX)
        _check_number("attempt", self.attempt, most=ATTEMPT_MAX)

    @property
    def thread_key(self) -> ThreadKey:
        """The address of this context's log.

        Raises:
            InvalidContext: The context has no thread yet; `for_thread()` sets one.
        """
        if self.thread_id is None:
            raise InvalidContext("threadId", "is needed here", None)
        return ThreadKey(self.user_id, self.thread_id)

    @property
    def run_key(self) -> RunKey:
        """The address of this context's run.

        Raises:
            InvalidContext: The context has no run yet; `for_run()` sets one.
        """
        if self.run_id is None:
            raise InvalidContext("runId", "is needed here", None)
        return RunKey(self.user_id, self.run_id)

    def child(self) -> Self:
        """Return a new context for work on behalf of this one."""
        return self._descend()

    def for_thread(self, thread_id: str) -> Self:
        """Return a context for one of the user's threads."""
        return self._descend(
            thread_id=thread_id,
            run_id=None,
            agent_thread_id=None,
            agent_run_id=None,
            is_history_claimed=False,
        )

    def for_run(self, run_id: str) -> Self:
        """Return a context for a run of this context's thread."""
        return self._descend(run_id=run_id, agent_run_id=None)

    def for_agent(self, ids: RunIds, *, is_history_claimed: bool = False, attempt: int = 1) -> Self:
        """Return this context with the ids by which the agent knows the thread and the run."""
        return replace(
            self,
            agent_thread_id=ids.thread_id,
            agent_run_id=ids.run_id,
            is_history_claimed=is_history_claimed,
            attempt=attempt,
        )

    def _descend(self, **changes: str | bool | None) -> Self:
        return replace(
            self,
            request_id=new_request_id(),
            parent_request_id=self.request_id,
            depth=self.depth + 1,
            created_at=now_ms(),
            **changes,  # type: ignore[arg-type]  # the three callers above pass ids only
        )


def _check_stands_for(field: str, value: str | None, what: str, named: str | None) -> None:
    if value is not None and named is None:
        raise InvalidContext(field, f"needs {what} to stand for", value)


def _check_number(field: str, value: object, *, most: int) -> None:
    # True is an int for Python, but no number here
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidContext(field, f"must be a whole number from 0 to {most}", value)
