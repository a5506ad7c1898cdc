"""The rows of messages: what stands, what was taken back, and what a thread ever had."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import Connection, and_, func, or_, select, update

from isolane.context import ThreadKey
from isolane.contracts import KnownMessage, RunDraft, Seed
from isolane.engines.sqlite import attachments, usage
from isolane.engines.sqlite.address import StoredThread, load_stored, rows_of
from isolane.engines.sqlite.heads import NO_RUN
from isolane.engines.sqlite.new_messages import calls_in
from isolane.engines.sqlite.openings import BEFORE_THE_LOG
from isolane.engines.sqlite.pages import RoleOf
from isolane.engines.sqlite.states import load_state, take_back_states
from isolane.engines.sqlite.tables import messages
from isolane.engines.sqlite.turns import take_back_turns
from isolane.errors import TooLarge
from isolane.events.packing import bare, size_of
from isolane.events.shared_state import decode_state, is_sent
from isolane.events.transcript import Message

_log = structlog.get_logger(__name__)


def _messages(stored: StoredThread) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    return rows_of(messages, stored)


def load_messages(
    key: ThreadKey, before: int | None, connection: Connection, *, max_bytes: int = sys.maxsize
) -> list[Message]:
    """Return what stands now, or stood before the log entry `before`.

    Raises `TooLarge` when that has more than `max_bytes` as a list.
    """
    stored = load_stored(connection, key)
    query = select(messages.c.payload).where(_messages(stored)).order_by(messages.c.number)
    if before is None:
        query = query.where(messages.c.until_seq.is_(None))
    else:
        query = query.where(
            messages.c.since_seq < before,
            messages.c.payload != b"",  # of these retention has kept the id only
            or_(messages.c.until_seq.is_(None), messages.c.until_seq >= before),
        )
    payloads: list[bytes] = []
    size = 0
    with connection.execute(query) as result:
        rows: Any = result.cursor  # the driver's own: SQLAlchemy's takes longer for a row
        for (payload,) in rows:
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
    """Return the thread's messages from one number to another."""
    query = select(messages.c.payload).where(_messages(stored), messages.c.number.between(*place))
    payloads = connection.execute(query.order_by(messages.c.number)).scalars().all()
    return [_to_message(connection, stored, payload) for payload in payloads]


def load_known_ids(key: ThreadKey, before: str | None, connection: Connection) -> frozenset[str]:
    """Return the ids of the messages that a thread ever had, or of those before a standing one."""
    query = select(messages.c.message_id).where(_ever(connection, key, before))
    return frozenset(connection.execute(query).scalars())


def load_answered_calls(
    key: ThreadKey, before: str | None, connection: Connection
) -> frozenset[str]:
    """Return the ids of the calls that those messages answer."""
    query = select(messages.c.payload).where(
        _ever(connection, key, before),
        messages.c.payload != b"",  # of these retention has kept the id only
    )
    answered: set[str] = set()
    with connection.execute(query.order_by(messages.c.number)) as rows:
        for payload in rows.scalars():
            found = msgspec.json.decode(bare(payload), type=_Calls)
            answered.difference_update(call.id for call in found.made)
            if found.answered is not None:
                answered.add(found.answered)
    return frozenset(answered)


def _ever(connection: Connection, key: ThreadKey, before: str | None) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    """Select all that a thread ever had, or what stands before a message that stands."""
    stored = load_stored(connection, key)
    cut = None if before is None else _find_standing(connection, stored, before)
    if cut is None:
        return _messages(stored)
    return and_(_standing(stored), messages.c.number < cut.number)


def load_rewound(
    key: ThreadKey, draft: RunDraft, history: Iterable[Message], connection: Connection
) -> frozenset[str]:
    """Return the ids that a run may not bring back; one that rewinds itself may bring any.

    Another device offers its old list in good faith. The calls of rewound messages are among the
    ids, for devices give results ids of their own.
    """
    if draft.rewind_to is not None:
        return frozenset()
    stored = load_stored(connection, key)
    query = select(messages.c.message_id, messages.c.payload)
    ids: set[str] = set()
    for message_id, payload in connection.execute(
        query.where(_messages(stored), messages.c.until_seq.is_not(None))
    ):
        ids.add(message_id)
        if payload:  # else only the id is kept
            ids.update(calls_in(msgspec.json.decode(bare(payload))))
    if not ids:  # as mostly: then what stands need not be gone through
        return frozenset()
    standing = {one for message in history for one in (message["id"], *calls_in(message))}
    return frozenset(ids - standing)


