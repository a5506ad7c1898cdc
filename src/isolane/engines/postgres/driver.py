"""Connections of psycopg that read the statements of `isolane.sql`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final

import psycopg
from psycopg.types.string import StrDumperUnknown, TextLoader
from sqlalchemy import make_url

STREAMED_ROWS: Final = 256
"""Rows that a stream fetches at a time."""
_CONNECTING: Final[dict[str, Any]] = {
    "connect_timeout": 2,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4_000,
    "target_session_attrs": "read-write",
    "application_name": "isolane",
}
"""A server that doesn't answer for seconds is down: nobody waits for it for minutes."""
_SETTINGS: Final = """
SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '3s'; SET timezone = 'UTC'
"""
"""A gateway that is frozen between two statements holds its locks no longer than that."""
_HINT: Final = re.compile(r" INDEXED BY \w+")
_ESCAPED: Final = re.compile("[\0\1]")
_ESCAPE: Final = re.compile("\1(.)")


@lru_cache(maxsize=1024)
def to_psycopg(statement: str) -> bytes:
    """Return a statement as psycopg reads it: with its marks for values, and without hints.

    PostgreSQL chooses indexes by what it knows of the rows. No statement has a percent sign.
    """
    return _HINT.sub("", statement).replace("?", "%s").encode()


class _TextDumper(StrDumperUnknown):
    """Writes texts that may hold NUL, which PostgreSQL refuses.

    NUL becomes U+0001 and "0", U+0001 becomes U+0001 and "1". So different texts stay different,
    and their order stays as it is.
    """

    def dump(self, obj: str) -> bytes:
        if "\0" in obj or "\1" in obj:
            obj = _ESCAPED.sub(lambda found: f"\1{ord(found[0])}", obj)
        return obj.encode()


class _TextLoader(TextLoader):
    """Reads what `_TextDumper` wrote."""

    def load(self, data: Any) -> str:  # noqa: ANN401 - a buffer
        text = bytes(data).decode()
        return _ESCAPE.sub(lambda found: chr(int(found[1])), text) if "\1" in text else text


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection as `isolane.sql.driver` uses it. It begins transactions only when it is told."""

    _names = count()

    def begin(self, statements: str) -> None:
        """Run the statements that begin a transaction, all in one journey to the server."""
        super().execute(statements.encode(), prepare=False)

    def execute(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - as `Driver` has it
        self, statement: str, values: Sequence[object] = ()
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run a statement."""
        return super().execute(to_psycopg(statement), values or None)

    def executemany(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run a statement once per row of values, all in one journey to the server."""
        with self.cursor() as cursor:
            cursor.executemany(to_psycopg(statement), list(rows))

    def stream(self, statement: str, values: Sequence[object] = ()) -> Any:  # noqa: ANN401 - psycopg's
        """Run a statement whose rows are fetched as they are asked for."""
        cursor = self.cursor(name=f"stream_{next(self._names)}")
        cursor.itersize = STREAMED_ROWS
        return cursor.execute(to_psycopg(statement), values or None)


def connect(url: str) -> Connection:
    """Open a connection to the database at `url`.

    Raises:
        psycopg.Error: The server can't be reached, or refuses.
    """
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    opened = Connection.connect(address, autocommit=True, **_CONNECTING)
    opened.adapters.register_dumper(str, _TextDumper)
    for name in ("text", "varchar"):
        opened.adapters.register_loader(name, _TextLoader)
    opened.begin(_SETTINGS)
    return opened
