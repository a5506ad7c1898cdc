"""Makes the events of a run fit into its log: whole characters, and no more bytes than allowed.

Agents cut their text where it suits them: in the middle of an emoji, or not at all. Here halves
find each other, long text becomes several events, and the result of a tool that is too long is cut.
What comes in is legal already; so is what goes out. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from isolane.errors import AgentProtocolError
from isolane.events.event import Event, encode_event
from isolane.events.surrogates import begins_pair, mend_text

FILLS: Final = {
    "TEXT_MESSAGE_CONTENT": "messageId",
    "TOOL_CALL_ARGS": "toolCallId",
    "REASONING_MESSAGE_CONTENT": "messageId",
}
"""Events whose `delta` goes on with something, and what names that."""
_ENDS: Final = {
    "TEXT_MESSAGE_END": "TEXT_MESSAGE_CONTENT",
    "TOOL_CALL_END": "TOOL_CALL_ARGS",
    "REASONING_MESSAGE_END": "REASONING_MESSAGE_CONTENT",
}
CHARACTER_MAX_BYTES: Final = 6
"""The most that one character takes in JSON: `\\u0000`."""
NAME_MAX_CHARACTERS: Final = 20
"""More than the name of any field has that holds text."""
_COUNT_MAX: Final = 10**15
"""Stands for a count of bytes until that is known; no count has more digits."""


class _Held(NamedTuple):
    """Half a character that waits for its other half."""

    half: str
    content: Event
    """The event that goes out with it, but for its delta."""


class Fitting:
    """What one run has cut off, and where: halves of characters, by the message they belong to."""

    def __init__(self, max_bytes: int) -> None:
        """Let an event have `max_bytes`, as JSON in UTF-8."""
        self._max_bytes = max_bytes
        self._held: dict[tuple[str, str], _Held] = {}

    def fit(self, event: Event) -> Iterator[Event]:
        """Yield what stands in the log for `event`: itself, several, or nothing yet.

        An event that can't be made to fit comes out as it is, for its encoder to refuse. A half
        comes out with the next event of its message, before its end at the latest.
        """
        kind = event["type"]
        if kind in FILLS:
            yield from self._fit_delta(kind, event)
        elif kind == "TOOL_CALL_RESULT":
            yield self._cut(event)
        else:
            if self._held and kind in _ENDS:
                yield from self._let_go(_ENDS[kind], event)
            yield event

    # --- halves ----------------------------------------------------------------------------------

    def _fit_delta(self, kind: str, event: Event) -> Iterator[Event]:
        delta: str = event["delta"]
        if not self._held and delta.isascii():
            yield from self._split(event)
            return
        place = (kind, event[FILLS[kind]])
        held = self._held.pop(place, None)
        text = delta if held is None else held.half + delta
        if begins_pair(text):
            self._held[place] = _Held(text[-1], _without_extras(kind, event))
            text = text[:-1]
        text = mend_text(text)
        if text or not (held or delta) or _says_more(kind, event):
            yield from self._split(event if text == delta else {**event, "delta": text})

    def _let_go(self, kind: str, end: Event) -> Iterator[Event]:
        """Yield the half that a message still holds when it ends, as U+FFFD."""
        held = self._held.pop((kind, end[FILLS[kind]]), None)
        if held is not None:
            yield {**held.content, "delta": mend_text(held.half)}

    # --- sizes -----------------------------------------------------------------------------------

    def _split(self, event: Event) -> Iterator[Event]:
        """Yield a delta as several where one would be too large; together they say the same."""
        delta: str = event["delta"]
        if self._is_small(event) or self._has_room(event):
            yield event
            return
        first = _without(event, "rawEvent")  # the provider's own form of what the event says
        rest = _without_extras(event["type"], event)
        most = self._max_bytes - max(_size_of({**one, "delta": ""}) for one in (first, rest))
        if most < CHARACTER_MAX_BYTES:
            yield event
            return
        for number, piece in enumerate(split_text(delta, most)):
            yield {**(rest if number else first), "delta": piece}

    def _cut(self, event: Event) -> Event:
        """Return a tool's result, cut where it would be too large. Its metadata says by how much.

        `truncatedBytes` counts what is missing: bytes of text in UTF-8, and of a part that is left
        out those of its source.
        """
        if self._is_small(event) or self._has_room(event):
            return event
        lean = _without(event, "rawEvent")
        if self._has_room(lean):
            return lean
        metadata = {**(event.get("metadata") or {}), "truncatedBytes": _COUNT_MAX}
        content = event["content"]
        bare = {**lean, "content": type(content)(), "metadata": metadata}
        most = self._max_bytes - _size_of(bare)
        if most < CHARACTER_MAX_BYTES:
            return event
        kept, lost = _cut_text(content, most) if type(content) is str else _cut_parts(content, most)
        return {**lean, "content": kept, "metadata": {**metadata, "truncatedBytes": lost}}

    def _is_small(self, event: Event) -> bool:
        """Say at a glance that an event has room: it is nothing but a little text."""
        characters = NAME_MAX_CHARACTERS * len(event)
        for part in event.values():  # no sum of a generator: this is done for each word
            if type(part) is not str:
                return False
            characters += len(part)
        return CHARACTER_MAX_BYTES * characters < self._max_bytes

    def _has_room(self, event: Event) -> bool:
        try:
            encode_event(event, max_bytes=self._max_bytes)
        except AgentProtocolError:
            return False
        return True


def split_text(text: str, max_bytes: int) -> Iterator[str]:
    """Yield `text` in pieces of at most `max_bytes` as JSON, which is at least 6; whole characters.

    The pieces are as long as can be, or nearly. An empty text is one piece.
    """
    begin = 0
    while True:
        length = max_bytes  # a character has a byte at least
        while (size := _text_bytes(text[begin : begin + length])) > max_bytes:
            length = max(min(length, len(text) - begin) * max_bytes // size, 1)
        yield text[begin : begin + length]
        begin += length
        if begin >= len(text):
            return


def _text_bytes(text: str) -> int:
    """Return what `text` takes between its quotes; both encoders of events write it alike."""
    return len(msgspec.json.encode(text)) - 2


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _size_of(event: Mapping[str, Any]) -> int:
    return len(encode_event(event, max_bytes=1 << 62))


def _cut_text(text: str, max_bytes: int) -> tuple[str, int]:
    """Return as much of `text` as fits, and how many bytes are missing."""
    whole = mend_text(text)
    kept = next(split_text(whole, max_bytes))
    return kept, _utf8_bytes(whole) - _utf8_bytes(kept)


def _cut_parts(parts: Sequence[Event], max_bytes: int) -> tuple[list[Event], int]:
    """Return those parts that fit, text cut where it doesn't, and how many bytes are missing."""
    kept: list[Event] = []
    lost = 0
    for part in parts:
        is_text = part.get("type") == "text"
        said = part["text"] if is_text else str(part.get("source", {}).get("value", ""))
        bare = {**part, "text": ""} if is_text else part
        room = max_bytes - (_value_bytes(bare, said, max_bytes) + 1)  # a comma
        if is_text and room >= CHARACTER_MAX_BYTES:
            text, missing = _cut_text(said, room)
            kept.append({**part, "text": text})
            max_bytes = room - _text_bytes(text)
            lost += missing
        elif not is_text and room >= 0:
            kept.append(part)
            max_bytes = room
        else:
            lost += _utf8_bytes(mend_text(said))
    return kept, lost


def _value_bytes(part: Event, said: str, max_bytes: int) -> int:
    """Return the size of a part; of one that says too much only that."""
    if part.get("type") != "text" and len(said) > max_bytes:
        return len(said)
    return _size_of({"type": "", "part": part}) - len('{"type":"","part":}')


def _without(event: Event, name: str) -> Event:
    return {key: value for key, value in event.items() if key != name}


def _without_extras(kind: str, event: Event) -> Event:
    """Return what a further event of the same message says beside its delta."""
    names = ("type", FILLS[kind], "subagentRunId")
    return {name: event[name] for name in names if event.get(name) is not None}


def _says_more(kind: str, event: Event) -> bool:
    return not event.keys() <= {"type", FILLS[kind], "subagentRunId", "delta"}