def load_known_message(
    key: ThreadKey, message_id: str, rewind_to: str | None, connection: Connection
) -> KnownMessage | None:
    """Return what a thread knows of a message's id; see `Store.load_known`."""
    stored = load_stored(connection, key)
    found = connection.execute(
        select(messages.c.number, messages.c.payload, messages.c.until_seq)
        .where(_messages(stored), messages.c.message_id == message_id)
        .order_by(messages.c.until_seq.is_not(None), messages.c.number.desc())
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    cut = None if rewind_to is None else _find_standing(connection, stored, rewind_to)
    is_cut = cut is not None and found.number >= cut.number
    stands = found.until_seq is None and not is_cut
    last = load_last_question(key, connection) if stands and cut is None else None
    return KnownMessage(
        _to_message(connection, stored, found.payload) if found.payload else None,
        stands,
        last is not None and last.number == found.number,
    )


_PLACE: Final = (messages.c.number, messages.c.since_seq, messages.c.message_id)


class _Call(msgspec.Struct):
    id: str


class _Calls(msgspec.Struct):
    """The fields of a message that name calls: those that it makes, and the one that it answers."""

    made: list[_Call] = msgspec.field(name="toolCalls", default_factory=list[_Call])
    answered: str | None = msgspec.field(name="toolCallId", default=None)


class _Standing(NamedTuple):
    """Place of a message: its number, and the first log entry of the run that added it."""

    number: int
    since_seq: int
    message_id: str


def load_last_question(key: ThreadKey, connection: Connection) -> _Standing | None:
    """Return where the newest message of a user stands."""
    stored = load_stored(connection, key)
    newest = select(*_PLACE, messages.c.payload).where(_standing(stored))
    with connection.execute(newest.order_by(messages.c.number.desc())) as rows:
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
    except (ValueError, RecursionError) as error:  # a damaged row must not end each run here
        _log.error("state_unreadable", thread_id=key.thread_id, reason=str(error))
        return None


def has_message(key: ThreadKey, message_id: str, connection: Connection) -> bool:
    """Say whether the message stands now."""
    return _find_standing(connection, load_stored(connection, key), message_id) is not None


def _standing(stored: StoredThread) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    return and_(_messages(stored), messages.c.until_seq.is_(None))


def _find_standing(
    connection: Connection, stored: StoredThread, message_id: str
) -> _Standing | None:
    """Return where the first message of that id stands: an agent may use one id twice."""
    first = select(*_PLACE).where(_standing(stored), messages.c.message_id == message_id)
    found = connection.execute(first.order_by(messages.c.number).limit(1)).one_or_none()
    return None if found is None else _Standing(*found)


def add_seed(connection: Connection, key: ThreadKey, seed: Seed) -> None:
    """Add what was said before the first run of a thread."""
    is_claimed = seed.is_claimed
    add_messages(
        connection, key, NO_RUN, seed.messages, since=BEFORE_THE_LOG, is_claimed=is_claimed
    )


# As text: a seed may have a thousand messages, and SQLAlchemy takes longer for them than SQLite.
_ADD: Final = """
INSERT INTO messages (thread_no, message_id, run_no, payload, since_seq, is_claimed)
VALUES (?, ?, ?, ?, ?, ?)
"""


def add_messages(
    connection: Connection,
    key: ThreadKey,
    run_no: int,
    added: Sequence[Message],
    *,
    since: int,
    is_claimed: bool = False,
) -> tuple[int, int] | None:
    """Add messages and return the numbers of the first and the last one; None when none came.

    `run_no` is the number of the run that adds them, `NO_RUN` for those before the first run.
    """
    if not added:
        return None
    stored = load_stored(connection, key)
    payloads = [
        attachments.keep(connection, stored, msgspec.json.encode(message)) for message in added
    ]
    rows = [
        (stored.thread_no, message["id"], run_no, payload, since, is_claimed)
        for message, payload in zip(added, payloads, strict=True)
    ]
    connection.exec_driver_sql(_ADD, rows)
    usage.add(connection, key.user_id, size=usage.weigh(map(len, payloads)))
    # Nobody else writes meanwhile, so they stand in a row.
    last: int = connection.execute(select(func.max(messages.c.number))).scalar_one()
    return last - len(rows) + 1, last


def rewind(connection: Connection, key: ThreadKey, message_id: str, *, until: int) -> None:
    """Drop the message and what follows it, as of the log entry `until`."""
    found = _find_standing(connection, load_stored(connection, key), message_id)
    if found is not None:
        take_back(connection, key, found.number, since=found.since_seq, until=until)


def take_back(
    connection: Connection, key: ThreadKey, number: int, *, since: int, until: int
) -> None:
    """Take messages back from `number` on, and the shared state from the log entry `since` on."""
    newer = and_(_standing(load_stored(connection, key)), messages.c.number >= number)
    connection.execute(update(messages).where(newer).values(until_seq=until))
    take_back_states(connection, key, since=since, until=until)
    take_back_turns(connection, key, since=since)
