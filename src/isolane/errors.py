"""The one tree of errors.

Each class says once, for every transport, what went wrong. `code` is the word that clients read.
`close_code` closes a WebSocket, `http_status` answers an HTTP request. `retryable` says whether
another try can help. An error's text is for the log. Where `says_more` is true, the client reads it
too; otherwise the client reads only `public_message`.

    IsolaneError
      Unauthenticated, Forbidden, IdentityMismatch     the user
        Forbidden: MissingScope
      NotFound, UnknownResponse, UnknownAgent          no such thing
        NotFound: Fenced
      InvalidFrame, InvalidInput, InvalidCursor        a wrong frame or field
        InvalidInput: InvalidContext
      CursorExpired                                    the log no longer keeps it
      TooLarge, LimitExceeded, RunConflict             too much, or not now
        LimitExceeded: QuotaExceeded
      SlowConsumer, Unavailable, GoingAway             the connection, or the gateway itself
      DatabaseFailed, DatabaseInUse                    the data folder
      AgentError                                       the end of a run whose agent fails
        AgentFailed, AgentTimeout, AgentLost
        AgentProtocolError: RunTooLarge: EventTooLarge
      ContractError, AgentRefused                      a part that breaks its contract
      ConnectionFailed, ManagerClosed, NoActiveRun     a call that comes too late
"""

# Long because: the whole tree of errors in one view shows which codes there are.

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar

E = TypeVar("E", bound=BaseException)

SHOWN_CHARACTERS: Final = 128
"""Maximum characters of a refused id that its error repeats; no valid id has more."""
CHAIN_MAX: Final = 20
"""Maximum number of errors of a chain that are logged; each one is the cause of the one before."""


class IsolaneError(Exception):
    """Root of all errors that Isolane raises on purpose."""

    code: ClassVar[str] = "internal"
    close_code: ClassVar[int | None] = 1011
    http_status: ClassVar[int] = 500
    retryable: bool = True
    public_message: ClassVar[str] = "Something went wrong on the server."
    says_more: ClassVar[bool] = False
    """True when the text is written for the client: it names the client's field, value or limit."""

    retry_after_ms: int | None = None

    @property
    def message(self) -> str:
        """The text that a client may read."""
        return str(self) if self.says_more else self.public_message


class Unauthenticated(IsolaneError):
    """The credential is missing, invalid, expired or revoked; `reason` says which."""

    code, close_code, http_status, retryable = "unauthenticated", 4401, 401, False
    public_message = "A valid credential is needed."

    def __init__(self, reason: str, detail: str = "") -> None:
        """Set `reason`.

        `missing`, `invalid`, `expired` or `revoked`; `detail` is for the log only.
        """
        super().__init__(detail or f"credential {reason}")
        self.reason = reason


class Forbidden(IsolaneError):
    """The user is known but not allowed: a foreign origin, a missing scope."""

    code, close_code, http_status, retryable = "forbidden", 4403, 403, False
    public_message = "This is not allowed."


class MissingScope(Forbidden):
    """The credential lacks a scope; the text names it."""

    says_more = True

    def __init__(self, scope: str) -> None:
        """Name the missing scope."""
        super().__init__(f"this wants a credential with the scope {scope}")


class NotFound(IsolaneError):
    """The user has no such thread or run. Foreign ids and unknown ids get the same text."""

    code, close_code, http_status, retryable = "not_found", None, 404, False
    public_message = "There is no such thread or run."


class Fenced(NotFound):
    """Another writer has taken the run over, or its end is written. Internal: no client is told."""


class UnknownResponse(IsolaneError):
    """The previous response is unknown, deleted, another user's, or was not stored."""

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
    """One field of a well-formed frame is wrong; the text begins with the field's name."""

    code, close_code, http_status, retryable = "invalid_input", None, 422, False
    says_more = True

    def __init__(self, field: str, rule: str) -> None:
        """Name the field as the client wrote it, and its rule."""
        self.field = shorten(field)
        super().__init__(f"{self.field}: {rule}")


