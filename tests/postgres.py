"""A PostgreSQL server of the tests' own: one for a process of pytest, on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from isolane.testing.server import LOOPBACK, free_port

ACCOUNT: Final = "postgres"
"""Who runs the server when we are root, for whom PostgreSQL refuses to."""
OWNER: Final = "isolane"
READY: Final = "ready"
"""The database with all tables that others are made like."""
VERSION: Final = "alembic_version"
_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
_ADDED: Final = """
SELECT tgname FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
_CUT: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid != pg_backend_pid()
"""
SETTINGS: Final = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": 200,
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
    "fsync": "off",  # the server outlives no power cut, and tests kill processes only
}


def find_programs() -> Path:
    """Return the folder of the newest PostgreSQL there is; `scripts/servers` installs one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name))
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.fail("there is no PostgreSQL here: sh scripts/servers")
    return Path(initdb).resolve().parent


@dataclass(eq=False)
class PostgresServer:
    """A server that runs."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]
    names: Iterator[int] = field(default_factory=count)
    spare: list[str] = field(default_factory=list[str])
    """Databases without rows that nobody uses."""
    made: set[str] = field(default_factory=set[str])
    tables: list[str] = field(default_factory=list[str])
    """The tables of the database `READY`."""

    def address(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://{OWNER}@{LOOPBACK}:{self.port}/{database}"

    def execute(self, statement: str, *, database: str = "postgres") -> list[Any]:
        """Run a statement as the owner of everything, and return what it found."""
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def cut_connections(self, url: str) -> None:
        """End the connections that others have to a database, as its end would."""
        self.execute(_CUT, database=url.rpartition("/")[2])

    @contextmanager
    def database(self, *, like: str = "template0") -> Iterator[str]:
        """Have a database for the block: empty, or as another one is; give its URL."""
        name = f"d{next(self.names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        try:
            yield self.address(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def note_tables(self) -> None:
        """Remember which tables the database `READY` has."""
        self.tables = sorted(row[0] for row in self.execute(_TABLES, database=READY))

    @contextmanager
    def clean_database(self) -> Iterator[str]:
        """Have a database for the block that has all tables, and no rows; give its URL.

        It is used again: to delete rows takes a tenth of the time that another database takes.
        """
        name = self.spare.pop() if self.spare else f"d{next(self.names)}"
        if name not in self.made:
            self.execute(f"CREATE DATABASE {name} TEMPLATE {READY}")
            self.made.add(name)
        yield self.address(name)
        tables = [row[0] for row in self.execute(_TABLES, database=name)]
        if (sorted(tables), self.execute(_ADDED, database=name)) == (self.tables, []):
            deletes = [f"DELETE FROM {table}" for table in tables if table != VERSION]  # noqa: S608 - ours
            self.execute("; ".join(deletes), database=name)
            self.spare.append(name)
        else:  # a test has changed more than rows
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server with a data folder of its own, and end it with the block."""
    programs, port = find_programs(), free_port()
    initdb: list[str | Path]
    with tempfile.TemporaryDirectory(prefix="isolane-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            account = pwd.getpwnam(ACCOUNT)
            os.chown(folder, account.pw_uid, account.pw_gid)
        as_whom: dict[str, Any] = {"user": ACCOUNT, "group": ACCOUNT} if os.geteuid() == 0 else {}
        initdb = [programs / "initdb", "-D", folder / "data", "-U", OWNER, "-A", "trust"]
        initdb += ["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        made = subprocess.run(
            initdb, capture_output=True, text=True, cwd=folder, check=False, **as_whom
        )
        assert made.returncode == 0, made.stderr
        options = [f"-c{key}={value}" for key, value in {**SETTINGS, "port": port}.items()]
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *options], cwd=folder, **as_whom
        )
        server = PostgresServer(port, folder, process)
        try:
            _wait_for(server)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # without waiting for those who are connected
            process.wait()


def _wait_for(server: PostgresServer) -> None:
    """Return once the server answers."""
    while True:
        try:
            server.execute("SELECT 1")
        except psycopg.OperationalError:
            assert server.process.poll() is None, "the server ended by itself"
        else:
            return
