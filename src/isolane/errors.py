"""The one tree of errors.

A leaf says what went wrong once, for every transport: `code` is what clients see, `close_code` is
how a WebSocket ends for it, `http_status` is the same for HTTP, `retryable` says whether coming
back can help. An error's text is for the log and, where `says_more` is true, for the client too;
everything else leaves the process as `public_message` only.

    IsolaneError
      Unauthenticated, Forbidden, IdentityMismatch     who asks
        Forbidden: MissingScope
      NotFound, UnknownResponse, UnknownAgent          what is asked for isn't there
      InvalidFrame, InvalidInput, InvalidCursor        what was sent can't be taken
        InvalidInput: InvalidContext
      CursorExpired                                    what was asked for is no longer kept
      TooLarge, LimitExceeded, RunConflict             too much, or not now
        LimitExceeded: QuotaExceeded
      SlowConsumer, Unavailable, GoingAway             the line, or the gateway itself
      DatabaseFailed, DatabaseInUse                    the data folder
      AgentError                                       how a run ends when its agent fails
        AgentFailed, AgentTimeout, AgentLost
        AgentProtocolError: RunTooLarge: EventTooLarge
      ContractError, AgentRefused                      a part that keeps no contract
      ConnectionFailed, ManagerClosed, NoActiveRun     a call that comes too late
"""

# Long because: the whole tree of errors in one view shows which codes there are.

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, ClassVar, Final

SHOWN_CHARACTERS: Final = 128
"""How much of a refused id its error repeats: as much as an id may have."""
CHAIN_MAX: Final = 20


class IsolaneError(Exception):
    """Root of everything that Isolane raises on purpose."""

    code: ClassVar[str] = "internal"
    close_code: ClassVar[int | None] = 1011
    http_status: ClassVar[int] = 500
    retryable: bool = True
    public_message: ClassVar[str] = "Something went wrong on the server."
    says_more: ClassVar[bool] = False
    """True when the text was written for the client: it names their field, value or limit."""

    retry_after_ms: int | None = None

    @property
    def message(self) -> str:
        """What a client may read."""
        return str(self) if self.says_more else self.public_message


class Unauthenticated(IsolaneError):
    """The credential is missing, bad, expired or revoked; `reason` says which."""

    code, close_code, http_status, retryable = "unauthenticated", 4401, 401, False
    public_message = "A valid credential is needed."

    def __init__(self, reason: str, detail: str = "") -> None:
        """Say why: `missing`, `invalid`, `expired` or `revoked`; `detail` is for the log."""
        super().__init__(detail or f"credential {reason}")
        self.reason = reason


class Forbidden(IsolaneError):
    """Who asks is known and may not: a foreign origin, a missing scope."""

    code, close_code, http_status, retryable = "forbidden", 4403, 403, False
    public_message = "This is not allowed."


class MissingScope(Forbidden):
    """The credential may do less than is asked; the text names what it lacks."""

    says_more = True

    def __init__(self, scope: str) -> None:
        """Name the scope that would do."""
        super().__init__(f"this wants a credential with the scope {scope}")


class NotFound(IsolaneError):
    """No such thread or run for this user. Foreign and unknown are one case, so one text."""

    code, close_code, http_status, retryable = "not_found", None, 404, False
    public_message = "There is no such thread or run."


class UnknownResponse(IsolaneError):
    """The response to go on from is unknown, deleted, another user's, or wasn't stored."""

    code, close_code, http_status = "previous_response_not_found", None, 404
    retryable = False
    public_message = "There is no such response to go on from."


class UnknownAgent(IsolaneError):
    """The address names an agent that this gateway doesn't serve."""

    code, close_code, http_status, retryable = "not_found", 1008, 404, False
    public_message = "There is no such agent."


class InvalidFrame(IsolaneError):
    """The frame is no JSON, or no frame of this protocol."""

    code, close_code, http_status, retryable = "invalid_frame", None, 400, False
    says_more = True


