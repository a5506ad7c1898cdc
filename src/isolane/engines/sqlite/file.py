"""The file of a database: its path, its rights, and the lock of the gateway that serves it."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from sqlalchemy import make_url
from sqlalchemy.dialects.sqlite import pysqlite

from isolane.errors import DatabaseInUse

MEMORY: Final = ":memory:"
"""SQLite's name for a database that is in no file."""
PRIVATE: Final = 0o600
"""Mode bits of the database's files: only their owner reads and writes them."""
_held: Final[set[tuple[int, int]]] = set()
"""Device and inode of the database files that gateways of this process have open."""


def path_of(url: str) -> Path | None:
    """Return the absolute path of a database's file; None for a database in memory.

    The driver gets the same path, apart from the options in the URL.
    """
    arguments, options = pysqlite.dialect().create_connect_args(make_url(url))
    name = str(arguments[0])
    if not options.get("uri"):
        return None if name == MEMORY else Path(name).absolute()
    parts = urlsplit(name)
    asked = dict(parse_qsl(parts.query))
    if parts.path == MEMORY or asked.get("mode") == "memory" or asked.get("vfs") == "memdb":
        return None
    return Path(unquote(parts.path)).absolute()


def keep_private(path: Path) -> None:
    """Make the file if it is missing, and let only its owner read it: it has what all users said.

    SQLite gives the files beside it the rights of the database itself.
    """
    path.touch(mode=PRIVATE)
    for file in (path, *(path.with_name(f"{path.name}-{side}") for side in ("wal", "shm"))):
        # A file of another account keeps its rights.
        with suppress(FileNotFoundError, PermissionError):
            file.chmod(PRIVATE)


@contextmanager
def lock_database(url: str) -> Iterator[None]:
    """Lock the database at `url` for the block, so that no other gateway serves it.

    There are two locks. One is beside the file's real path: it also guards a file that is put back
    meanwhile. The other is on the file itself, because a file may have several names. Both end with
    the process, however that ends. A database in memory needs no lock.

    Raises:
        DatabaseInUse: Another gateway serves this database.
    """
    path = path_of(url)
    if path is None:
        yield
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _lock(path, path.with_name(f"{path.name}.lock")),
        _lock_file_itself(path),
    ):
        yield


@contextmanager
def _lock(database: Path, path: Path) -> Iterator[None]:
    """Lock the file at `path` for a database; make the file if it is missing."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _taken(database) from error
        yield


@contextmanager
def _lock_file_itself(path: Path) -> Iterator[None]:
    """Lock a database's own file, because links and mounts may give it other names.

    On Linux this lock and SQLite's own locks don't meet. On other systems they do, so nothing is
    locked there.
    """
    if sys.platform != "linux":
        yield
        return
    path.touch()
    inode = _inode_of(path)
    # Opening and closing the file would end the locks that SQLite has on it in this process.
    if inode in _held:
        raise _taken(path)
    _held.add(inode)
    try:
        with _lock(path, path):
            yield
    finally:
        _held.discard(inode)


def _inode_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _taken(path: Path) -> DatabaseInUse:
    return DatabaseInUse(
        f"another gateway has {path} open, by this name or another; stop it first, and serve with "
        "one worker: a data folder has one process"
    )
