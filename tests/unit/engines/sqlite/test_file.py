"""The file of a database: one gateway serves it, by whatever name it is opened."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection, text
from tests.house import MEMORY, sqlite_url

from isolane.engines.sqlite.database import open_database
from isolane.engines.sqlite.file import lock_database
from isolane.errors import DatabaseInUse


def write(connection: Connection) -> None:
    connection.execute(text("INSERT INTO attempts VALUES ('x', 'y', 0)"))


def test_one_gateway_has_a_place_and_the_next_one_when_it_is_gone(tmp_path: Path) -> None:
    with lock_database(sqlite_url(tmp_path)):
        second = lock_database(sqlite_url(tmp_path))
        with pytest.raises(DatabaseInUse, match=r"another gateway has .*isolane\.db open"):
            second.__enter__()
    with lock_database(sqlite_url(tmp_path)):
        pass


def by_symbolic_link(file: Path) -> str:
    link = file.with_name("link.db")
    link.symlink_to(file)
    return f"sqlite:///{link}"


def by_hard_link(file: Path) -> str:
    file.touch()
    link = file.with_name("link.db")
    link.hardlink_to(file)
    return f"sqlite:///{link}"


def by_linked_folder(file: Path) -> str:
    folder = file.parent.with_name(f"{file.parent.name}-link")
    folder.symlink_to(file.parent)
    return f"sqlite:///{folder / file.name}"


def by_relative_path(file: Path) -> str:
    return f"sqlite:///{os.path.relpath(file)}"


def by_way_of_its_parent(file: Path) -> str:
    return f"sqlite:///{file.parent}/../{file.parent.name}/{file.name}"


def by_url_with_options(file: Path) -> str:
    return f"sqlite:///{file}?timeout=5"


def by_file_uri(file: Path) -> str:
    return f"sqlite:///file://{file}?mode=rwc&uri=true"


def by_relative_file_uri(file: Path) -> str:
    return f"sqlite:///file:{os.path.relpath(file)}?uri=true&cache=private"


OTHER_NAMES: Final = (
    by_symbolic_link,
    by_hard_link,
    by_linked_folder,
    by_relative_path,
    by_way_of_its_parent,
    by_url_with_options,
    by_file_uri,
    by_relative_file_uri,
)


@pytest.mark.parametrize("rename", OTHER_NAMES)
@pytest.mark.parametrize("is_first", [True, False])
def test_one_gateway_has_a_place_by_whatever_name(
    tmp_path: Path, rename: Callable[[Path], str], *, is_first: bool
) -> None:
    names = [sqlite_url(tmp_path), rename(tmp_path / "isolane.db")]
    one, other = names if is_first else reversed(names)
    with lock_database(one), pytest.raises(DatabaseInUse, match="another gateway has"):
        lock_database(other).__enter__()
    with lock_database(other):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the file itself is locked on Linux only")
def test_gateway_of_another_process_has_the_place_by_whatever_name(tmp_path: Path) -> None:
    other = by_hard_link(tmp_path / "isolane.db")
    source = "from isolane.engines.sqlite.file import lock_database"
    program = f"{source}\nwith lock_database({other!r}): pass"
    with lock_database(sqlite_url(tmp_path)):
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert b"DatabaseInUse: another gateway has" in result.stderr


def read_from_another_process(path: Path) -> None:
    program = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('PRAGMA schema_version')"
    subprocess.run([sys.executable, "-c", f"{program}.connection.close()"], check=True)


async def test_refusing_a_second_gateway_costs_the_first_no_lock(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    other = by_hard_link(tmp_path / "isolane.db")
    with lock_database(url):
        database = await open_database(url)
        await database.write(write)
        with pytest.raises(DatabaseInUse):
            lock_database(other).__enter__()
        # The other process would take itself for the last one, and delete what was written, if it
        # found no lock.
        await asyncio.to_thread(read_from_another_process, tmp_path / "isolane.db")
        assert (tmp_path / "isolane.db-wal").stat().st_size
        await database.close()


@pytest.mark.parametrize(
    "url",
    [
        MEMORY,
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true&cache=shared",
        "sqlite:///file:one?mode=memory&cache=shared&uri=true",
    ],
)
def test_memory_is_everybodys_own(url: str) -> None:
    with lock_database(url), lock_database(url):
        pass