class InvalidInput(IsolaneError):
    """One field of an otherwise sound frame is wrong; the text begins with the field's name."""

    code, close_code, http_status, retryable = "invalid_input", None, 422, False
    says_more = True

    def __init__(self, field: str, rule: str) -> None:
        """Name the field as the client wrote it and what it may hold."""
        self.field = shorten(field)
        super().__init__(f"{self.field}: {rule}")


class InvalidContext(InvalidInput, ValueError):
    """A value that can't be part of a context: the text names field, type and rule."""

    def __init__(self, field: str, rule: str, value: object) -> None:
        """Name the field and its rule, and what type the refused `value` has."""
        super().__init__(field, f"{rule}, and this is {_described(value)}")
        self.type_name = type(value).__name__
        self.rule = rule


def shorten(text: str) -> str:
    """Return the beginning of a text that somebody else wrote, for an error and for the log."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def rule_of(first: Mapping[str, Any]) -> str:
    """Return what pydantic found wrong, without a word of what was sent."""
    if first.get("type") == "union_tag_invalid":
        context = first["ctx"]
        return f"{context['discriminator']} must be one of {context['expected_tags']}"
    return str(first.get("msg", "is wrong"))


def _described(value: object) -> str:
    """Name the type, and show what is short enough to be looked at."""
    if not isinstance(value, str):
        return f"of type {type(value).__name__}"
    shown = repr(value) if len(value) <= SHOWN_CHARACTERS else f"{len(value)} characters long"
    return f"text (str), {shown}"


class InvalidCursor(IsolaneError):
    """The cursor is malformed or ahead of the log."""

    code, close_code, http_status, retryable = "invalid_cursor", None, 422, False
    says_more = True


class CursorExpired(IsolaneError):
    """The cursor is older than what the log keeps, or of another numbering."""

    code, close_code, http_status, retryable = "resume_expired", None, 410, False
    public_message = "What came after this id is no longer kept."


class IdentityMismatch(IsolaneError):
    """A renewal carried another user's token; the connection keeps its identity."""

    code, close_code, http_status, retryable = "identity_mismatch", None, 403, False
    public_message = "The token belongs to another user."


class TooLarge(IsolaneError):
    """A frame, event or body exceeds its limit in bytes."""

    code, close_code, http_status, retryable = "too_large", 1009, 413, False
    says_more = True


class LimitExceeded(IsolaneError):
    """The user already has as much as the settings allow; the text names limit and value."""

    code, close_code, http_status, retryable = "limit_exceeded", 4429, 429, True
    says_more = True
    is_flood = False
    """Whether there are so many of these that each is one line too many in the log."""

    def __init__(
        self, limit: str, value: int, *, retry_after_ms: int | None = 1000, more: str = ""
    ) -> None:
        """Name the published limit, its enforced value, and when to come back (milliseconds)."""
        super().__init__(f"{limit} is limited to {value}{more}")
        self.retry_after_ms = retry_after_ms


class QuotaExceeded(LimitExceeded):
    """The user keeps as much as the settings allow; only deleting makes room, waiting doesn't."""

    retryable = False

    def __init__(self, limit: str, value: int, kept: int, unit: str) -> None:
        """Name the published limit, its enforced value in `unit`, and how much is kept."""
        more = f", and {kept} {unit} are kept: what is new doesn't fit; deleting threads makes room"
        super().__init__(limit, value, retry_after_ms=None, more=more)


class RunConflict(IsolaneError):
    """The thread is busy under policy `reject`, or the run id was used with other content."""

    code, close_code, http_status, retryable = "run_conflict", None, 409, False
    says_more = True

    def __init__(self, detail: str, *, retryable: bool = False) -> None:
        """Say what is in the way; a busy thread is worth another try, other content never is."""
        super().__init__(detail)
        self.retryable = retryable


class SlowConsumer(IsolaneError):
    """Nothing could be sent to the socket for as long as the settings allow."""

    code, close_code, http_status, retryable = "slow_consumer", 4409, 408, True
    public_message = "The connection took nothing for too long; resume."


