"""Attachments of a thread: kept once, however many of its rows refer to them.

Messages, log entries, shared states and what runs ask for are written with references, and read
whole again. Attachments belong to the rows of one thread: nobody can name those of another, and
whether another has the same one can't be told. A count says how many references there are; with
the last one an attachment goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection

from isolane.engines.sqlite import usage
from isolane.engines.sqlite.address import StoredThread
from isolane.engines.sqlite.deletion import delete_attachments
from isolane.engines.sqlite.driver import execute, load_value
from isolane.errors import DatabaseFailed
from isolane.events.packing import LEAST_BYTES, is_packed, pack, references_of, unpack

_USE: Final = """
INSERT INTO attachments (thread_no, digest, uses) VALUES (?, ?, ?)
ON CONFLICT (thread_no, digest) DO UPDATE SET uses = uses + excluded.uses
RETURNING number, uses
"""
# Apart from the count, because SQLite writes all of a row anew that changes.
_KEEP: Final = "INSERT INTO attachment_bytes (number, bytes) VALUES (?, ?)"
_LOAD: Final = """
SELECT bytes FROM attachments JOIN attachment_bytes USING (number)
WHERE thread_no = ? AND digest = ?
"""
_RELEASE: Final = """
UPDATE attachments SET uses = uses - ? WHERE thread_no = ? AND digest = ?
RETURNING number, uses
"""
_SIZE: Final = "SELECT length(bytes) FROM attachment_bytes WHERE number = ?"


def keep(connection: Connection, stored: StoredThread, payload: bytes) -> bytes:
    """Keep the large attachments of JSON, and return it as it is to be written.

    Who deletes or replaces what was written calls `release` with it.
    """
    if len(payload) < LEAST_BYTES:  # as nearly all events: they cost no more than this look
        return payload
    packed, cut = pack(payload)
    if not cut:
        return payload
    for digest, count in _count([packed]).items():
        number, uses = execute(connection, _USE, (stored.thread_no, digest, count)).fetchone()
        if uses == count:  # it is new
            execute(connection, _KEEP, (number, cut[digest]))
            usage.add(connection, stored.user_id, size=usage.ROW_BYTES + len(cut[digest]))
    return packed


def release(connection: Connection, stored: StoredThread, payloads: Iterable[bytes | None]) -> None:
    """Count the references of written payloads no longer; attachments without any go.

    What is no payload, or isn't packed, has none.
    """
    for digest, count in _count(payloads).items():
        left = execute(connection, _RELEASE, (count, stored.thread_no, digest)).fetchone()
        number, uses = left or (0, 1)
        if uses > 0:
            continue
        size = load_value(connection, _SIZE, (number,))
        usage.add(connection, stored.user_id, size=-usage.ROW_BYTES - size)
        delete_attachments(connection, [number])


def replace(connection: Connection, stored: StoredThread, old: bytes, payload: bytes) -> bytes:
    """Keep JSON in the place of what was written before; what both have isn't written anew."""
    packed = keep(connection, stored, payload)
    release(connection, stored, [old])
    return packed


def _count(payloads: Iterable[bytes | None]) -> Counter[bytes]:
    return Counter(each.digest for payload in payloads for each in references_of(payload or b""))


def load_whole(connection: Connection, stored: StoredThread, payload: bytes) -> bytes:
    """Return JSON as it was before `keep`, to the byte.

    Raises `DatabaseFailed` when an attachment is missing: the file is damaged.
    """
    if not is_packed(payload):
        return payload
    digests = {each.digest for each in references_of(payload)}
    loaded: dict[bytes, bytes] = {}
    for digest in digests:
        data = load_value(connection, _LOAD, (stored.thread_no, digest))
        if data is None:
            raise DatabaseFailed(f"an attachment of thread number {stored.thread_no} is missing")
        loaded[digest] = data
    return unpack(payload, loaded)
