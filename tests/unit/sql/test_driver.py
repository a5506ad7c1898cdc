"""A transaction holds the driver's statements and SQLAlchemy's, and its reads are one snapshot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select
from tests.house import MEMORY, sqlite_url

from isolane.engines.sqlite.database import SqliteDatabase, open_database
from isolane.errors import NotFound
from isolane.sql.driver import execute, execute_many, insert_row, load_column, update_row
from isolane.sql.tables import attempts

ADD = "INSERT INTO attempts (key, moments, expires_at) VALUES (?, x'', 0)"
NAMES = "SELECT key FROM attempts ORDER BY key"


@pytest.fixture(params=["file", "memory"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = await open_database(sqlite_url(tmp_path) if request.param == "file" else MEMORY)
    yield opened
    await opened.close()


def add_both(connection: Connection) -> None:
    """Add a row by the driver, one by SQLAlchemy, and another by the driver."""
    execute(connection, ADD, ("first",))
    connection.execute(attempts.insert().values(key="second", moments=b"", expires_at=0))
    execute(connection, ADD, ("third",))


def add_and_fail(connection: Connection) -> None:
    add_both(connection)
    raise NotFound("no such thread")


async def load_names(database: SqliteDatabase) -> list[str]:
    return await database.read(lambda connection: load_column(connection, NAMES))


async def test_transaction_commits_the_statements_of_both(database: SqliteDatabase) -> None:
    await database.write(add_both)
    assert await load_names(database) == ["first", "second", "third"]


async def test_transaction_that_fails_undoes_the_statements_of_both(
    database: SqliteDatabase,
) -> None:
    with pytest.raises(NotFound):
        await database.write(add_and_fail)
    assert not database._writing.in_transaction()
    assert await load_names(database) == []
    await database.write(add_both)  # the failed one left no transaction open
    assert len(await load_names(database)) == 3


async def test_read_that_fails_leaves_its_connection_free(database: SqliteDatabase) -> None:
    def read_and_fail(connection: Connection) -> None:
        load_column(connection, NAMES)
        connection.execute(select(attempts.c.key)).all()
        raise NotFound("no such thread")

    for _ in range(3):
        with pytest.raises(NotFound):
            await database.read(read_and_fail)
    await database.write(add_both)
    assert len(await load_names(database)) == 3


async def test_reads_of_a_transaction_are_one_snapshot(tmp_path: Path) -> None:
    database = await open_database(sqlite_url(tmp_path))
    is_read, is_written = threading.Event(), threading.Event()

    def read_twice(connection: Connection) -> list[list[str]]:
        before = load_column(connection, NAMES)
        is_read.set()
        assert is_written.wait(10)
        return [before, load_column(connection, NAMES)]

    def write(connection: Connection) -> None:
        assert is_read.wait(10)
        add_both(connection)

    reading = database.read(read_twice)
    async with asyncio.TaskGroup() as group:
        twice = group.create_task(reading)
        await group.create_task(database.write(write))
        is_written.set()
    assert twice.result() == [[], []]
    await database.close()


async def test_rows_are_written_by_the_names_of_their_columns(database: SqliteDatabase) -> None:
    def write(connection: Connection) -> None:
        execute_many(connection, ADD, [("a",), ("b",)])
        insert_row(connection, "attempts", {"key": "c", "moments": b"1", "expires_at": 7})
        update_row(connection, "attempts", {"key": "d", "expires_at": 8}, "key", "a")

    await database.write(write)
    rows = "SELECT key, expires_at FROM attempts ORDER BY key"
    found = await database.read(lambda connection: execute(connection, rows).fetchall())
    assert found == [("b", 0), ("c", 7), ("d", 8)]
