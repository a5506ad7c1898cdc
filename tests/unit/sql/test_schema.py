"""A new file gets the tables that migrations leave, and no other file is taken for a new one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine

from isolane.sql import schema
from isolane.sql.schema import VERSION, bring_up_to_date, migrate

Kept = tuple[set[tuple[str, str, str]], dict[str, list[tuple[object, ...]]]]
"""Type, name and definition of all that a database has, and the rows of each table."""
FIRST = "0001"


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def kept_in(connection: Connection) -> Kept:
    rows = connection.exec_driver_sql("SELECT type, name, ifnull(sql, '') FROM sqlite_master")
    made = {(kind, name, " ".join(sql.replace('"', "").split())) for kind, name, sql in rows}
    # SQLite's own table notes the highest number that was given, and 0 where a table was moved.
    ours = (name for kind, name, _ in made if kind == "table" and name != "sqlite_sequence")
    return made, {
        table: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]  # noqa: S608
        for table in ours
    }


@pytest.fixture
def migrated() -> Iterator[Kept]:
    """What all migrations leave of an empty file."""
    engine = create_engine("sqlite://")
    with engine.connect() as opened:
        migrate(opened, "head")
        yield kept_in(opened)
    engine.dispose()


def test_a_new_file_has_what_all_migrations_leave(connection: Connection, migrated: Kept) -> None:
    bring_up_to_date(connection, is_empty=True)
    assert kept_in(connection) == migrated


def test_the_version_is_that_of_the_newest_migration() -> None:
    folder = Path(schema.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == VERSION


def test_a_file_of_the_first_version_is_migrated(connection: Connection, migrated: Kept) -> None:
    migrate(connection, FIRST)
    bring_up_to_date(connection, is_empty=False)
    assert kept_in(connection) == migrated


def test_a_file_of_this_version_is_left_alone(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_up_to_date(connection, is_empty=True)
    before = kept_in(connection)
    monkeypatch.delattr(schema, "migrate")
    bring_up_to_date(connection, is_empty=False)
    assert kept_in(connection) == before
