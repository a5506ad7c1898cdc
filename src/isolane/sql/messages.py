"""The rows of messages: those that stand, those that were taken back, and all that ever were."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.contracts import KnownMessage, RunDraft, Seed
from isolane.errors import TooLarge
from isolane.events.packing import bare, size_of
from isolane.events.shared_state import decode_state, is_sent
from isolane.events.transcript import Message
from isolane.sql import attachments, usage
from isolane.sql.address import StoredThread, load_stored
from isolane.sql.driver import execute, execute_many, load_column, stream
from isolane.sql.heads import NO_RUN
from isolane.sql.new_messages import calls_in
from isolane.sql.openings import BEFORE_THE_LOG
from isolane.sql.pages import RoleOf
from isolane.sql.states import load_state, take_back_states
from isolane.sql.turns import take_back_turns

_log = structlog.get_logger(__name__)

# Of some messages retention has kept only the id. Their payload is empty.
_NOW: Final = """
SELECT payload FROM messages WHERE thread_no = ? AND until_seq IS NULL ORDER BY number
"""
_THEN: Final = """
SELECT payload FROM messages WHERE thread_no = ? AND since_seq < ? AND length(payload) > 0
AND (until_seq IS NULL OR until_seq >= ?) ORDER BY number
"""
_ADDED: Final = """
SELECT payload FROM messages WHERE thread_no = ? AND number BETWEEN ? AND ? ORDER BY number
"""
_IDS: Final = "SELECT message_id FROM messages WHERE thread_no = ?"
_IDS_BEFORE: Final = """
SELECT message_id FROM messages WHERE thread_no = ? AND until_seq IS NULL AND number < ?
"""
_PAYLOADS: Final = """
SELECT payload FROM messages WHERE thread_no = ? AND length(payload) > 0 ORDER BY number
"""
_PAYLOADS_BEFORE: Final = """
SELECT payload FROM messages
WHERE thread_no = ? AND until_seq IS NULL AND number < ? AND length(payload) > 0 ORDER BY number
"""
_REWOUND: Final = """
SELECT message_id, payload FROM messages WHERE thread_no = ? AND until_seq IS NOT NULL
"""
_KNOWN: Final = """
SELECT number, payload, until_seq FROM messages WHERE thread_no = ? AND message_id = ?
ORDER BY until_seq IS NOT NULL, number DESC LIMIT 1
"""
_NEWEST: Final = """
SELECT number, since_seq, message_id, payload FROM messages
WHERE thread_no = ? AND until_seq IS NULL ORDER BY number DESC
"""
_STANDING: Final = """
SELECT number, since_seq, message_id FROM messages
WHERE thread_no = ? AND message_id = ? AND until_seq IS NULL ORDER BY number LIMIT 1
"""
_ADD: Final = """
INSERT INTO messages (thread_no, message_id, run_no, payload, since_seq, is_claimed)
VALUES (?, ?, ?, ?, ?, ?)
"""
_NEWEST_NUMBERS: Final = """
SELECT min(number), max(number)
FROM (SELECT number FROM messages WHERE thread_no = ? ORDER BY number DESC LIMIT ?) AS newest
"""
_TAKE_BACK: Final = """
UPDATE messages SET until_seq = ? WHERE thread_no = ? AND until_seq IS NULL AND number >= ?
"""


def load_messages(
    key: ThreadKey, before: int | None, connection: Connection, *, max_bytes: int = sys.maxsize
) -> list[Message]:
    """Return the messages that stand now, or stood before the log entry `before`.

    Raises:
        TooLarge: As a JSON list they have more than `max_bytes`.
    """
    stored = load_stored(connection, key)
    if before is None:
        found = stream(connection, _NOW, (stored.thread_no,))
    else:
        found = stream(connection, _THEN, (stored.thread_no, before, before))
    payloads: list[bytes] = []
    size = 0
    with closing(found):
        for (payload,) in found:
            size += size_of(payload) + 1
            if size > max_bytes:
                raise TooLarge(f"the messages have more than {max_bytes} bytes")
            payloads.append(payload)
    return [_to_message(connection, stored, payload) for payload in payloads]


def _to_message(connection: Connection, stored: StoredThread, written: bytes) -> Message:
    message: Message = msgspec.json.decode(attachments.load_whole(connection, stored, written))
    return message


def load_added(
    stored: StoredThread, place: tuple[int, int], connection: Connection
) -> list[Message]:
    """Return the thread's messages from the first number of `place` to the last."""
    payloads = load_column(connection, _ADDED, (stored.thread_no, *place))
    return [_to_message(connection, stored, payload) for payload in payloads]


def load_known_ids(key: ThreadKey, before: str | None, connection: Connection) -> frozenset[str]:
    """Return the ids of all messages that a thread ever had; see `Store.load_known_ids`."""
    return frozenset(_load_ever(connection, key, before, _IDS, _IDS_BEFORE))


def load_answered_calls(
    key: ThreadKey, before: str | None, connection: Connection
) -> frozenset[str]:
    """Return the ids of the calls that those messages answer; see `Store.load_answered_calls`."""
    answered: set[str] = set()
    for payload in _load_ever(connection, key, before, _PAYLOADS, _PAYLOADS_BEFORE):
        found = msgspec.json.decode(bare(payload), type=_Calls)
        answered.difference_update(call.id for call in found.made)
        if found.answered is not None:
            answered.add(found.answered)
    return frozenset(answered)


def _load_ever(
    connection: Connection, key: ThreadKey, before: str | None, every: str, some: str
) -> Iterator[Any]:
    """Yield what `every` selects of a thread, or `some` of what stands before a message."""
    stored = load_stored(connection, key)
    cut = None if before is None else _find_standing(connection, stored, before)
    if cut is None:
        rows = execute(connection, every, (stored.thread_no,))
    else:
        rows = execute(connection, some, (stored.thread_no, cut.number))
    return (value for (value,) in rows)


