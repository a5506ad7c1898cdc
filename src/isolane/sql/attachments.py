"""Attachments of a thread: stored once, however many of its rows refer to them.

Messages, log entries, shared states and drafts are written with references, and are read back
whole. An attachment belongs to one thread. Nobody can name an attachment of another thread, or find
out whether another thread has the same one. An attachment is deleted with its last reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection

from isolane.errors import DatabaseFailed
from isolane.events.packing import LEAST_BYTES, is_packed, pack, references_of, unpack
from isolane.sql import usage
from isolane.sql.address import StoredThread
from isolane.sql.deletion import delete_attachments
from isolane.sql.driver import execute, load_value

_USE: Final = """
INSERT INTO attachments (thread_no, digest, uses) VALUES (?, ?, ?)
ON CONFLICT (thread_no, digest) DO UPDATE SET uses = attachments.uses + excluded.uses
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
    """Store the large attachments of JSON, and return the JSON with references instead.

    When that is deleted or replaced, its references are to be released.
    """
    if len(payload) < LEAST_BYTES:  # nearly all events are
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
    """Release the references of written payloads, and delete attachments without references.

    None and payloads that aren't packed have no references.
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
    """Store JSON in place of what was written before. Attachments of both aren't written anew."""
    packed = keep(connection, stored, payload)
    release(connection, stored, [old])
    return packed


def _count(payloads: Iterable[bytes | None]) -> Counter[bytes]:
    return Counter(each.digest for payload in payloads for each in references_of(payload or b""))


def load_whole(connection: Connection, stored: StoredThread, payload: bytes) -> bytes:
    """Return JSON as it was before `keep`, byte for byte.

    Raises:
        DatabaseFailed: An attachment is missing, so the file is damaged.
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
