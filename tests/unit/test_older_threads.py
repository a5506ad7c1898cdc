"""Threads of an earlier version, whose rows were found by the ids that clients chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection
from tests.house import (
    COUNT_KEPT,
    START,
    append_to,
    context_of,
    count_attachments,
    draft_of,
    key_of,
    open_ground,
    open_older,
    sqlite_url,
)

from isolane.context import EventId, RunKey, ThreadKey
from isolane.contracts import NO_DRAFT, RunState
from isolane.errors import CursorExpired
from isolane.events.packing import pack
from isolane.sql.turns import DatabaseTurnBook

THREAD = """
INSERT INTO threads (user_id, thread_id, epoch, trimmed_seq, swept_seq, title, created_at,
    updated_at, agent_thread_id, kind) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?)
"""
RUN = """
INSERT INTO runs (user_id, run_id, thread_id, state, draft, asked, first_seq, last_seq, created_at,
    ended_at, outcome, is_logged, attached_to, agent_run_id, turn_id)
VALUES (?, ?, ?, ?, ?, x'', ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
EVENT = "INSERT INTO events (user_id, thread_id, seq, run_id, payload) VALUES (?, ?, ?, ?, ?)"
MESSAGE = """
INSERT INTO messages (user_id, thread_id, message_id, run_id, payload, since_seq, until_seq)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
STATE = "INSERT INTO states (user_id, thread_id, since_seq, payload) VALUES (?, ?, ?, ?)"
ATTACHMENT = """
INSERT INTO attachments (number, user_id, thread_id, digest, uses) VALUES (?, ?, ?, ?, ?)
"""
PICTURE = b'{"source":{"type":"data","value":"%b"}}' % (b"A" * 20_000)
MADE_ANEW = "chat#2"
"""Name of the rows of a thread `chat` that was made anew after the user's second deletion."""
DRAFT = msgspec.json.encode(NO_DRAFT)


def said(message_id: str, role: str = "user") -> bytes:
    return msgspec.json.encode({"id": message_id, "role": role, "content": message_id})


def run_row(
    user_id: str, run_id: str, thread_id: str, state: str, *places: int | None
) -> tuple[object, ...]:
    """Return the row of a run; `places` are its first entry and its last one."""
    is_ended = state == "ended"
    turn_id = run_id if places[0] else None
    row = (user_id, run_id, thread_id, state, DRAFT, *places, places[0] or 9)
    ended = (5, "success", 1) if is_ended else (None, None, 0)
    return (*row, *ended, None, f"agent {run_id}", turn_id)


def fill(connection: Connection) -> None:
    """Write two users' threads: old ones, one that is removed, and one that has its name again."""
    packed, cut = pack(PICTURE)
    ((digest, data),) = cut.items()
    threads = (
        ("alice", "plain", "e1", 2, 2, "Plain", 10, "agent plain", "chat"),
        ("alice", MADE_ANEW, "e2", 0, 0, "Anew", 20, "agent anew", "chat"),
        ("bob", "chat", "e3", 1, 0, "His", 30, "agent his", "chat"),
        ("bob", "empty", "e4", 0, 0, "", 40, "agent empty", "request"),
    )
    runs = (
        run_row("alice", "r1", "plain", "ended", 1, 2),
        run_row("alice", "r2", "plain", "ended", 3, 4),
        run_row("alice", "lost", "plain", "running", 5, None),
        run_row("alice", "waits", "plain", "queued", None, None),
        run_row("alice", "dead", "chat", "ended", 1, 2),
        run_row("alice", "anew", MADE_ANEW, "ended", 1, 2),
        run_row("bob", "r1", "chat", "ended", 1, 1),
        run_row("bob", "r2", "chat", "ended", 2, 3),
        (*run_row("bob", "again", "chat", "ended", None, None)[:-3], "r2", None, None),
    )
    events = (
        *(("alice", "plain", seq, "r2", b'{"n":%d}' % seq) for seq in (3, 4)),
        ("alice", "plain", 5, "lost", b'{"n":5}'),
        *(("alice", "chat", seq, "dead", b'{"secret":1}') for seq in (1, 2)),
        *(("alice", MADE_ANEW, seq, "anew", b'{"n":%d}' % seq) for seq in (1, 2)),
        ("bob", "chat", 1, "r1", b'{"n":1}'),
        ("bob", "chat", 2, "r2", packed),
        ("bob", "chat", 3, "r2", b'{"n":3}'),
    )
    messages = (
        ("alice", "plain", "seed", "", said("seed"), 0, None),
        ("alice", "plain", "q1", "r1", b"", 1, 2),
        ("alice", "plain", "q2", "r2", said("q2"), 3, None),
        ("alice", "plain", "a2", "r2", said("a2", "assistant"), 3, None),
        ("alice", "plain", "q3", "lost", said("q3"), 5, None),
        ("alice", "chat", "secret", "dead", said("secret"), 1, None),
        ("alice", MADE_ANEW, "qa", "anew", said("qa"), 1, None),
        ("bob", "chat", "q1", "r2", said("q1"), 2, None),
    )
    for statement, rows in (
        (THREAD, threads),
        (RUN, runs),
        (EVENT, events),
        (MESSAGE, messages),
        (STATE, [("bob", "chat", 2, b'{"n":2}'), ("alice", "chat", 1, b'{"secret":1}')]),
        (ATTACHMENT, [(7, "bob", "chat", digest, 1), (8, "alice", "chat", digest, 1)]),
        ("INSERT INTO attachment_bytes VALUES (?, ?)", [(7, data), (8, data)]),
        ("INSERT INTO thread_names VALUES (?, ?, ?)", [("alice", "chat", MADE_ANEW)]),
        ("INSERT INTO removals VALUES (?, ?, ?)", [(3, "alice", "chat")]),
        ("INSERT INTO deletions VALUES (?, ?)", [("alice", 2)]),
    ):
        connection.exec_driver_sql(statement, list(rows))
    connection.exec_driver_sql(COUNT)


COUNT = """
INSERT INTO usage SELECT user_id, sum(threads), sum(size) FROM (
    SELECT user_id, 1 AS threads, 100 AS size FROM threads
    UNION ALL SELECT user_id, 0, 100 + length(payload) FROM events
    UNION ALL SELECT user_id, 0, 100 + length(payload) FROM messages
    UNION ALL SELECT user_id, 0, 100 + length(payload) FROM states
    UNION ALL SELECT user_id, 0, 100 + length(draft) FROM runs
    UNION ALL SELECT user_id, 0, 100 + length(bytes)
        FROM attachments JOIN attachment_bytes USING (number)
) GROUP BY user_id
"""
"""Fills the table `usage` as it was filled then."""


@pytest.fixture
async def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a database of the version before."""
    address = sqlite_url(tmp_path)
    older = await open_older(address, "0014", monkeypatch)
    await older.write(fill)
    await older.close()
    return address


async def test_logs_keep_their_epochs_and_numbers(url: str) -> None:
    async with open_ground(url) as ground:
        expected = {
            key_of("plain"): ("e1", 2, [(3, "r2"), (4, "r2"), (5, "lost")]),
            key_of("chat"): ("e2", 0, [(1, "anew"), (2, "anew")]),
            key_of("chat", user_id="bob"): ("e3", 1, [(2, "r2"), (3, "r2")]),
        }
        for key, (epoch, trimmed_seq, entries) in expected.items():
            bounds = await ground.log.load_bounds(key)
            assert (bounds.head, bounds.trimmed_seq) == (
                EventId(epoch, entries[-1][0]),
                trimmed_seq,
            )
            records = await ground.log.read(key, after=EventId(epoch, trimmed_seq), limit=10)
            assert [(one.id.seq, one.run_id) for one in records] == entries
        assert (await ground.log.load_bounds(key_of("empty", user_id="bob"))).head == ("e4", 0)
        assert (await ground.log.load_bounds(key_of("empty"))).head == START
        with pytest.raises(CursorExpired):
            await ground.log.read(key_of("plain"), after=EventId("e1", 1), limit=1)
        his = await ground.log.read(key_of("chat", user_id="bob"), after=EventId("e3", 1), limit=1)
        assert his[0].payload == PICTURE


async def test_messages_runs_and_turns_stay(url: str) -> None:
    async with open_ground(url) as ground:
        store, plain = ground.store, key_of("plain")
        assert [one["id"] for one in await store.load_messages_before(plain, 100)] == [
            "seed", "q2", "a2", "q3",
        ]  # fmt: skip
        assert await store.load_known_ids(plain) == {"seed", "q1", "q2", "a2", "q3"}
        chat = key_of("chat", user_id="bob")
        assert await store.load_state(chat) == b'{"n":2}'
        assert await store.load_known_ids(key_of("chat")) == {"qa"}
        attached = await store.load_run(RunKey("bob", "again"))
        assert attached is not None
        assert (attached.run_id, attached.thread_id) == ("r2", "chat")
        assert await store.load_run(RunKey("alice", "dead")) is None
        open_runs = await ground.book.load_open_runs()
        assert [(run.run_id, run.thread_id, run.state) for run in open_runs] == [
            ("lost", "plain", RunState.RUNNING),
            ("waits", "plain", RunState.QUEUED),
        ]
        turns = await DatabaseTurnBook(ground.database).load_turns(plain)
        assert turns is not None
        assert [one["id"] for one in turns.seed] == ["seed"]
        assert [turn.turn_id for turn in turns.turns] == ["lost", "r2", "r1"]


async def test_what_was_deleted_goes_and_what_is_written_next_is_right(url: str) -> None:
    async with open_ground(url) as ground:

        def load_numbers(connection: Connection) -> list[tuple[str, int]]:
            rows = connection.exec_driver_sql("SELECT thread_id, thread_no FROM threads")
            return [(row[0], row[1]) for row in rows]

        def load_kept(connection: Connection) -> tuple[set[Any], set[Any]]:
            counted = {tuple(row) for row in connection.exec_driver_sql(COUNT_KEPT)}
            kept = connection.exec_driver_sql("SELECT * FROM usage WHERE user_id != ''")
            return counted, {tuple(row) for row in kept if row[1] + row[2]}

        numbers = await ground.database.read(load_numbers)
        dead = 1
        assert min(number for _, number in numbers) > dead
        counted, kept = await ground.database.read(load_kept)
        assert counted == kept
        await ground.log.sweep()
        counted, kept = await ground.database.read(load_kept)
        assert counted == kept
        referred, attached = await ground.database.read(count_attachments)
        assert referred == attached
        await ground.begin_run(context_of("next", thread_id="chat"), draft_of("and now"))
        (record,) = await append_to(ground.log, key_of("chat"), "next", [b"{}"])
        assert record.id == EventId("e2", 3)
        (record,) = await append_to(ground.log, key_of("plain"), "lost", [b"{}"])
        assert record.id == EventId("e1", 6)


async def test_number_of_the_last_thread_is_not_given_again_after_the_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = await open_older(sqlite_url(tmp_path), "0014", monkeypatch)
    removal = "INSERT INTO removals (user_id, thread_id) VALUES ('alice', 'thread')"
    event = (*ThreadKey("alice", "thread"), 1, "r", b"{}")
    await older.write(lambda connection: connection.exec_driver_sql(removal))
    await older.write(lambda connection: connection.exec_driver_sql(EVENT, event))
    await older.close()
    async with open_ground(sqlite_url(tmp_path)) as ground:
        begun = await ground.begin_run(context_of("r"), draft_of("hi"))
        assert begun.lease.thread_no == 2
        assert await ground.log.read(key_of(), after=START, limit=10) == []
