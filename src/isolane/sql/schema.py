"""The schema of a database: made at once in a new one, migrated in an older one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Dialect, inspect
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

from isolane.errors import DatabaseFailed
from isolane.sql.driver import execute, load_value
from isolane.sql.tables import metadata

VERSION: Final = "0018"
"""The newest migration: what `tables` says is what it leaves."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOAD_VERSION: Final = "SELECT version_num FROM alembic_version"
# The table in which Alembic keeps the version.
_CREATE_VERSION: Final = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)
"""
_SET_VERSION: Final = "INSERT INTO alembic_version (version_num) VALUES (?)"
# The row that counts what all users keep together is there from the start.
_ADD_TOTALS: Final = "INSERT INTO usage (user_id, threads, bytes) VALUES ('', 0, 0)"


def bring_up_to_date(connection: Connection, *, is_empty: bool) -> None:
    """Give the database the tables of this version, in the transaction that the caller began.

    `is_empty` says that it has nothing yet.

    Raises:
        DatabaseFailed: A newer version of Isolane wrote the database. Nothing was changed.
    """
    if is_empty:
        _create(connection)
    elif _load_version(connection) != VERSION:
        migrate(connection, VERSION)


def _load_version(connection: Connection) -> str | None:
    """Return the last migration that the database has; None if it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return load_value(connection, _LOAD_VERSION)  # type: ignore[no-any-return]


def _create(connection: Connection) -> None:
    """Make all tables. All migrations take ten times as long, and leave the same."""
    for statement in _to_statements(connection.dialect):
        execute(connection, statement)
    execute(connection, _CREATE_VERSION)
    execute(connection, _SET_VERSION, (VERSION,))
    execute(connection, _ADD_TOTALS)


@cache
def _to_statements(dialect: Dialect) -> tuple[str, ...]:
    tables = metadata.sorted_tables
    indexes = [index for table in tables for index in sorted(table.indexes, key=str)]
    made: list[DDLElement] = [*map(CreateTable, tables), *map(CreateIndex, indexes)]
    return tuple(str(each.compile(dialect=dialect)) for each in made)


def migrate(connection: Connection, version: str) -> None:
    """Bring the tables to `version`, step by step.

    Raises:
        DatabaseFailed: A newer version of Isolane wrote the database. Nothing was changed.
    """
    # Few starts migrate, and the import takes a tenth of a start.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, version)
    except CommandError as error:  # the file's version is unknown here
        raise DatabaseFailed(
            f"A newer version of Isolane wrote the database at {connection.engine.url.database}, "
            "and nothing of it was changed: start that version or a later one, or name another "
            "folder with --data."
        ) from error
