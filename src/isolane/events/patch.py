"""JSON Patch (RFC 6902) as the published AG-UI client applies it. Pure.

The store must keep exactly what that client shows. Other libraries decide differently where the RFC
leaves room or the client breaks it. They also copy the whole document per operation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


class PatchError(Exception):
    """A patch doesn't fit its document."""


def patched(document: Any, patch: Iterable[Mapping[str, Any]]) -> Any:  # noqa: ANN401 - any JSON
    """Return `document` after `patch`; the two share all parts that the patch doesn't touch.

    `document` itself never changes. One thing follows `fast-json-patch`, which the client uses, and
    not the RFC: a move or copy behind an array's end appends.

    Raises:
        PatchError: The patch doesn't fit.
    """
    for step in patch:
        path = step["path"]
        match step["op"]:
            case "add":
                document = _put(document, path, step["value"], may_exceed=False)
            case "remove":
                document = _drop(document, path)
            case "replace":
                _find(document, path)
                document = _put(_drop(document, path), path, step["value"], may_exceed=False)
            case "move":
                value = _find(document, step["from"])
                document = _put(_drop(document, step["from"]), path, value, may_exceed=True)
            case "copy":
                document = _put(document, path, _find(document, step["from"]), may_exceed=True)
            case _:
                if not _is_same(_find(document, path), step["value"]):
                    raise PatchError(f"{path} holds something else")
    return document


def _find(document: Any, pointer: str) -> Any:  # noqa: ANN401 - any JSON
    for key in _keys(pointer):
        document = document[_place(document, key)]
    return document


def _put(document: Any, pointer: str, value: Any, *, may_exceed: bool) -> Any:  # noqa: ANN401
    if not pointer:
        return value
    root, holder, key = _opened(document, pointer)
    if isinstance(holder, dict):
        holder[key] = value
        return root
    place = len(holder) if key == "-" else _index(key)
    if place > len(holder) and not may_exceed:
        raise PatchError(f"{pointer} is behind the end")
    holder.insert(place, value)
    return root


def _drop(document: Any, pointer: str) -> Any:  # noqa: ANN401 - any JSON
    if not pointer:
        return None
    root, holder, key = _opened(document, pointer)
    del holder[_place(holder, key)]
    return root


def _opened(document: Any, pointer: str) -> tuple[Any, Any, str]:  # noqa: ANN401 - any JSON
    """Return a copy of the document, the container of the pointer's last key, and that key.

    Only containers on the way are copied, so a small change to a large document is cheap.
    """
    *path, last = _keys(pointer)
    root = holder = _copied(document)
    for key in path:
        place = _place(holder, key)
        holder[place] = _copied(holder[place])
        holder = holder[place]
    return root, holder, last


def _copied(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if not isinstance(value, (dict, list)):
        raise PatchError("the path leads through what holds nothing")
    return value.copy()


def _keys(pointer: str) -> list[str]:
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    if "__proto__" in keys:  # the client refuses it, so nobody would see its effect
        raise PatchError("__proto__ is no key")
    return keys


def _place(holder: Any, key: str) -> Any:  # noqa: ANN401 - a key or an index
    """Return the key or index of `key` in `holder`.

    Raises:
        PatchError: The container has no such key.
    """
    place: str | int = _index(key) if isinstance(holder, list) else key
    if isinstance(holder, dict) and place in holder:
        return place
    if isinstance(place, int) and place < len(holder):
        return place
    raise PatchError(f"nothing stands at {key}")


def _index(key: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", key):
        raise PatchError(f"{key} is no index")
    return int(key)


def _is_same(one: Any, other: Any) -> bool:  # noqa: ANN401 - any JSON
    """Say whether two values are equal in JSON, where `true` is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    return bool(one == other)