class Unavailable(IsolaneError):
    """Starting, draining, or a dependency is down."""

    code, close_code, http_status, retryable = "unavailable", 1013, 503, True
    public_message = "The gateway can't take this now."
    retry_after_ms = 1000


class DatabaseFailed(IsolaneError):
    """The database refused a statement for good: the same statement would be refused again."""


class GoingAway(IsolaneError):
    """The gateway shuts down; come back and resume."""

    code, close_code, http_status, retryable = "going_away", 1001, 503, True
    public_message = "The gateway is shutting down."


class AgentError(IsolaneError):
    """The agent raised."""

    code, close_code, http_status, retryable = "agent_error", None, 500, True
    public_message = "The agent failed."


class AgentFailed(AgentError):
    """The agent ended its run with an error of its own; the text tells what it said, for the log.

    A client reads its code, and its message where the agent made that public.
    """

    def __init__(
        self, said: str, *, agent_code: str | None = None, agent_message: str | None = None
    ) -> None:
        """Keep what the agent `said`, and what of it a client may read."""
        super().__init__(f"the agent said: {said}")
        self.agent_code = agent_code
        self.agent_message = agent_message

    @property
    def message(self) -> str:
        """What a client may read."""
        return self.agent_message or self.public_message


class AgentTimeout(AgentError):
    """The agent didn't end before its deadline."""

    code = "agent_timeout"
    public_message = "The agent took too long."


class AgentProtocolError(AgentError):
    """The agent yielded what may not stand in a log; the text says what and why."""

    code = "agent_protocol"
    public_message = "The agent broke the protocol."


class RunTooLarge(AgentProtocolError):
    """A run has more events or bytes than the settings allow; the text names the limit."""

    says_more = True

    def __init__(self, limit: str, value: int) -> None:
        """Name the published limit and its enforced value."""
        super().__init__(f"The run has more than its {limit}, which are {value}.")


class EventTooLarge(RunTooLarge):
    """An event has more bytes than the settings allow; the text names its kind and the limit."""

    def __init__(self, kind: str, size: int, most: int) -> None:
        """Name the kind of event, its size as far as it is known, and the enforced value."""
        AgentProtocolError.__init__(
            self,
            f"The agent broke the protocol: {kind} has {size} bytes, at most {most} are allowed.",
        )


class AgentLost(AgentError):
    """The process died while the run was under way."""

    code = "agent_lost"
    public_message = "The run was lost when the gateway stopped."


class ContractError(IsolaneError, TypeError, RuntimeError):
    """An object doesn't keep its contract: names class, method, what was wanted and the mend."""


class ConnectionFailed(IsolaneError):
    """A socket ends for something that nobody foresaw, which is the cause of this."""


class ManagerClosed(IsolaneError, RuntimeError):
    """The manager has let its thread go; ask the factory for the one that is alive."""


class NoActiveRun(IsolaneError, RuntimeError):
    """An event was to join the log outside any run."""


class DatabaseInUse(IsolaneError, RuntimeError):
    """Another gateway has the data folder open; two would give the same ids to other events."""


class AgentRefused(IsolaneError, TypeError):
    """What `--agent` names is no agent; the text says what it is and what is wanted."""


def chain_of(error: BaseException) -> list[str]:
    """Return what happened from the surface to the root, a sentence for each error on the way."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < CHAIN_MAX:  # a chain may bite its own tail
        chain.append(f"{type(current).__name__}: {_text_of(current)}")
        is_hidden = current.__cause__ is None and current.__suppress_context__
        current = None if is_hidden else current.__cause__ or current.__context__
    return chain


def traceback_of(error: BaseException) -> str:
    """Return the traceback as text, for the log.

    What formats it for us may add the locals of each frame, and with them tokens and messages.
    """
    return "".join(traceback.format_exception(error))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - agents raise anything, also errors that can't be printed
        return "(its text can't be had)"
