"""The shapes of the wire: JSON text to typed frames, and values to JSON text.

Reading is strict. JSON leaves some things open, and attackers use them. So these are malformed
here: duplicate keys, NaN, depth over 64, numbers over 100 digits, lone surrogates, and more than
100,000 values. Only this module converts between the wire's camelCase and Python's names.
"""

# Long because: what is read and what is written of the wire are to be seen together.

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NoReturn

import msgspec
from ag_ui.core import (
    AssistantMessage,
    ContentPart,
    Context,
    Message,
    ResumeEntry,
    RunAgentInput,
    SystemMessage,
    Tool,
)
from pydantic import FailFast, TypeAdapter, ValidationError

from isolane.context import EventId
from isolane.errors import InvalidFrame, InvalidInput, IsolaneError, rule_of
from isolane.events.left_out import Kind, LeftOut
from isolane.events.parts import known_parts
from isolane.events.surrogates import has_half
from isolane.ids import check_wire_id
from isolane.wire.said import mend_said

DEPTH_MAX: Final = 64
"""Maximum levels of lists and objects in a frame."""
NUMBER_MAX_DIGITS: Final = 100
"""Maximum digits of a number; reading longer ones takes a time that grows with the square."""
VALUES_MAX: Final = 100_000
"""Maximum number of numbers, texts, lists and objects in one frame. Reading that many takes about
50 ms. A frame of 1 MiB could hold five times as many, and would block the event loop for half a
second."""
SUBPROTOCOL: Final = "agui.v1"
"""Name of the WebSocket subprotocol that speaks these frames."""
VERSION: Final = 1


# --- what clients send ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The client asks for control frames from now on."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The client follows a thread, strictly after `after`; None means from the start of the log."""

    thread_id: str
    after: EventId | None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The client stops following a thread."""

    thread_id: str


@dataclass(frozen=True, slots=True)
class Renew:
    """The client brings a newer token of the same user."""

    token: str


@dataclass(frozen=True, slots=True)
class Ping:
    """The client asks for a pong that carries the same `t`."""

    t: object = None


@dataclass(frozen=True, slots=True)
class Abort:
    """The client stops one of the user's runs."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Run:
    """The client runs the agent.

    `body` is AG-UI's RunAgentInput as it came, with its ids checked.
    """

    thread_id: str
    run_id: str
    body: Mapping[str, Any] = field(repr=False)


ClientFrame = Hello | Subscribe | Unsubscribe | Renew | Ping | Abort | Run


def decode_frame(text: str) -> ClientFrame:
    """Return the frame that `text` holds.

    Raises:
        InvalidFrame: The text is no JSON object of this protocol.
        InvalidInput: A field of the frame is wrong.
        InvalidCursor: The field `after` is no event id.
    """
    body = decode_object(text)
    if "type" not in body:
        return read_run(body)
    match body["type"]:
        case "hello":
            return _hello(body)
        case "subscribe":
            after = body.get("after")
            start = None if after is None else EventId.parse(after)
            return Subscribe(check_wire_id("threadId", body.get("threadId")), start)
        case "unsubscribe":
            return Unsubscribe(check_wire_id("threadId", body.get("threadId")))
        case "auth":
            return Renew(_text("token", body.get("token")))
        case "ping":
            return Ping(body.get("t"))
        case "abort":
            return Abort(check_wire_id("runId", body.get("runId")))
        case other:
            raise InvalidFrame(f"type: {str(other)[:40]!r} is no frame of {SUBPROTOCOL}")


def _hello(body: Mapping[str, Any]) -> Hello:
    if body.get("v") != VERSION or body["v"] is True:
        raise InvalidInput("v", f"must be {VERSION}, the one version there is")
    return Hello()


def read_run(body: Mapping[str, Any]) -> Run:
    """Return the run that `body` asks for.

    Raises:
        InvalidFrame: The body is no run.
        InvalidInput: A field of the body is wrong.
    """
    if not body.keys() & {"threadId", "runId", "messages"}:
        raise InvalidFrame("a frame needs a type, or is a run with threadId, runId and messages")
    if not isinstance(body.get("messages"), list):
        raise InvalidInput("messages", "must be a list")
    thread_id = check_wire_id("threadId", body.get("threadId"))
    return Run(thread_id, check_wire_id("runId", body.get("runId")), body)


def speaks_agui_1(run: Run) -> bool:
    """Say whether the client reads AG-UI 1.0, which brought the outcome `cancelled`.

    Older clients name no version of the protocol.
    """
    version = run.body.get("protocolVersion")
    return isinstance(version, str) and bool(version) and not version.startswith("0.")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(name, "must be text")
    return value


