"""A client's whole list of messages, of which only what is new is read. Pure.

Clients of AG-UI send the whole conversation with each question. The thread has most of it, so an id
and a role are all that is read of a known message. Two readers share a body: msgspec goes through
all of it and tells where messages begin and end; the strict `decode_object` reads what is taken.
Nothing is taken that the strict one didn't read, and it reads everything beside the messages too.
So a body on which the two disagree is refused, or its author's message is left out.

Made for a thread beside the event loop. The longest calls that hold the interpreter go through the
body once, without making anything of it: 64 MiB take some 20 ms, and at most 100.
"""

# Long because: two readers of one body have to agree, so they are read together.

from __future__ import annotations

import codecs
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from isolane.errors import InvalidFrame, InvalidInput, TooLarge
from isolane.events.transcript import id_print
from isolane.wire.frames import (
    INSTRUCTING_ROLES,
    KEPT_ROLES,
    VALUES_MAX,
    count_marks,
    count_values,
    decode_object,
    has_too_many_values,
)

MESSAGES_MAX: Final = 100_000
"""Messages in one list, known ones included: each costs some microseconds."""
MARKS_MAX: Final = 80 * VALUES_MAX
"""Commas, opening brackets and backslashes in one body, those in texts too. A body of nothing else
would hold the interpreter for five times as long as one of words."""
ID_BYTES_MAX: Final = 4096
"""Ids and roles above this size are not looked up: the message counts as new."""
STEP_BYTES: Final = 1 << 20
"""Bytes that are looked at in one step; another thread may have its turn before the next one."""
_MISSING: Final = msgspec.Raw(b"null")
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}:]', re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_BETWEEN: Final = re.compile(rb"[ \t\n\r]*+,?[ \t\n\r]*+")
_SAID_TYPES: Final = ("function_call",)
"""Items of OpenAI's Responses that only an answer has."""
_OPENING: Final = (b"[", b"{")
_CLOSING: Final = (b"]", b"}")
_STAND_INS: Final[Mapping[str | None, Mapping[str, str]]] = {
    role: {"role": role} for role in INSTRUCTING_ROLES
}
_STAND_IN: Final[Mapping[str, str]] = {"role": "assistant"}
"""What stands where a message isn't taken. `to_run_input` leaves it out, and counts its place."""


class _Body(msgspec.Struct):
    messages: msgspec.Raw = _MISSING


class _InputBody(msgspec.Struct, rename={"messages": "input"}):
    """A body of OpenAI's Responses."""

    messages: msgspec.Raw = _MISSING


class _Named(msgspec.Struct, rename="camel"):
    request_id: str | None = None


_Found = TypeVar("_Found")


class _Tally(threading.local):
    left = 0
    """Messages that a list may still have; each thread reads one list at a time."""


_tally: Final = _Tally()


class _Peek(msgspec.Struct, rename="camel", gc=False):
    """What is read of each message. Raw, for a client may put anything there."""

    id: msgspec.Raw = _MISSING
    role: msgspec.Raw = _MISSING
    tool_call_id: msgspec.Raw = _MISSING
    type: msgspec.Raw = _MISSING

    def __post_init__(self) -> None:
        """Count it. A call into Python, at which other threads get their turn, too."""
        _tally.left -= 1
        if _tally.left < 0:
            raise TooLarge(f"messages: a list may have {MESSAGES_MAX} of them")


class _Parts(msgspec.Struct):
    parts: list[msgspec.Raw] = []


class _PartPeek(msgspec.Struct, rename="camel"):
    """As much of a part as tells whether a page may have answered there."""

    type: str = ""
    provider_executed: bool = False


