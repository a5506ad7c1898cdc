"""Writes of users share a commit and none of another's mistakes; the house waits for one group."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select
from tests.house import sqlite_url

from isolane.engines.sqlite.commits import GROUP_MAX
from isolane.engines.sqlite.database import SqliteDatabase, open_database
from isolane.errors import DatabaseFailed, NotFound, Unavailable
from isolane.sql.driver import driver_of
from isolane.sql.tables import attempts

FLOOD = 50


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = await open_database(sqlite_url(tmp_path))
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def commits(database: SqliteDatabase) -> list[str]:
    """Return a list that gets an entry for each commit."""
    seen: list[str] = []

    def note(statement: str) -> None:
        if statement == "COMMIT":
            seen.append(statement)

    raw: Any = driver_of(database._writing)
    raw.set_trace_callback(note)
    return seen


@pytest.fixture
async def gate(database: SqliteDatabase) -> AsyncIterator[threading.Event]:
    """Keep the writing thread busy until the event is set."""
    opened, begun = threading.Event(), threading.Event()

    def wait(_connection: Connection) -> None:
        begun.set()
        opened.wait(10)

    waiting = asyncio.create_task(database.write(wait))
    await asyncio.to_thread(begun.wait, 10)
    yield opened
    opened.set()
    await waiting


def add(name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        connection.execute(attempts.insert().values(key=name, moments=b"", expires_at=0))
        return name

    return work


def fail_with(error: Exception, name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        add(name)(connection)
        raise error

    return work


async def names(database: SqliteDatabase) -> set[str]:
    query = select(attempts.c.key)
    return set(await database.read(lambda connection: connection.execute(query).scalars().all()))


async def test_writes_of_several_users_share_a_commit(
    database: SqliteDatabase, commits: list[str], gate: threading.Event
) -> None:
    users = [f"user-{number}" for number in range(GROUP_MAX)]
    waiting = [asyncio.create_task(database.write(add(user), lane=user)) for user in users]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*waiting) == users
    assert len(commits) == 2  # that of the gate, and theirs


async def test_who_fails_fails_alone(database: SqliteDatabase, gate: threading.Event) -> None:
    work = {
        "refused": fail_with(NotFound("no such thread"), "a"),
        "doubled": lambda connection: [add("b")(connection), add("b")(connection)],
        "passing": fail_with(Unavailable("not an error of the file"), "c"),
        "first": add("d"),
        "last": add("e"),
    }
    waiting = [asyncio.create_task(database.write(each, lane=user)) for user, each in work.items()]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in outcomes] == [NotFound, DatabaseFailed, Unavailable, str, str]
    assert {"d", "e"} <= await names(database)
    assert not {"a", "b", "c"} & await names(database)


async def test_where_a_transaction_ends_for_all_each_has_one_of_its_own(
    database: SqliteDatabase, gate: threading.Event
) -> None:
    def roll_all_back(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")  # as SQLite does when the disk is full
        raise NotFound("no such thread")

    users = ("one", "two", "three")
    waiting = [
        asyncio.create_task(database.write(work, lane=f"user of {number}"))
        for number, work in enumerate([add("one"), roll_all_back, add("two"), add("three")])
    ]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes.pop(1), Exception)
    assert tuple(outcomes) == users
    assert set(users) <= await names(database)


async def test_a_user_waits_for_one_group_of_a_flood(
    database: SqliteDatabase, gate: threading.Event
) -> None:
    order: list[str] = []

    def note(user: str) -> Callable[[Connection], None]:
        return lambda _connection: order.append(user)

    flood = [asyncio.create_task(database.write(note("flooder"), lane="a")) for _ in range(FLOOD)]
    await asyncio.sleep(0)
    other = asyncio.create_task(database.write(note("other"), lane="b"))
    house = asyncio.create_task(database.write(note("house")))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*flood, other, house)
    assert order.index("house") <= GROUP_MAX
    assert order.index("other") <= 2  # one of the flooder's, and perhaps the house's, before


async def test_the_house_does_not_keep_users_waiting(
    database: SqliteDatabase, gate: threading.Event
) -> None:
    order: list[str] = []
    house = [
        asyncio.create_task(database.write(lambda _connection: order.append("house")))
        for _ in range(FLOOD)
    ]
    user = asyncio.create_task(database.write(lambda _connection: order.append("user"), lane="a"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*house, user)
    assert order.index("user") <= 1


async def test_reads_of_one_user_leave_threads_to_others_and_to_the_house(
    database: SqliteDatabase,
) -> None:
    opened = threading.Event()
    flood = [
        asyncio.create_task(database.read(lambda _connection: opened.wait(10), lane="flooder"))
        for _ in range(FLOOD)
    ]
    try:
        await asyncio.sleep(0)
        assert await database.read(lambda _connection: "read", lane="other") == "read"
        assert await database.read(lambda _connection: "read") == "read"
    finally:
        opened.set()
        await asyncio.gather(*flood)


async def test_a_write_that_was_cancelled_before_its_turn_does_nothing(
    database: SqliteDatabase, gate: threading.Event
) -> None:
    cancelled = asyncio.create_task(database.write(add("cancelled"), lane="a"))
    kept = asyncio.create_task(database.write(add("kept"), lane="a"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    gate.set()
    await kept
    assert "cancelled" not in await names(database)
