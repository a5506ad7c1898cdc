"""`isolane usage`: what there is to read, and what a wrong folder or command line is told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result

from isolane.cli import main

ROWS: Final = [("", 7, 12_345), ("ann", 5, 2_345), ("gone", 0, 0), ("zoë", 2, 10_000)]


def usage(*options: str) -> Result:
    return CliRunner().invoke(main, ["usage", *options])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "isolane.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE usage (user_id, threads, bytes)")
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?)", ROWS)
        connection.commit()
    return tmp_path


def test_users_who_keep_most_come_first(data: Path) -> None:
    assert usage("--data", str(data)).output.splitlines() == [
        "user   threads  bytes",
        "zoë          2  10000",
        "ann          5   2345",
        "all 2        7  12345",
    ]


def test_folder_is_left_as_it_was(data: Path) -> None:
    """A reader of another system user would leave files that the gateway can't write."""
    before = [(file.name, file.read_bytes()) for file in data.iterdir()]
    assert usage("--data", str(data)).exit_code == 0
    assert [(file.name, file.read_bytes()) for file in data.iterdir()] == before


def test_what_is_not_folded_in_yet_is_told_too(data: Path) -> None:
    with closing(sqlite3.connect(data / "isolane.db", isolation_level=None)) as connection:
        connection.execute("UPDATE usage SET threads = 9 WHERE user_id = 'ann'")
        assert usage("--data", str(data)).output.splitlines()[2] == "ann          9   2345"


def test_list_may_be_shorter_than_what_is_counted(data: Path) -> None:
    told = json.loads(usage("--data", str(data), "--limit", "1", "--json").output)
    assert told == {
        "users": [{"userId": "zoë", "storedThreads": 2, "storedBytes": 10_000}],
        "userCount": 2,
        "storedThreads": 7,
        "storedBytes": 12_345,
    }


def make_nothing(_file: Path) -> None:
    pass


def make_older(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE threads (user_id)")


def make_text(file: Path) -> None:
    file.write_text("this is no database at all " * 100)


@pytest.mark.parametrize(
    "make, said",
    [
        (make_nothing, "There is no database at "),
        (Path.mkdir, "There is no database at "),
        (Path.touch, "is of an earlier version"),
        (make_older, "is of an earlier version"),
        (make_text, "can't be read: file is not a database."),
    ],
)
def test_what_is_no_database_is_told_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "isolane.db")
    before = sorted(tmp_path.iterdir())
    ended = usage("--data", str(tmp_path))
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Error: ")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_database_in_memory_is_its_gateways_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLANE_DATABASE_URL", "sqlite://")
    ended = usage()
    assert ended.exit_code == 1
    assert ended.stderr == "Error: The database is in memory: only its gateway sees it.\n"


@pytest.mark.parametrize("options", [("--limit", "0"), ("--limit", "many"), ("more",), ("--jsn",)])
def test_wrong_command_line_ends_with_2(options: tuple[str, ...]) -> None:
    ended = usage(*options)
    assert (ended.exit_code, ended.stdout) == (2, "")
