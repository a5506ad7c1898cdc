"""Reading of a client's whole list of messages, of which only the new part is decoded. Pure.

AG-UI clients send the whole conversation with each question. The thread has most of it, so of a
known message only id and role are read. Two readers share a body. msgspec goes through all of it
and finds where each message begins and ends. The strict `decode_object` decodes the messages that
are taken, and all fields beside the messages. Nothing is taken that the strict reader has not
accepted. A body on which the two disagree is refused, or the message in question is left out.

The module is made for a thread beside the event loop. Its longest calls that hold the interpreter
scan the body once without making Python objects: 64 MiB take about 20 ms, and at most 100.
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
"""Maximum number of messages in one list, known ones included. Each costs some microseconds."""
MARKS_MAX: Final = 80 * VALUES_MAX
"""Maximum number of commas, opening brackets and backslashes in one body, those inside texts
included. A body of only such characters would hold the interpreter five times as long as one of
words."""
ID_BYTES_MAX: Final = 4096
"""Maximum bytes of an id or role that is looked up. A message with a longer one counts as new."""
STEP_BYTES: Final = 1 << 20
"""Bytes per step of a scan, between which other threads may run."""
_MISSING: Final = msgspec.Raw(b"null")
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}:]', re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_BETWEEN: Final = re.compile(rb"[ \t\n\r]*+,?[ \t\n\r]*+")
_SAID_TYPES: Final = ("function_call",)
"""Types of items that only an answer of OpenAI's Responses has."""
_OPENING: Final = (b"[", b"{")
_CLOSING: Final = (b"]", b"}")
_STAND_INS: Final[Mapping[str | None, Mapping[str, str]]] = {
    role: {"role": role} for role in INSTRUCTING_ROLES
}
_STAND_IN: Final[Mapping[str, str]] = {"role": "assistant"}
"""Placeholders for messages that aren't taken. `to_run_input` leaves them out and keeps the
indices."""


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
    """Messages that the list may still have. Each thread reads one list at a time."""


_tally: Final = _Tally()


class _Peek(msgspec.Struct, rename="camel", gc=False):
    """The fields that are read of each message.

    They are raw, because a client may send anything.
    """

    id: msgspec.Raw = _MISSING
    role: msgspec.Raw = _MISSING
    tool_call_id: msgspec.Raw = _MISSING
    type: msgspec.Raw = _MISSING

    def __post_init__(self) -> None:
        """Count the message. This call into Python also lets other threads run."""
        _tally.left -= 1
        if _tally.left < 0:
            raise TooLarge(f"messages: a list may have {MESSAGES_MAX} of them")


class _Parts(msgspec.Struct):
    parts: list[msgspec.Raw] = []


class _PartPeek(msgspec.Struct, rename="camel"):
    """The fields of a part that tell whether a page may have answered it."""

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
    """Messages and answers that the thread has, so that a list needn't bring them."""

    ids: Collection[str] = frozenset()
    """Ids of messages that the thread has."""
    calls: Collection[str] = frozenset()
    """Ids of answered tool calls, because clients give results ids of their own."""
    asked: Collection[bytes] = frozenset()
    """Hashes of message ids that this same run brought before. These are decoded and compared."""

    def has(self, message_id: str | None, call_id: str | None) -> bool:
        """Say whether the thread has a message of that id, or an answer to that call."""
        if message_id is None or (self.asked and id_print(message_id) in self.asked):
            return False
        return message_id in self.ids or (call_id is not None and call_id in self.calls)


@dataclass(frozen=True, slots=True)
class NewPart:
    """The new part of a body: all other fields, and the messages that are taken."""

    text: bytes
    """JSON of one object with the messages that are taken, not decoded yet."""
    places: Sequence[Mapping[str, object] | None]
    """Per message of the whole list, its placeholder; None where the message is taken."""

    def read(self) -> dict[str, Any]:
        """Return the decoded body, with placeholders for messages that aren't taken.

        Raises:
            InvalidFrame: The strict reader refuses the JSON.
            TooLarge: The new part has more than `VALUES_MAX` values.
        """
        body = _read(self.text)
        taken = iter(body["messages"])
        body["messages"] = [next(taken) if one is None else one for one in self.places]
        return body


