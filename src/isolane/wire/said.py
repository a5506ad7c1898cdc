"""Mending of text in a client's frame that is only read, never compared. Pure.

People paste half characters, and pages cut their context anywhere. Such a text is mended, because
the page keeps it in its list. If it were refused once, it would be refused for ever. A half in an
id or a key stays and is refused later, because two different ids could become one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isolane.events.surrogates import mend_value

Place = tuple[dict[str, Any], str]
"""An object, and the key of a text in it."""


def mend_said(body: dict[str, Any]) -> bool:
    """Put U+FFFD in place of each half character in a frame's texts.

    Return whether there was one.
    """
    has_mended = False
    for holder, name in _find_said(body):
        try:
            mended = mend_value(holder[name], knows_ids=True)
        # a half in an id or a key, or too deep nesting; refused later
        except (ValueError, RecursionError):
            continue
        if mended != holder[name]:
            holder[name] = mended
            has_mended = True
    return has_mended


def _find_said(body: dict[str, Any]) -> Iterator[Place]:
    """Yield the places of all texts, in the field names of all doors."""
    for entry in _objects_in(body.get("context")):
        yield from _texts_of(entry, "description", "value")
    for message in _objects_in(body.get("messages")):
        yield from _find_content(message)
        if isinstance(message.get("parts"), list):  # AI SDK's name for text and tool results
            yield message, "parts"
    yield from _texts_of(body, "input", "instructions")
    for item in _objects_in(body.get("input")):
        yield from _find_content(item)
        yield from _texts_of(item, "output")
        yield from _find_texts(item.get("output"))


def _find_content(message: dict[str, Any]) -> Iterator[Place]:
    yield from _texts_of(message, "content")
    yield from _find_texts(message.get("content"))


def _find_texts(parts: object) -> Iterator[Place]:
    for part in _objects_in(parts):
        yield from _texts_of(part, "text")


def _objects_in(given: object) -> Iterator[dict[str, Any]]:
    for one in given if isinstance(given, list) else ():
        if isinstance(one, dict):
            yield one


def _texts_of(holder: dict[str, Any], *names: str) -> Iterator[Place]:
    return ((holder, name) for name in names if isinstance(holder.get(name), str))