def load_rewound(
    key: ThreadKey, draft: RunDraft, history: Iterable[Message], connection: Connection
) -> frozenset[str]:
    """Return the ids that a run may not bring back; one that rewinds itself may bring any.

    Another device offers its old list in good faith. The ids include the calls of rewound messages,
    because devices give results ids of their own.
    """
    if draft.rewind_to is not None:
        return frozenset()
    stored = load_stored(connection, key)
    ids: set[str] = set()
    for message_id, payload in execute(connection, _REWOUND, (stored.thread_no,)):
        ids.add(message_id)
        if payload:
            ids.update(calls_in(msgspec.json.decode(bare(payload))))
    if not ids:  # mostly, and then the history need not be read
        return frozenset()
    standing = {one for message in history for one in (message["id"], *calls_in(message))}
    return frozenset(ids - standing)


def load_known_message(
    key: ThreadKey, message_id: str, rewind_to: str | None, connection: Connection
) -> KnownMessage | None:
    """Return what a thread knows of a message's id; see `Store.load_known`."""
    stored = load_stored(connection, key)
    found = execute(connection, _KNOWN, (stored.thread_no, message_id)).fetchone()
    if found is None:
        return None
    number, payload, until_seq = found
    cut = None if rewind_to is None else _find_standing(connection, stored, rewind_to)
    is_cut = cut is not None and number >= cut.number
    stands = until_seq is None and not is_cut
    last = load_last_question(key, connection) if stands and cut is None else None
    return KnownMessage(
        _to_message(connection, stored, payload) if payload else None,
        stands,
        last is not None and last.number == number,
    )


class _Call(msgspec.Struct):
    id: str


class _Calls(msgspec.Struct):
    """The fields of a message that name calls: the calls it makes, and the call it answers."""

    made: list[_Call] = msgspec.field(name="toolCalls", default_factory=list[_Call])
    answered: str | None = msgspec.field(name="toolCallId", default=None)


class _Standing(NamedTuple):
    """Place of a message: its number, and the first log entry of the run that added it."""

    number: int
    since_seq: int
    message_id: str


def load_last_question(key: ThreadKey, connection: Connection) -> _Standing | None:
    """Return the place of the newest message of a user; None without one."""
    stored = load_stored(connection, key)
    with closing(stream(connection, _NEWEST, (stored.thread_no,))) as rows:
        for *place, payload in rows:
            if msgspec.json.decode(bare(payload), type=RoleOf).role == "user":
                return _Standing(*place)
    return None


def state_for(draft: RunDraft, key: ThreadKey, connection: Connection) -> Any:  # noqa: ANN401
    """Return the shared state for a run's agent; None when neither run nor thread has any."""
    sent = draft.request.get("state")
    if is_sent(sent):
        return sent
    kept = load_state(connection, key)
    try:
        return None if kept is None else decode_state(kept)
    except (
        ValueError,
        RecursionError,
    ) as error:  # a damaged row mustn't end each run here
        _log.error("state_unreadable", thread_id=key.thread_id, reason=str(error))
        return None


def has_message(key: ThreadKey, message_id: str, connection: Connection) -> bool:
    """Say whether the message stands now."""
    return _find_standing(connection, load_stored(connection, key), message_id) is not None


def _find_standing(
    connection: Connection, stored: StoredThread, message_id: str
) -> _Standing | None:
    """Return the place of the first standing message of that id. An agent may use an id twice."""
    found = execute(connection, _STANDING, (stored.thread_no, message_id)).fetchone()
    return None if found is None else _Standing(*found)


def add_seed(connection: Connection, key: ThreadKey, seed: Seed) -> None:
    """Add the messages that stand before the first run of a thread."""
    is_claimed = seed.is_claimed
    add_messages(
        connection, key, NO_RUN, seed.messages, since=BEFORE_THE_LOG, is_claimed=is_claimed
    )


def add_messages(
    connection: Connection,
    key: ThreadKey,
    run_no: int,
    added: Sequence[Message],
    *,
    since: int,
    is_claimed: bool = False,
) -> tuple[int, int] | None:
    """Add messages and return the numbers of the first and the last; None for no messages.

    `run_no` is the number of the run that adds them, `NO_RUN` for those before the first run.
    """
    if not added:
        return None
    stored = load_stored(connection, key)
    payloads = [attachments.keep(connection, stored, msgspec.json.encode(one)) for one in added]
    rows = [
        (stored.thread_no, message["id"], run_no, payload, since, int(is_claimed))
        for message, payload in zip(added, payloads, strict=True)
    ]
    execute_many(connection, _ADD, rows)
    usage.add(connection, key.user_id, size=usage.weigh(map(len, payloads)))
    place = (stored.thread_no, len(rows))
    numbers: tuple[int, int] = execute(connection, _NEWEST_NUMBERS, place).fetchone()
    return numbers


def rewind(connection: Connection, key: ThreadKey, message_id: str, *, until: int) -> None:
    """Take back the message and all behind it, as of the log entry `until`."""
    found = _find_standing(connection, load_stored(connection, key), message_id)
    if found is not None:
        take_back(connection, key, found.number, since=found.since_seq, until=until)


def take_back(
    connection: Connection, key: ThreadKey, number: int, *, since: int, until: int
) -> None:
    """Take messages back from `number` on, and shared state and runs from the entry `since` on."""
    stored = load_stored(connection, key)
    execute(connection, _TAKE_BACK, (until, stored.thread_no, number))
    take_back_states(connection, key, since=since, until=until)
    take_back_turns(connection, key, since=since)