class WholeList:
    """A body whose messages were scanned and whose other fields were decoded."""

    def __init__(self, body: bytes | bytearray, *, max_bytes: int, name: str = "messages") -> None:
        """Scan `body`, JSON in UTF-8, for a list called `name`; `max_bytes` limits the new part.

        Raises:
            InvalidFrame: The body is no JSON object, or the strict reader refuses the other fields.
            InvalidInput: The messages are no list of objects.
            TooLarge: The other fields have more than `max_bytes`, or there are too many messages.
        """
        _check_bytes(body)
        text, array = _outline(body, name)
        size = memoryview(array).nbytes
        self._max_bytes = max_bytes
        self._name = name
        self._check_size(len(body) - size)
        place = _find_messages(text, name)
        if not text.startswith(array, place):  # the last list of that name is elsewhere
            raise InvalidFrame("a key stands twice in one object")
        self._around = bytes(body[:place]) + b"[", b"]" + bytes(body[place + size :])
        self.rest = _read(b"".join(self._around))
        """The other fields, with an empty list of messages."""
        self._peeks = _peek(array)
        raws = _raw_decoder.decode(array)
        self._messages = raws if text is body else list(_cut(body, place + 1, raws))

    @property
    def has_results(self) -> bool:
        """True when a message says that it answers a tool call."""
        return any(peek.tool_call_id is not _MISSING for peek in self._peeks)

    def pick(self, known: Known) -> NewPart:
        """Return the new part: unknown messages of users and tools, and the last message.

        Raises:
            TooLarge: That and the other fields have more than `max_bytes`.
        """
        roles = [_to_text(peek.role) for peek in self._peeks]
        last = max((n for n, role in enumerate(roles) if role not in INSTRUCTING_ROLES), default=0)
        is_taken = bool(roles) and roles[last] in KEPT_ROLES
        return self._take(roles, known, always={last} if is_taken else (), instead={})

    def pick_turn(self, known: Known) -> NewPart:
        """Return the new part of a list of AI SDK, where answers stand in assistants' messages.

        The last message of the assistant is taken with only those calls that a page may have
        answered. Placeholders have no parts.

        Raises:
            TooLarge: That and the other fields have more than `max_bytes`.
        """
        roles = [_to_text(peek.role) for peek in self._peeks]
        calls: dict[int, bytes] = {}
        for number in [n for n, role in enumerate(roles) if role == "assistant"][-1:]:
            calls[number] = _calls_in(self._messages[number])
        picked = self._take(roles, known, always={len(roles) - 1} - calls.keys(), instead=calls)
        places = [None if one is None else {**one, "parts": []} for one in picked.places]
        return replace(picked, places=places)

    def read_all(self) -> dict[str, Any]:
        """Return the whole body of a client of OpenAI, of which the end of the list is new.

        The messages before that are the client's word on the past, and are decoded one by one.

        Raises:
            InvalidFrame: The strict reader refuses the JSON.
            TooLarge: The new part has more than `max_bytes` or `VALUES_MAX` values, or the earlier
                part has more than that many values.
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
            # The quick count includes commas inside texts, and a long message leaves no time to
            # tell them apart.
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
    """Return an object from the strict reader."""
    if has_too_many_values(text.decode()):
        raise TooLarge(f"what is new of the body holds more than {VALUES_MAX} values")
    return decode_object(text)


def _check_bytes(body: bytes | bytearray) -> None:
    """Refuse a body that isn't UTF-8, or that would hold the interpreter too long."""
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
    """Yield a body in steps, so that other threads run between them.

    No step ends inside an escape.
    """
    view, start = memoryview(body), 0
    while start < len(body):
        end = start + STEP_BYTES
        while body[end - 2 : end].endswith((b"\\", b"\\u")) and end < len(body):
            end += 1
        yield bytes(view[start:end])
        start = end


def _without_halves(piece: bytes) -> bytes:
    """Return text with another character of the same length for each half of a surrogate pair."""
    return piece.replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0")


def _outline(body: bytes | bytearray, name: str) -> tuple[bytes | bytearray, msgspec.Raw]:
    """Return a text with the structure of `body`, usually `body` itself, and its messages."""
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
    """Return the decoder's result and the text that it read, usually `body` itself."""
    try:
        return body, decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # msgspec refuses half a surrogate pair, which the strict reader mends. Characters of the
        # same length keep each message's offset.
        text = b"".join(map(_without_halves, _steps(body)))
        return text, decoder.decode(text)


def find_request_id(body: bytes | bytearray) -> str | None:
    """Return the body's `requestId`; None when that is no text."""
    try:
        return _decode(body, _named_decoder)[1].request_id
    except (msgspec.DecodeError, RecursionError):
        return None


def _find_messages(text: bytes | bytearray, wanted: str) -> int:
    """Return the offset of the value of the first `wanted`, which must exist."""
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
    """Yield the messages of a list that begins at `start`; `raws` give their lengths."""
    view = memoryview(body)
    for raw in raws:
        start = _end_of(_BETWEEN, body, start)
        end = start + memoryview(raw).nbytes
        yield view[start:end]
        start = end


def _is_of_block(peek: _Peek) -> bool:
    """Say whether a message may be in the last block of a list of OpenAI."""
    kind = "message" if peek.type is _MISSING else _to_text(peek.type)
    if kind == "message":
        return _to_text(peek.role) in KEPT_ROLES
    return kind not in _SAID_TYPES


def _calls_in(message: memoryview | msgspec.Raw) -> bytes:
    """Return an assistant's message of AI SDK with only the calls that a page may have answered.

    Everything else in it may be large, and nobody reads it.
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
    """Return the text of a value; None when it is no text, or too long for an id."""
    if memoryview(raw).nbytes > ID_BYTES_MAX:
        return None
    try:
        return _text_decoder.decode(raw)
    except msgspec.DecodeError:
        return None