def decode_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object that `text` holds.

    Raises:
        InvalidFrame: The text is no JSON object, or breaks a rule of this module; the text says
            which.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        if has_too_many_values(text):  # counted before Python objects are made
            raise InvalidFrame(f"the frame holds more than {VALUES_MAX} values")
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_int,
            parse_float=_float,
        )
    except RecursionError as error:
        raise InvalidFrame(f"the frame is nested deeper than {DEPTH_MAX}") from error
    except ValueError as error:
        raise InvalidFrame("the frame is not JSON") from error
    if not isinstance(value, dict):
        raise InvalidFrame("a frame is one JSON object")
    try:
        _check_tree(value)
    except InvalidFrame:
        if not mend_said(value):
            raise
        _check_tree(value)
    return value


def has_too_many_values(text: str) -> bool:
    """Say whether JSON holds more than `VALUES_MAX` values, without decoding it."""
    # The quick count includes commas inside texts, so only a high one needs the slow count.
    return count_marks(text) > VALUES_MAX and count_values(text) > VALUES_MAX


def count_values(text: str) -> int:
    """Return how many values JSON holds. The count is never too low; an empty list counts twice."""
    return count_marks(_TEXT.sub("", text))


def count_marks(text: str) -> int:
    """Return the number of commas and opening brackets, those inside texts included."""
    return sum(map(text.count, ",[{"))


_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A text in JSON. A text without an end matches up to the frame's end. Otherwise the search for the
end would begin again at each quote, and would cost the square of the frame's length."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidFrame("a key stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidFrame(f"{name} is not JSON")


def _int(digits: str) -> int:
    _check_digits(digits)
    return int(digits)


def _float(digits: str) -> float:
    _check_digits(digits)
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InvalidFrame("a number is too large for JSON's readers")
    return value


def _check_digits(digits: str) -> None:
    if len(digits) > NUMBER_MAX_DIGITS and sum(map(str.isdigit, digits)) > NUMBER_MAX_DIGITS:
        raise InvalidFrame(f"a number has more than {NUMBER_MAX_DIGITS} digits")


def _check_tree(root: dict[str, Any]) -> None:
    """Refuse a tree that is too deep or can't be written in UTF-8.

    The check goes level by level, because recursion could overflow the stack.
    """
    level: list[Any] = [root]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below.extend(node)
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            elif isinstance(node, str) and not node.isascii():
                _check_unicode(node)
        if not below:
            return
        level = below
    if any(isinstance(node, dict | list) for node in level):
        raise InvalidFrame(f"the frame is nested deeper than {DEPTH_MAX}")
    for node in level:
        if isinstance(node, str):
            _check_unicode(node)


def _check_unicode(text: str) -> None:
    if has_half(text):
        raise InvalidFrame("a text holds half a surrogate pair")


_INPUT_FIELDS: Final = ("state", "tools", "context", "forwardedProps", "resume", "parentRunId")
# compared with ==, never hashed, because a client's role may be a list
KEPT_ROLES: Final = ("user", "tool")
INSTRUCTING_ROLES: Final = ("system", "developer")
"""Roles that only the operator may use. Messages of a client in these roles are left out."""
_INSTRUCTION: Final = SystemMessage(id="ignored", role="system", content="")
_IGNORED: Final = AssistantMessage(id="ignored", role="assistant")
"""Placeholders for messages that are left out, so that each other message keeps its index."""


_INPUT: Final = TypeAdapter(RunAgentInput)
_ONE_MESSAGE: Final[TypeAdapter[Any]] = TypeAdapter(Message)
_ONE_PART: Final[TypeAdapter[Any]] = TypeAdapter(ContentPart)
# A list may hold 100,000 items. Validation ends at the first wrong one, because the error names
# only that one.
_LISTS: Final[Mapping[str, TypeAdapter[Any]]] = {
    "tools": TypeAdapter(Annotated[list[Tool], FailFast()]),
    "context": TypeAdapter(Annotated[list[Context], FailFast()]),
    "resume": TypeAdapter(Annotated[list[ResumeEntry], FailFast()]),
}


def to_run_input(run: Run, left_out: LeftOut | None = None) -> RunAgentInput:
    """Return the run's input as AG-UI's model, with each message at its index.

    The server keeps the history, so only messages of users and tools are taken from a client's
    list. An empty message takes the place of each other one: `system` for instructions, `assistant`
    for the rest. `left_out` notes what a client might miss.

    Raises:
        InvalidInput: A field is wrong; the text names it.
    """
    messages = list(_read_messages(run.body["messages"], left_out or LeftOut()))
    given = {name: run.body[name] for name in _INPUT_FIELDS if run.body.get(name) is not None}
    for name in _LISTS.keys() & given:
        given[name] = _validate(name, _LISTS[name], given[name])
    fields = {"threadId": run.thread_id, "runId": run.run_id, "messages": [], **given}
    made: RunAgentInput = _validate("", _INPUT, fields)
    made.messages = messages  # put in here, because pydantic would look at each of them again
    return made


