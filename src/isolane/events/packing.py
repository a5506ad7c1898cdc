"""Payloads without their large attachments, and the way back to the whole payload. Pure.

An attachment is the data of a content part: base64 in its source, or a data URL. A packed payload
has a reference in its place. It begins with NUL, which JSON never does. So no text of a user can be
taken for a reference.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

LEAST_BYTES: Final = 1 << 14
"""Minimum bytes of an attachment. A frame of 1 MiB has at most 64 of this size, which take the
writer 5 ms. Smaller ones would be more numerous and save little."""
MARK: Final = b"\0"
"""First byte of a packed payload."""
_COUNT: Final = struct.Struct(">I")
_REFERENCE: Final = struct.Struct(">II32s")
_BEGIN: Final = len(MARK) + _COUNT.size
_QUOTE: Final = b'"'
_SOURCES: Final = (b'"type":"data","value":"', b'"type":"url","value":"')
"""Text before the data of a part, as AG-UI's models and both encoders write it."""


class Reference(NamedTuple):
    """An attachment that was taken out of a payload."""

    place: int
    """Bytes of the remaining payload before the attachment."""
    size: int
    """Size of the attachment in bytes."""
    digest: bytes
    """SHA-256 of the attachment."""


def pack(payload: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Return the packed payload, and its attachments by digest.

    JSON without large attachments comes back unchanged.
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
    return b"".join([MARK, _COUNT.pack(len(references)), *heads, *rest, payload[end:]]), cut


def _find(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each attachment.

    An attachment is a long stretch between two quotes. So it is enough to look at one byte per
    `LEAST_BYTES`.
    """
    place = LEAST_BYTES
    while (end := payload.find(_QUOTE, place)) >= 0:
        start = payload.rfind(_QUOTE, 0, place) + 1
        is_large = end - start >= LEAST_BYTES
        if is_large and payload.endswith(_SOURCES, 0, start) and payload[end - 1 : end] != b"\\":
            yield start, end
        place = end + LEAST_BYTES


def is_packed(payload: bytes) -> bool:
    """Say whether a stored payload has references; a truncated one has none."""
    is_marked = payload[:1] == MARK and len(payload) >= _BEGIN
    return is_marked and _rest(payload) <= len(payload)


def references_of(payload: bytes) -> list[Reference]:
    """Return the references of a stored payload; none when it isn't packed."""
    if not is_packed(payload):
        return []
    return [Reference(*each) for each in _REFERENCE.iter_unpack(payload[_BEGIN : _rest(payload)])]


def _rest(payload: bytes) -> int:
    """Return the offset at which the rest of a packed payload begins."""
    (count,) = _COUNT.unpack_from(payload, len(MARK))
    return _BEGIN + int(count) * _REFERENCE.size


def size_of(payload: bytes) -> int:
    """Return the size of the whole JSON, attachments included."""
    if not is_packed(payload):
        return len(payload)
    attached = sum(reference.size for reference in references_of(payload))
    return len(payload) - _rest(payload) + attached


def bare(payload: bytes) -> bytes:
    """Return a stored payload as JSON with an empty string for each attachment."""
    return payload[_rest(payload) :] if is_packed(payload) else payload


def unpack(payload: bytes, attachments: Mapping[bytes, bytes]) -> bytes:
    """Return the whole JSON of a stored payload, byte for byte.

    `attachments` maps digests to bytes.

    Raises:
        KeyError: An attachment is missing.
    """
    rest, begin = bare(payload), 0
    parts: list[bytes] = []
    for place, _, digest in references_of(payload):
        parts += (rest[begin:place], attachments[digest])
        begin = place
    return b"".join([*parts, rest[begin:]])