class InvalidContext(InvalidInput, ValueError):
    """A value can't be part of a context; the text names field, type and rule."""

    def __init__(self, field: str, rule: str, value: object) -> None:
        """Name the field, its rule, and the type of the refused `value`."""
        super().__init__(field, f"{rule}, and this is {_described(value)}")
        self.type_name = type(value).__name__
        self.rule = rule


def shorten(text: str) -> str:
    """Return the beginning of a foreign text, for an error and for the log."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def rule_of(first: Mapping[str, Any]) -> str:
    """Return the rule that pydantic found broken, without the input, which may be secret."""
    if first.get("type") == "union_tag_invalid":
        context = first["ctx"]
        return f"{context['discriminator']} must be one of {context['expected_tags']}"
    return str(first.get("msg", "is wrong"))


def _described(value: object) -> str:
    """Return the type of a value, and the value itself when it is short."""
    if not isinstance(value, str):
        return f"of type {type(value).__name__}"
    shown = repr(value) if len(value) <= SHOWN_CHARACTERS else f"{len(value)} characters long"
    return f"text (str), {shown}"


class InvalidCursor(IsolaneError):
    """The cursor is malformed or ahead of the log."""

    code, close_code, http_status, retryable = "invalid_cursor", None, 422, False
    says_more = True


class CursorExpired(IsolaneError):
    """The cursor is older than the log keeps, or belongs to another epoch."""

    code, close_code, http_status, retryable = "resume_expired", None, 410, False
    public_message = "What came after this id is no longer kept."


class IdentityMismatch(IsolaneError):
    """A renewal carried another user's token; the connection keeps its user."""

    code, close_code, http_status, retryable = "identity_mismatch", None, 403, False
    public_message = "The token belongs to another user."


class TooLarge(IsolaneError):
    """A frame, event or body has more bytes than its limit."""

    code, close_code, http_status, retryable = "too_large", 1009, 413, False
    says_more = True


class LimitExceeded(IsolaneError):
    """The user reached a limit of the settings; the text names the limit and its value."""

    code, close_code, http_status, retryable = "limit_exceeded", 4429, 429, True
    says_more = True
    is_flood = False
    """True for errors that come in floods, so that one line per error would fill the log."""

    def __init__(
        self, limit: str, value: int, *, retry_after_ms: int | None = 1000, more: str = ""
    ) -> None:
        """Name the published limit, its enforced value, and the wait in milliseconds."""
        super().__init__(f"{limit} is limited to {value}{more}")
        self.retry_after_ms = retry_after_ms


class QuotaExceeded(LimitExceeded):
    """The user's stored data reached its limit; only deleting makes room, waiting doesn't."""

    retryable = False

    def __init__(self, limit: str, value: int, kept: int, unit: str) -> None:
        """Name the published limit, its enforced value in `unit`, and the stored amount."""
        more = f", and {kept} {unit} are kept: what is new doesn't fit; deleting threads makes room"
        super().__init__(limit, value, retry_after_ms=None, more=more)


class RunConflict(IsolaneError):
    """The thread is busy under policy `reject`, or the run id was used with other content."""

    code, close_code, http_status, retryable = "run_conflict", None, 409, False
    says_more = True

    def __init__(self, detail: str, *, retryable: bool = False) -> None:
        """Say what the conflict is. A busy thread is worth another try; other content never is."""
        super().__init__(detail)
        self.retryable = retryable


class SlowConsumer(IsolaneError):
    """The socket took no bytes for as long as the settings allow."""

    code, close_code, http_status, retryable = "slow_consumer", 4409, 408, True
    public_message = "The connection took nothing for too long; resume."


class Unavailable(IsolaneError):
    """The gateway starts or drains, or a dependency is down."""

    code, close_code, http_status, retryable = "unavailable", 1013, 503, True
    public_message = "The gateway can't take this now."
    retry_after_ms = 1000


class DatabaseFailed(IsolaneError):
    """The database refused a statement, and would refuse it again."""


