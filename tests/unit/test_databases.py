"""The address of a database chooses its engine, and what is missing is told in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import pytest
from tests.house import ALICE
from tests.postgres import PostgresServer

from isolane import databases
from isolane.errors import DatabaseFailed
from isolane.sql import usage

PARTS = ("psycopg", "isolane.engines.postgres")


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.clean_database() as address:
        yield address


async def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith(PARTS)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseFailed, match=r"pip install 'isolane\[postgres\]'"):
        await databases.open_database("postgresql://db.example.org/isolane")


async def test_who_keeps_most_is_told_of_a_server_too(url: str) -> None:
    database = await databases.open_database(url)
    for user_id, size in ((ALICE, 7), ("bob", 9)):
        await database.write(partial(usage.add, user_id=user_id, threads=1, size=size))
    report = await databases.read_report(url, 1)
    await database.close()
    assert [tuple(user) for user in report.users] == [("bob", 1, 9)]
    assert (report.user_count, tuple(report.totals)) == (2, (2, 16))
    assert report.totals == usage.Kept(2, 16)