def _read_messages(listed: Sequence[Any], left_out: LeftOut) -> Iterator[Message]:
    """Yield each message that is taken from a client's list, or a placeholder at its index."""
    roles = [one.get("role") if isinstance(one, dict) else "user" for one in listed]
    last = max((i for i, role in enumerate(roles) if role not in INSTRUCTING_ROLES), default=0)
    for place, (message, role) in enumerate(zip(listed, roles, strict=True)):
        if role in INSTRUCTING_ROLES:
            left_out.note(Kind.ROLE, str(role))
            yield _INSTRUCTION
        elif role not in KEPT_ROLES:
            yield _IGNORED
        else:
            path = f"messages.{place}"
            yield _read_message(path, message, left_out, may_be_empty=place != last)


def _read_message(
    path: str,
    message: Any,  # noqa: ANN401 - what a client sent
    left_out: LeftOut,
    *,
    may_be_empty: bool,
) -> Message:
    """Return a message with only its known parts.

    A message without any known part is refused. Where it `may_be_empty` it is left out instead: a
    client's list keeps the question that was refused once, and would be refused for ever.
    """
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        known = known_parts(content, left_out)
        if content and not known:
            if may_be_empty:
                left_out.note(Kind.MESSAGE, str(message["role"]))
                return _IGNORED
            raise InvalidInput(f"{path}.content", "has no part of a type that AG-UI 1.0 knows")
        parts = [_read_part(f"{path}.content.{place}", part) for place, part in known.items()]
        message = {**message, "content": parts}
    made: Message = _validate(path, _ONE_MESSAGE, message)
    return made


def _read_part(path: str, part: Any) -> ContentPart:  # noqa: ANN401 - what a client sent
    if isinstance(part, dict) and part.get("type") == "binary":
        raise InvalidInput(path, "a binary part needs a mimeType, and data, a url or an id")
    made: ContentPart = _validate(path, _ONE_PART, part)
    return made


def _validate(path: str, adapter: TypeAdapter[Any], value: object) -> Any:  # noqa: ANN401
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(part for part in (path, *map(str, first["loc"])) if part)
        raise InvalidInput(field, rule_of(first)) from error


# --- what the server sends -----------------------------------------------------------------------

_encode = msgspec.json.encode


def encode_frame(frame: Mapping[str, object]) -> str:
    """Return `frame` as JSON text."""
    return _encode(frame).decode()


PING: Final = encode_frame({"type": "ping"})


def error_frame(error: IsolaneError, error_id: str, **about: str | None) -> dict[str, object]:
    """Return the control frame for `error`; `about` has `threadId` and `runId` where known."""
    frame: dict[str, object] = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "errorId": error_id,
        "retryable": error.retryable,
        **error_details(error),
    }
    frame.update({name: value for name, value in about.items() if value is not None})
    return frame


def error_details(error: IsolaneError) -> dict[str, object]:
    """Return the extra fields of some errors: the reason, the wait, or the field."""
    details: dict[str, object] = {}
    for name, key in (("reason", "reason"), ("field", "field"), ("retry_after_ms", "retryAfterMs")):
        value = getattr(error, name, None)
        if value is not None:
            details[key] = value
    return details


def run_error(error: IsolaneError, error_id: str, *, run_id: str | None) -> dict[str, object]:
    """Return the RUN_ERROR event for `error`, which every AG-UI client understands.

    Its `errorId` is in `metadata`, because published clients drop other unknown fields.
    """
    event: dict[str, object] = {
        "type": "RUN_ERROR",
        "message": error.message,
        "code": error.code,
        "metadata": {"errorId": error_id},
    }
    if run_id is not None:
        event["runId"] = run_id
    return event


def thread_frame(
    *, thread_id: str, title: str, updated_at: int, active_run_id: str | None, is_deleted: bool
) -> dict[str, object]:
    """Return the frame that tells a user's sockets about a change of one of their threads."""
    return {
        "type": "thread",
        "threadId": thread_id,
        "title": title,
        "updatedAt": updated_at,
        "activeRunId": active_run_id,
        "deleted": is_deleted,
    }


def welcome(
    *,
    connection_id: str,
    user_id: str,
    heartbeat_ms: int,
    limits: Mapping[str, int],
    token_expires_at: int | None,
    active_runs: Sequence[Mapping[str, str]],
    nodes: int,
) -> dict[str, object]:
    """Return the answer to hello; `nodes` is the number of processes that serve the database."""
    transport = {"streaming": True, "websocket": True, "resumable": True}
    return {
        "type": "welcome",
        "v": VERSION,
        "connectionId": connection_id,
        "userId": user_id,
        "heartbeatMs": heartbeat_ms,
        "limits": limits,
        "capabilities": {"transport": transport, "nodes": nodes},
        "tokenExpiresAt": token_expires_at,
        "activeRuns": active_runs,
    }
