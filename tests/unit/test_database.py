"""The database: who waits for it doesn't wait longer for standing in line, and it comes back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from tests.house import MEMORY, sqlite_url

from isolane import database as module
from isolane.database import Database, hold_place, open_database
from isolane.errors import PlaceTaken, Unavailable

PATIENCE_MS = 400


@pytest.fixture
async def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
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
    connection.execute(text("INSERT INTO meta VALUES ('x', 'y')"))


async def test_those_in_line_behind_a_lock_are_refused_in_the_time_of_one(
    database: Database, lock: sqlite3.Connection
) -> None:
    lock.execute("BEGIN EXCLUSIVE")
    refused = await asyncio.gather(
        *(database.write(write) for _ in range(5)), return_exceptions=True
    )
    assert [type(error) for error in refused] == [Unavailable] * 5
    # The first has waited for the lock. It took all the time there is, so who stood in line behind
    # it isn't let wait for the lock as well; the second may have had a moment left.
    assert sum("busy for too long" in str(error) for error in refused) >= 3
    lock.execute("ROLLBACK")
    await database.write(write)


async def test_a_lock_that_goes_in_time_costs_nothing_but_time(
    database: Database, lock: sqlite3.Connection
) -> None:
    lock.execute("BEGIN EXCLUSIVE")
    writing = asyncio.gather(database.write(write), database.read(lambda _: None))
    await asyncio.sleep(0)
    lock.execute("ROLLBACK")
    await writing


async def test_it_is_down_from_a_refused_write_to_one_that_is_taken(
    database: Database, lock: sqlite3.Connection
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


def test_one_gateway_has_a_place_and_the_next_one_when_it_is_gone(tmp_path: Path) -> None:
    with hold_place(sqlite_url(tmp_path)):
        second = hold_place(sqlite_url(tmp_path))
        with pytest.raises(PlaceTaken, match=r"another gateway has .*isolane\.db open"):
            second.__enter__()
    with hold_place(sqlite_url(tmp_path)):
        pass


def test_memory_is_everybodys_own() -> None:
    with hold_place(MEMORY), hold_place(MEMORY):
        pass
