"""The database: who waits for it doesn't wait longer for standing in line, and it comes back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from tests.house import sqlite_url

from isolane.engines.sqlite import database as module
from isolane.engines.sqlite.database import SqliteDatabase, open_database
from isolane.errors import DatabaseFailed, Unavailable, chain_of
from isolane.sql.lanes import HOUSE

PATIENCE_MS = 400


@pytest.fixture
async def database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SqliteDatabase]:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", PATIENCE_MS)
    monkeypatch.setattr(module, "BUSY_STEP_MS", 1)
    opened = await open_database(sqlite_url(tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "isolane.db", isolation_level=None)) as other:
        yield other


def write(connection: Connection) -> None:
    connection.execute(text("INSERT INTO attempts VALUES ('x', 'y', 0)"))


@pytest.mark.parametrize("lanes", [[HOUSE] * 5, list("abcde")], ids=["house", "users"])
async def test_those_in_line_behind_a_lock_are_refused_in_the_time_of_one(
    database: SqliteDatabase, lock: sqlite3.Connection, lanes: list[str]
) -> None:
    lock.execute("BEGIN EXCLUSIVE")
    refused = await asyncio.gather(
        *(database.write(write, lane=lane) for lane in lanes), return_exceptions=True
    )
    assert [type(error) for error in refused] == [Unavailable] * 5
    # The first has waited for the lock. It took all the time there is, so who stood in line behind
    # it isn't let wait for the lock as well; the second may have had a moment left.
    assert sum("busy for too long" in str(error) for error in refused) >= 3
    lock.execute("ROLLBACK")
    await database.write(write)


async def test_a_lock_that_goes_in_time_costs_nothing_but_time(
    database: SqliteDatabase, lock: sqlite3.Connection
) -> None:
    lock.execute("BEGIN EXCLUSIVE")
    writing = asyncio.gather(database.write(write), database.read(lambda _: None))
    await asyncio.sleep(0)
    lock.execute("ROLLBACK")
    await writing


async def test_it_is_down_from_a_refused_write_to_one_that_is_taken(
    database: SqliteDatabase, lock: sqlite3.Connection
) -> None:
    await database.probe()
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable):
        await database.write(write)
    with pytest.raises(Unavailable):
        await database.probe()
    lock.execute("ROLLBACK")
    await database.probe()
    await database.write(write)


def misfit(statement: str) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(text(statement))


PERMANENT = {
    "UNIQUE": misfit("INSERT INTO attempts VALUES ('a', 'x', 0), ('a', 'y', 0)"),
    "NOT NULL": misfit("INSERT INTO attempts VALUES ('x', NULL, 0)"),
    "no such table": misfit("SELECT * FROM nowhere"),
    "no such column": misfit("SELECT nothing FROM attempts"),
    "too big": misfit("INSERT INTO attempts VALUES ('x', zeroblob(1000000001), 0)"),
    "not an INTEGER": lambda connection: connection.execute(
        text("SELECT :number"), {"number": 2**63}
    ),
    "no such table, by the driver alone": lambda connection: raw_of(connection).execute(
        "SELECT * FROM nowhere"
    ),
}
PASSING = {
    "full": ("PRAGMA max_page_count=1", "PRAGMA max_page_count=1000000"),
    "read-only": ("PRAGMA query_only=ON", "PRAGMA query_only=OFF"),
}


def raw_of(connection: Connection) -> Any:  # noqa: ANN401 - the driver's own type
    return connection.connection.driver_connection


@pytest.mark.parametrize("work", PERMANENT)
async def test_what_can_never_succeed_is_internal_and_nobody_is_down(
    database: SqliteDatabase, work: str
) -> None:
    with pytest.raises(DatabaseFailed) as refused:
        await database.write(PERMANENT[work])
    assert (refused.value.code, refused.value.__cause__) != ("internal", None)
    assert not database._is_refused
    await database.probe()
    await database.write(write)


@pytest.mark.parametrize("state", PASSING)
async def test_what_may_pass_is_unavailable(database: SqliteDatabase, state: str) -> None:
    begin, end = PASSING[state]
    raw = raw_of(database._writing)
    raw.execute(begin)
    big = misfit("INSERT INTO attempts VALUES ('big', zeroblob(10000000), 0)")
    with pytest.raises(Unavailable):
        await database.write(big)
    raw.execute(end)
    await database.write(big)


async def test_an_interrupted_read_is_unavailable(database: SqliteDatabase) -> None:
    def interrupted(connection: Connection) -> None:
        raw_of(connection).set_progress_handler(lambda: True, 1)
        try:
            connection.execute(text("SELECT * FROM attempts"))
        finally:
            raw_of(connection).set_progress_handler(None, 0)

    with pytest.raises(Unavailable):
        await database.read(interrupted)


async def test_a_damaged_file_is_internal(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    await (await open_database(url)).close()
    path = tmp_path / "isolane.db"
    pages = path.read_bytes()
    opened = await open_database(url)
    path.write_bytes(pages[:4096] + bytes(len(pages) - 4096))
    with pytest.raises(DatabaseFailed, match="malformed"):
        await opened.write(write)
    await opened.close()


async def test_an_error_shows_no_value_of_its_statement(database: SqliteDatabase) -> None:
    def insert(connection: Connection) -> None:
        row = text("INSERT INTO attempts VALUES (:a, NULL, 0)")
        connection.execute(row, {"a": "a user's words"})

    with pytest.raises(DatabaseFailed) as refused:
        await database.write(insert)
    assert "a user's words" not in "".join(chain_of(refused.value))