_parts_decoder: Final = msgspec.json.Decoder(_Parts)
_part_decoder: Final = msgspec.json.Decoder(_PartPeek)
_named_decoder: Final = msgspec.json.Decoder(_Named)
_body_decoders: Final[Mapping[str, msgspec.json.Decoder[_Body | _InputBody]]] = {
    "messages": msgspec.json.Decoder(_Body),
    "input": msgspec.json.Decoder(_InputBody),
}
_peek_decoder: Final = msgspec.json.Decoder(list[_Peek])
_raw_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_text_decoder: Final = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Known:
    """What a list needn't bring."""

    ids: Collection[str] = frozenset()
    """Of messages that the thread has."""
    calls: Collection[str] = frozenset()
    """Of tools' calls that were answered: clients give results ids of their own."""
    asked: Collection[bytes] = frozenset()
    """Prints of the ids that this very run brought before: they are read to be compared."""

    def has(self, message_id: str | None, call_id: str | None) -> bool:
        """Say whether the thread has a message of that id, or an answer to that call."""
        if message_id is None or (self.asked and id_print(message_id) in self.asked):
            return False
        return message_id in self.ids or (call_id is not None and call_id in self.calls)


@dataclass(frozen=True, slots=True)
class NewPart:
    """What of a body is new: everything beside the messages, and the messages that are taken."""

    text: bytes
    """JSON of one object, with the messages that are taken, not read yet."""
    places: Sequence[Mapping[str, object] | None]
    """For each message of the whole list what stands in for it; None where it is taken."""

    def read(self) -> dict[str, Any]:
        """Return the body as it came, with stand-ins for what isn't taken.

        Raises `InvalidFrame` as `decode_object` does, `TooLarge` for more than `VALUES_MAX` values.
        """
        body = _read(self.text)
        taken = iter(body["messages"])
        body["messages"] = [next(taken) if one is None else one for one in self.places]
        return body


class WholeList:
    """A body whose messages were looked at, and whose other fields were read."""

    def __init__(self, body: bytes | bytearray, *, max_bytes: int, name: str = "messages") -> None:
        """Look at `body`, JSON in UTF-8, whose list has that name. `max_bytes` may be new of it.

        Raises `InvalidFrame` when it is no JSON object or the fields beside the messages aren't
        as `decode_object` wants them, `InvalidInput` when messages are no list of objects,
        `TooLarge` when those fields have more than `max_bytes`, or the list has too many messages.
        """
        _check_bytes(body)
        text, array = _outline(body, name)
        size = memoryview(array).nbytes
        self._max_bytes = max_bytes
        self._name = name
        self._check_size(len(body) - size)
        place = _find_messages(text, name)
        if not text.startswith(array, place):  # the last one of that name is elsewhere
            raise InvalidFrame("a key stands twice in one object")
        self._around = bytes(body[:place]) + b"[", b"]" + bytes(body[place + size :])
        self.rest = _read(b"".join(self._around))
        """The other fields, with an empty list of messages."""
        self._peeks = _peek(array)
        raws = _raw_decoder.decode(array)
        self._messages = raws if text is body else list(_cut(body, place + 1, raws))

    @property
    def has_results(self) -> bool:
        """Whether a message says that it answers a tool's call."""
        return any(peek.tool_call_id is not _MISSING for peek in self._peeks)

    def pick(self, known: Known) -> NewPart:
        """Return what is new: what isn't known of users and tools, and the last message.

        Raises `TooLarge` when that and the other fields have more than `max_bytes`.
        """
        roles = [_to_text(peek.role) for peek in self._peeks]
        last = max((n for n, role in enumerate(roles) if role not in INSTRUCTING_ROLES), default=0)
        is_taken = bool(roles) and roles[last] in KEPT_ROLES
        return self._take(roles, known, always={last} if is_taken else (), instead={})

    def pick_turn(self, known: Known) -> NewPart:
        """Return what is new in a list of AI SDK's, where answers stand in assistants' messages.

        Of the last one of the assistant the calls are taken, too, that a page may have answered.
        Messages that stand in have no parts. Raises `TooLarge` as `pick` does.
        """
        roles = [_to_text(peek.role) for peek in self._peeks]
        calls: dict[int, bytes] = {}
        for number in [n for n, role in enumerate(roles) if role == "assistant"][-1:]:
            calls[number] = _calls_in(self._messages[number])
        picked = self._take(roles, known, always={len(roles) - 1} - calls.keys(), instead=calls)
        places = [None if one is None else {**one, "parts": []} for one in picked.places]
        return replace(picked, places=places)

    def read_all(self) -> dict[str, Any]:
        """Return the whole body of a client of OpenAI's, of which the end of its list is new.

        What stands before that is the client's word on what was said, and is read one message after
        the other. Raises `InvalidFrame` as `decode_object` does, and `TooLarge` when what is new
        has more than `max_bytes` or `VALUES_MAX` values, or what stands before it that many.
        """
        begin = len(self._peeks)
        while begin and _is_of_block(self._peeks[begin - 1]):
            begin -= 1
        before, behind = self._around
        new = [memoryview(one) for one in self._messages[begin:]]
        self._check_size(len(before) + len(behind) + sum(one.nbytes + 1 for one in new))
        said, values = list[Any](), 0
        for one in self._messages[:begin]:
            text = bytes(one).decode()
            # Commas in a text are no values. Of a long one there is no time to tell them apart.
            values += count_values(text) if len(text) <= self._max_bytes else count_marks(text)
            if values > VALUES_MAX:
                raise TooLarge(
                    f"what stands before the new messages holds more than {VALUES_MAX} values"
                )
            said += decode_object('{"messages":[' + text + "]}")["messages"]
        body = _read(before + b",".join(new) + behind)
        body[self._name] = said + body[self._name]
        return body

    def _take(
        self,
        roles: Sequence[str | None],
        known: Known,
        *,
        always: Collection[int],
        instead: Mapping[int, bytes],
    ) -> NewPart:
        places: list[Mapping[str, str] | None] = []
        taken: list[memoryview] = []
        for number, (peek, role) in enumerate(zip(self._peeks, roles, strict=True)):
            is_new = role in KEPT_ROLES and not _is_known(peek, known)
            if is_new or number in always or number in instead:
                places.append(None)
                taken.append(memoryview(instead.get(number, self._messages[number])))
            else:
                places.append(_STAND_INS.get(role, _STAND_IN))
        before, behind = self._around
        commas = max(len(taken) - 1, 0)
        self._check_size(len(before) + len(behind) + sum(one.nbytes for one in taken) + commas)
        return NewPart(before + b",".join(taken) + behind, places)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(
                f"what is new of the body has {size} bytes, and frameBytes allows {self._max_bytes}"
            )