class GoingAway(IsolaneError):
    """The gateway shuts down; the client should connect again and resume."""

    code, close_code, http_status, retryable = "going_away", 1001, 503, True
    public_message = "The gateway is shutting down."


class HandedOver(GoingAway):
    """The run goes on in another process: its agent here is cancelled, and the run has no end."""


class AgentError(IsolaneError):
    """The agent raised an error."""

    code, close_code, http_status, retryable = "agent_error", None, 500, True
    public_message = "The agent failed."


class AgentFailed(AgentError):
    """The agent ended its run with an error of its own; the text is for the log.

    A client reads the agent's code. It reads the agent's message only if the agent made that
    public.
    """

    def __init__(
        self, said: str, *, agent_code: str | None = None, agent_message: str | None = None
    ) -> None:
        """Keep the error text `said` for the log, and the parts that a client may read."""
        super().__init__(f"the agent said: {said}")
        self.agent_code = agent_code
        self.agent_message = agent_message

    @property
    def message(self) -> str:
        """The text that a client may read."""
        return self.agent_message or self.public_message


class AgentTimeout(AgentError):
    """The agent didn't end before its deadline."""

    code = "agent_timeout"
    public_message = "The agent took too long."


class AgentProtocolError(AgentError):
    """The agent yielded an event that may not stand in a log; the text says which and why."""

    code = "agent_protocol"
    public_message = "The agent broke the protocol."


class RunTooLarge(AgentProtocolError):
    """A run has more events or bytes than the settings allow; the text names the limit."""

    says_more = True

    def __init__(self, limit: str, value: int) -> None:
        """Name the published limit and its enforced value."""
        super().__init__(f"The run has more than its {limit}, which are {value}.")


class EventTooLarge(RunTooLarge):
    """An event has more bytes than the settings allow; the text names its type and the limit."""

    def __init__(self, kind: str, size: int, most: int) -> None:
        """Name the event's type, its size as far as it is known, and the enforced value."""
        AgentProtocolError.__init__(
            self,
            f"The agent broke the protocol: {kind} has {size} bytes, at most {most} are allowed.",
        )


class AgentLost(AgentError):
    """The process ended while the run was active."""

    code = "agent_lost"
    public_message = "The run was lost when the gateway stopped."


class ContractError(IsolaneError, TypeError, RuntimeError):
    """An object breaks its contract; the text names class, method, the rule and the mend."""


class ConnectionFailed(IsolaneError):
    """A socket ends because of an unforeseen error, which is this error's cause."""


class ManagerClosed(IsolaneError, RuntimeError):
    """The manager is closed; ask the factory for the thread's live manager."""


class NoActiveRun(IsolaneError, RuntimeError):
    """An event can't join the log, because the thread has no active run."""


class DatabaseInUse(IsolaneError, RuntimeError):
    """Another gateway has the data folder open; two would give one id to two events."""


class NameTaken(IsolaneError, RuntimeError):
    """Another process serves the database under the name of this one; its runs are lost."""


class KeyDiffers(IsolaneError, RuntimeError):
    """Another process serves the database and signs with another key."""


class AgentRefused(IsolaneError, TypeError):
    """The object that `--agent` names is no agent; the text says what it is and what is wanted."""


def caused(error: E, cause: BaseException) -> E:
    """Return `error` with its cause, as `raise error from cause` sets it."""
    error.__cause__ = cause
    return error


def chain_of(error: BaseException) -> list[str]:
    """Return one sentence per error, from the outermost error to its first cause."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < CHAIN_MAX:  # a chain may lead back to itself
        chain.append(f"{type(current).__name__}: {_text_of(current)}")
        is_hidden = current.__cause__ is None and current.__suppress_context__
        current = None if is_hidden else current.__cause__ or current.__context__
    return chain


def traceback_of(error: BaseException) -> str:
    """Return the traceback as text, for the log.

    The log's own formatter may add the locals of each frame, and they hold tokens and messages.
    """
    return "".join(traceback.format_exception(error))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - agents raise anything, also errors that can't be printed
        return "(its text can't be had)"
