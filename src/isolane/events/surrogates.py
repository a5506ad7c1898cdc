"""Half characters. UTF-16 writes an emoji as two units, and a text that is cut there ends in half.

Python's text can hold such a half, a surrogate. UTF-8 and readers of JSON can't. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

REPLACEMENT: Final = "\ufffd"
"""Character in place of a half whose other half never came."""


def has_half(text: str) -> bool:
    """Say whether `text` has a surrogate, alone or in a pair."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def begins_pair(text: str) -> bool:
    """Say whether `text` ends in a first half, whose second half may still come."""
    return "\ud800" <= text[-1:] <= "\udbff"


def mend_text(text: str) -> str:
    """Return `text` with pairs joined, and U+FFFD for each lone half."""
    return _join(text, errors="replace") if has_half(text) else text


def mend_id(name: str, text: str) -> str:
    """Return an id with its pairs joined.

    Raises:
        ValueError: The id has a lone half. With U+FFFD in its place, two ids could become one.
    """
    joined = _join(text, errors="surrogatepass") if has_half(text) else text
    if has_half(joined):
        raise ValueError(f"{name} holds half a surrogate pair, which no id may")
    return joined


def mend_value(value: Any, *, knows_ids: bool = False) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value with every text in it mended.

    With `knows_ids`, a field named `id`, or with a name that ends in `Id`, is mended as an id.

    Raises:
        ValueError: An id has a lone half, or two keys would become equal.
    """
    if isinstance(value, str):
        return mend_text(value)
    if isinstance(value, list | tuple):
        return [mend_value(one, knows_ids=knows_ids) for one in value]
    if not isinstance(value, Mapping):
        return value
    mended = {
        mend_text(name) if isinstance(name, str) else name: (
            mend_id(name, one)
            if knows_ids and isinstance(one, str) and _names_id(name)
            else mend_value(one, knows_ids=knows_ids)
        )
        for name, one in value.items()
    }
    if len(mended) != len(value):
        raise ValueError("two keys differ only in half a surrogate pair")
    return mended


_OPAQUE: Final = frozenset(
    {"value", "snapshot", "delta", "event", "rawEvent", "metadata", "result", "patch", "content"}
)
"""Fields with an agent's own data, in which names mean nothing to AG-UI."""


def mend_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an AG-UI event with every text in it mended.

    Raises:
        ValueError: An id has a lone half, or two keys would become equal.
    """
    return {
        name: mend_value(value)
        if name in _OPAQUE
        else mend_value({name: value}, knows_ids=True)[name]
        for name, value in event.items()
    }


def mend_names(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event whose own texts are mended, except `delta`.

    The next event may complete a half in `delta`.

    Only the event's own fields are looked at, because this runs for every word of an answer.

    Raises:
        ValueError: An id has a lone half.
    """
    for name, value in event.items():
        if type(value) is str and not value.isascii() and name != "delta" and has_half(value):
            delta = {"delta": event["delta"]} if "delta" in event else {}
            own = {n: v for n, v in event.items() if type(v) is str and n != "delta"}
            return {**event, **mend_event(own), **delta}
    return event


def _names_id(name: object) -> bool:
    return isinstance(name, str) and (name == "id" or name.endswith("Id"))


def _join(text: str, *, errors: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", errors)