def _read(text: bytes) -> dict[str, Any]:
    """Return an object that was read strictly."""
    if has_too_many_values(text.decode()):
        raise TooLarge(f"what is new of the body holds more than {VALUES_MAX} values")
    return decode_object(text)


def _check_bytes(body: bytes | bytearray) -> None:
    """Refuse what is no UTF-8, or would take the interpreter too long."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    view, marks = memoryview(body), 0
    try:
        for start in range(0, len(body), STEP_BYTES):
            piece = bytes(view[start : start + STEP_BYTES])
            decoder.decode(piece)
            marks += len(piece) - len(piece.translate(None, b",[{\\"))
            if marks > MARKS_MAX:
                raise TooLarge(
                    f"a body may have {MARKS_MAX} commas, opening brackets and backslashes"
                )
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidFrame("the body is not UTF-8") from error


def _steps(body: bytes | bytearray) -> Iterator[bytes]:
    """Yield a body in steps that end in no escape, so that other threads have their turns."""
    view, start = memoryview(body), 0
    while start < len(body):
        end = start + STEP_BYTES
        while body[end - 2 : end].endswith((b"\\", b"\\u")) and end < len(body):
            end += 1
        yield bytes(view[start:end])
        start = end


def _without_halves(piece: bytes) -> bytes:
    """Return text with another character for each half of a surrogate pair, as long as that."""
    return piece.replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0")


def _outline(body: bytes | bytearray, name: str) -> tuple[bytes | bytearray, msgspec.Raw]:
    """Return a text with the structure of `body`, mostly `body` itself, and its messages."""
    try:
        text, found = _decode(body, _body_decoders[name])
    except msgspec.ValidationError as error:
        raise InvalidFrame("a frame is one JSON object") from error
    except RecursionError as error:
        raise InvalidFrame("the body is nested too deep") from error
    except msgspec.DecodeError as error:
        raise InvalidFrame("the body is not JSON") from error
    if not bytes(memoryview(found.messages)[:1]) == b"[":
        raise InvalidInput(name, "must be a list")
    return text, found.messages


def _decode(
    body: bytes | bytearray, decoder: msgspec.json.Decoder[_Found]
) -> tuple[bytes | bytearray, _Found]:
    """Return what `decoder` finds, and in which text: mostly `body` itself."""
    try:
        return body, decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # It takes no half of a surrogate pair, which the strict reader mends. As characters of the
        # same length they leave each message where it is.
        text = b"".join(map(_without_halves, _steps(body)))
        return text, decoder.decode(text)


def find_request_id(body: bytes | bytearray) -> str | None:
    """Return the `requestId` that a body has beside its messages; None when that is no text."""
    try:
        return _decode(body, _named_decoder)[1].request_id
    except (msgspec.DecodeError, RecursionError):
        return None


def _find_messages(text: bytes | bytearray, wanted: str) -> int:
    """Return where the value of the first `wanted` begins, in JSON that has one."""
    depth, name = 0, b""
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in _OPENING:
            depth += 1
        elif mark in _CLOSING:
            depth -= 1
        elif mark != b":":
            name = mark
        elif depth == 1 and _text_decoder.decode(name) == wanted:
            return _end_of(_SPACE, text, token.end())
    raise InvalidFrame("the body is not JSON")


def _end_of(pattern: re.Pattern[bytes], text: bytes | bytearray, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()


def _peek(array: msgspec.Raw) -> list[_Peek]:
    _tally.left = MESSAGES_MAX
    try:
        return _peek_decoder.decode(array)
    except msgspec.ValidationError as error:
        place = MESSAGES_MAX - _tally.left
        raise InvalidInput(f"messages.{place}", "must be an object") from error


def _cut(body: bytes | bytearray, start: int, raws: Sequence[msgspec.Raw]) -> Iterator[memoryview]:
    """Yield the messages of a list that begins at `start`, each as long as one of `raws`."""
    view = memoryview(body)
    for raw in raws:
        start = _end_of(_BETWEEN, body, start)
        end = start + memoryview(raw).nbytes
        yield view[start:end]
        start = end


def _is_of_block(peek: _Peek) -> bool:
    """Say whether a message may stand in the block that ends a list of OpenAI's."""
    kind = "message" if peek.type is _MISSING else _to_text(peek.type)
    if kind == "message":
        return _to_text(peek.role) in KEPT_ROLES
    return kind not in _SAID_TYPES


