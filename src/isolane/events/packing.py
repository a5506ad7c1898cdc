"""Payloads whose large attachments are cut out: how they are written, and put together again. Pure.

An attachment is the data of a content part: what stands in its source, as base64 or as a URL that
holds it. A packed payload has references in its place. It begins with NUL, which no JSON does. So
whatever somebody writes into a text is text, and never a reference.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

LEAST_BYTES: Final = 1 << 14
"""Bytes from which on an attachment is cut out. A frame of 1 MiB has 64 of them at most, which take
the writer 5 ms; smaller ones would be more, and save little."""
_MARK: Final = b"\0"
_COUNT: Final = struct.Struct(">I")
_REFERENCE: Final = struct.Struct(">II32s")
_BEGIN: Final = len(_MARK) + _COUNT.size
_QUOTE: Final = b'"'
_SOURCES: Final = (b'"type":"data","value":"', b'"type":"url","value":"')
"""What stands before the data of a part, as AG-UI's models and both encoders write it."""


class Reference(NamedTuple):
    """An attachment that was cut out of a payload."""

    place: int
    """How many bytes of the rest stand before it."""
    size: int
    """Its bytes."""
    digest: bytes
    """SHA-256 of them."""


def pack(payload: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Return JSON as it is to be written, and the attachments that it refers to by their digests.

    JSON without large attachments is returned as it is.
    """
    cut: dict[bytes, bytes] = {}
    references: list[Reference] = []
    rest: list[bytes] = []
    end = place = 0
    for start, following in _find(payload):
        data = payload[start:following]
        digest = sha256(data).digest()
        cut[digest] = data
        rest.append(payload[end:start])
        place += start - end
        references.append(Reference(place, len(data), digest))
        end = following
    if not cut:
        return payload, {}
    heads = (_REFERENCE.pack(*reference) for reference in references)
    return b"".join([_MARK, _COUNT.pack(len(references)), *heads, *rest, payload[end:]]), cut


def _find(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each attachment begins and ends.

    It is a long stretch between two quotes, so to look at one byte in `LEAST_BYTES` finds them all.
    """
    place = LEAST_BYTES
    while (end := payload.find(_QUOTE, place)) >= 0:
        start = payload.rfind(_QUOTE, 0, place) + 1
        is_large = end - start >= LEAST_BYTES
        if is_large and payload.endswith(_SOURCES, 0, start) and payload[end - 1 : end] != b"\\":
            yield start, end
        place = end + LEAST_BYTES


def is_packed(payload: bytes) -> bool:
    """Say whether what was written refers to attachments. What is cut short refers to none."""
    is_marked = payload[:1] == _MARK and len(payload) >= _BEGIN
    return is_marked and _rest(payload) <= len(payload)


def references_of(payload: bytes) -> list[Reference]:
    """Return what a written payload refers to; nothing when it isn't packed."""
    if not is_packed(payload):
        return []
    return [Reference(*each) for each in _REFERENCE.iter_unpack(payload[_BEGIN : _rest(payload)])]


def _rest(payload: bytes) -> int:
    """Return where the rest of a packed payload begins."""
    (count,) = _COUNT.unpack_from(payload, len(_MARK))
    return _BEGIN + int(count) * _REFERENCE.size


def size_of(payload: bytes) -> int:
    """Return how many bytes a written payload has as JSON, with its attachments."""
    if not is_packed(payload):
        return len(payload)
    attached = sum(reference.size for reference in references_of(payload))
    return len(payload) - _rest(payload) + attached


def bare(payload: bytes) -> bytes:
    """Return a written payload as JSON in which the data of attachments is an empty string."""
    return payload[_rest(payload) :] if is_packed(payload) else payload


def unpack(payload: bytes, attachments: Mapping[bytes, bytes]) -> bytes:
    """Return a written payload as the JSON that it was, to the byte.

    `attachments` has what it refers to, by digest. Raises `KeyError` when one is missing.
    """
    rest, begin = bare(payload), 0
    parts: list[bytes] = []
    for place, _, digest in references_of(payload):
        parts += (rest[begin:place], attachments[digest])
        begin = place
    return b"".join([*parts, rest[begin:]])
