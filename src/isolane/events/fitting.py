"""Fitting of a run's events into the log: whole characters, and a bounded size. Pure.

Agents cut their text anywhere, also inside an emoji, or not at all. Here halves of characters are
joined, long text becomes several events, and a tool result that is too long is cut. Legal events
stay legal.
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
"""Events with a `delta`, each with the field that names the message or call."""
_ENDS: Final = {
    "TEXT_MESSAGE_END": "TEXT_MESSAGE_CONTENT",
    "TOOL_CALL_END": "TOOL_CALL_ARGS",
    "REASONING_MESSAGE_END": "REASONING_MESSAGE_CONTENT",
}
CHARACTER_MAX_BYTES: Final = 6
r"""Maximum bytes that one character takes in JSON: `\u0000`."""
NAME_MAX_CHARACTERS: Final = 20
"""More characters than the name of any text field has."""
_COUNT_MAX: Final = 10**15
"""Placeholder for a count of bytes; no real count has more digits."""


class _Held(NamedTuple):
    """Half a character that waits for its other half."""

    half: str
    content: Event
    """The event that carries the half, without its delta."""


class Fitting:
    """The halves of characters that one run has cut off, by their messages."""

    def __init__(self, max_bytes: int) -> None:
        """Allow `max_bytes` per event, as JSON in UTF-8."""
        self._max_bytes = max_bytes
        self._surely_fit = (max_bytes - 1) // CHARACTER_MAX_BYTES
        """Characters that surely fit into an event, names of fields included."""
        self._held: dict[tuple[str, str], _Held] = {}

    def fit(self, event: Event) -> Iterator[Event]:
        """Yield the events that the log gets for `event`: itself, several, or none yet.

        An event that can't be made to fit comes out unchanged, and its encoder refuses it. A half
        character comes out with the next event of its message, at the latest before the message's
        end.
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

    def get_room(self, kind: str, thing_id: str) -> int:
        """Return how many characters a plain piece of that message or call surely has room for.

        0 while a half character is held: the next piece may complete it.
        """
        if self._held:
            return 0
        beside = 3 * NAME_MAX_CHARACTERS + len(kind) + len(thing_id)  # type, message or call, delta
        return max(self._surely_fit - beside, 0)

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
        """Yield U+FFFD for the half character that a message still holds at its end."""
        held = self._held.pop((kind, end[FILLS[kind]]), None)
        if held is not None:
            yield {**held.content, "delta": mend_text(held.half)}

    # --- sizes -----------------------------------------------------------------------------------

    def _split(self, event: Event) -> Iterator[Event]:
        """Yield a delta that is too large as several events; together they have the same text."""
        delta: str = event["delta"]
        if self._is_small(event) or self._has_room(event):
            yield event
            return
        first = _without(event, "rawEvent")  # the provider's own form of the same content
        rest = _without_extras(event["type"], event)
        most = self._max_bytes - max(_size_of({**one, "delta": ""}) for one in (first, rest))
        if most < CHARACTER_MAX_BYTES:
            yield event
            return
        for number, piece in enumerate(split_text(delta, most)):
            yield {**(rest if number else first), "delta": piece}

    def _cut(self, event: Event) -> Event:
        """Return a tool's result, cut when it is too large; its metadata then says by how much.

        `truncatedBytes` counts the missing bytes: of text in UTF-8, and of a left out part the
        bytes of its source.
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
        """Say quickly that an event is surely small enough, because it has only little text."""
        characters = NAME_MAX_CHARACTERS * len(event)
        for part in event.values():  # a loop without a generator, because it runs for every word
            if type(part) is not str:
                return False
            characters += len(part)
        return characters <= self._surely_fit

    def _has_room(self, event: Event) -> bool:
        try:
            encode_event(event, max_bytes=self._max_bytes)
        except AgentProtocolError:
            return False
        return True


def split_text(text: str, max_bytes: int) -> Iterator[str]:
    """Yield `text` in pieces of whole characters, each of at most `max_bytes` as JSON.

    `max_bytes` is at least 6. The pieces are about as long as possible. An empty text is one piece.
    """
    begin = 0
    while True:
        length = max_bytes  # each character takes one byte or more
        while (size := _text_bytes(text[begin : begin + length])) > max_bytes:
            length = max(min(length, len(text) - begin) * max_bytes // size, 1)
        yield text[begin : begin + length]
        begin += length
        if begin >= len(text):
            return


def _text_bytes(text: str) -> int:
    """Return the size of `text` between its quotes, which is the same in both encoders."""
    return len(msgspec.json.encode(text)) - 2


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _size_of(event: Mapping[str, Any]) -> int:
    return len(encode_event(event, max_bytes=1 << 62))


def _cut_text(text: str, max_bytes: int) -> tuple[str, int]:
    """Return the beginning of `text` that fits, and the number of missing bytes."""
    whole = mend_text(text)
    kept = next(split_text(whole, max_bytes))
    return kept, _utf8_bytes(whole) - _utf8_bytes(kept)


def _cut_parts(parts: Sequence[Event], max_bytes: int) -> tuple[list[Event], int]:
    """Return the parts that fit, with the last text cut, and the number of missing bytes."""
    kept: list[Event] = []
    lost = 0
    for part in parts:
        is_text = part.get("type") == "text"
        said = part["text"] if is_text else str(part.get("source", {}).get("value", ""))
        bare = {**part, "text": ""} if is_text else part
        room = max_bytes - (_value_bytes(bare, said, max_bytes) + 1)  # one more for the comma
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
    """Return the size of a part; the count ends as soon as the part is known to be too large."""
    if part.get("type") != "text" and len(said) > max_bytes:
        return len(said)
    return _size_of({"type": "", "part": part}) - len('{"type":"","part":}')


def _without(event: Event, name: str) -> Event:
    return {key: value for key, value in event.items() if key != name}


def _without_extras(kind: str, event: Event) -> Event:
    """Return the fields of a further event of the same message, without its delta."""
    names = ("type", FILLS[kind], "subagentRunId")
    return {name: event[name] for name in names if event.get(name) is not None}


def _says_more(kind: str, event: Event) -> bool:
    return not event.keys() <= {"type", FILLS[kind], "subagentRunId", "delta"}