def _calls_in(message: memoryview | msgspec.Raw) -> bytes:
    """Return an assistant's message of AI SDK's with the calls only that a page may have answered.

    Anything else in it is large now and then, and nobody reads it.
    """
    try:
        parts = _parts_decoder.decode(message).parts
    except (msgspec.DecodeError, RecursionError):
        return b'{"role":"assistant","parts":[]}'
    kept = [part for part in parts if _may_answer(part)]
    return b'{"role":"assistant","parts":[%b]}' % b",".join(kept)


def _may_answer(part: msgspec.Raw) -> bool:
    try:
        peek = _part_decoder.decode(part)
    except (msgspec.DecodeError, RecursionError):
        return False
    is_call = peek.type == "dynamic-tool" or peek.type.startswith("tool-")
    return is_call and not peek.provider_executed


def _is_known(peek: _Peek, known: Known) -> bool:
    call_id = None if peek.tool_call_id is _MISSING else _to_text(peek.tool_call_id)
    return known.has(_to_text(peek.id), call_id)


def _to_text(raw: msgspec.Raw) -> str | None:
    """Return the text that a value is; None when it is none, or far too long for an id."""
    if memoryview(raw).nbytes > ID_BYTES_MAX:
        return None
    try:
        return _text_decoder.decode(raw)
    except msgspec.DecodeError:
        return None
