"""A PostgreSQL database: a user's writes are serial on all nodes, and none is made twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from threading import Barrier
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import Connection
from tests.house import ALICE
from tests.postgres import PostgresServer

from isolane.engines.postgres import driver
from isolane.engines.postgres.database import PostgresDatabase, open_database
from isolane.errors import DatabaseFailed, NotFound, Unavailable, chain_of
from isolane.sql.driver import driver_of, execute, load_column, load_value
from isolane.sql.lanes import HOUSE

BOB: Final = "bob"
ROUNDS: Final = 20


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """Give a database with all tables, and one more."""
    with postgres.database(like="ready") as address:
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("CREATE TABLE counts (name text PRIMARY KEY, n int NOT NULL)")
            connection.execute("INSERT INTO counts VALUES ('a', 0), ('b', 0)")
        yield address


@pytest.fixture
async def nodes(url: str) -> AsyncIterator[tuple[PostgresDatabase, PostgresDatabase]]:
    """Give the database as two nodes have it open."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            one = await open_database(url)
            stack.push_async_callback(one.close)
            opened.append(one)
        yield opened[0], opened[1]


def add_one(connection: Connection) -> int:
    """Count as nobody should who isn't alone: look, then write what was seen and one more."""
    seen: int = load_value(connection, "SELECT n FROM counts WHERE name = 'a'")
    execute(connection, "UPDATE counts SET n = ? WHERE name = 'a'", (seen + 1,))
    return seen + 1


async def count_of(database: PostgresDatabase, name: str = "a") -> int:
    statement = "SELECT n FROM counts WHERE name = ?"
    return await database.read(lambda one: int(load_value(one, statement, (name,))))


@pytest.mark.parametrize("lanes", [(ALICE, ALICE), (HOUSE, HOUSE), (ALICE, HOUSE)])
async def test_writes_that_meet_are_serial_on_all_nodes(
    nodes: tuple[PostgresDatabase, PostgresDatabase], lanes: tuple[str, str]
) -> None:
    writes = [
        node.write(add_one, lane=lane)
        for _ in range(ROUNDS)
        for node, lane in zip(nodes, lanes, strict=True)
    ]
    assert sorted(await asyncio.gather(*writes)) == list(range(1, 2 * ROUNDS + 1))


async def test_writes_of_different_users_meet_nowhere(
    nodes: tuple[PostgresDatabase, PostgresDatabase],
) -> None:
    both = Barrier(2)  # passed by two at once only

    def wait(connection: Connection) -> None:
        execute(connection, "SELECT 1")
        both.wait(timeout=10)

    await asyncio.gather(nodes[0].write(wait, lane=ALICE), nodes[0].write(wait, lane=BOB))


async def test_appends_that_lock_each_other_out_are_run_again(
    nodes: tuple[PostgresDatabase, PostgresDatabase],
) -> None:
    both = Barrier(2)
    runs = []

    def add_to(*names: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            runs.append(names)
            for place, name in enumerate(names):
                execute(connection, "UPDATE counts SET n = n + 1 WHERE name = ?", (name,))
                if not place and len(runs) <= 2:
                    both.wait(timeout=10)

        return work

    first, second = nodes
    await asyncio.gather(first.commit_log(add_to("a", "b")), second.commit_log(add_to("b", "a")))
    assert len(runs) == 3
    assert (await count_of(nodes[0]), await count_of(nodes[0], "b")) == (2, 2)


async def test_a_connection_that_ended_is_made_anew(
    nodes: tuple[PostgresDatabase, PostgresDatabase], postgres: PostgresServer, url: str
) -> None:
    for _ in range(4):  # so that several wait to be used
        await asyncio.gather(*(nodes[0].write(add_one, lane=str(name)) for name in range(4)))
    before = await count_of(nodes[0])
    postgres.cut_connections(url)
    assert await nodes[0].write(add_one, lane=ALICE) == before + 1
    assert await count_of(nodes[0]) == before + 1


async def test_a_write_whose_connection_ends_is_run_again(
    nodes: tuple[PostgresDatabase, PostgresDatabase], postgres: PostgresServer, url: str
) -> None:
    ends = [True]

    def work(connection: Connection) -> int:
        found = add_one(connection)
        if ends and ends.pop():
            postgres.cut_connections(url)
        execute(connection, "SELECT 1")
        return found

    assert await nodes[0].write(work, lane=ALICE) == 1
    assert await count_of(nodes[0]) == 1


def lose_answers(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """Commit, and lose the connection before the answer comes; return a list of the commits."""
    commit, committed = driver.Connection.commit, list[int]()

    def lose(self: Any) -> None:  # noqa: ANN401 - psycopg's
        commit(self)
        committed.append(1)
        if len(committed) <= times:
            self.close()
            raise psycopg.OperationalError("the answer was lost")

    monkeypatch.setattr(driver.Connection, "commit", lose)
    return committed


async def test_an_append_without_an_answer_is_run_again(
    nodes: tuple[PostgresDatabase, PostgresDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work sees what it wrote before, and so it can tell."""
    lose_answers(monkeypatch, times=1)

    def append(connection: Connection) -> int:
        seen = int(load_value(connection, "SELECT n FROM counts WHERE name = 'a'"))
        return seen or add_one(connection)

    assert await nodes[0].commit_log(append) == 1
    monkeypatch.undo()
    assert await count_of(nodes[0]) == 1


async def test_a_write_without_an_answer_is_told_as_such_and_not_run_again(
    nodes: tuple[PostgresDatabase, PostgresDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = lose_answers(monkeypatch, times=1)
    with pytest.raises(Unavailable, match="gave no answer to a commit"):
        await nodes[0].write(add_one, lane=ALICE)
    monkeypatch.undo()
    assert (len(committed), await count_of(nodes[0])) == (1, 1)


async def test_an_error_says_nothing_that_a_user_wrote(
    nodes: tuple[PostgresDatabase, PostgresDatabase],
) -> None:
    def insert(connection: Connection) -> None:
        execute(connection, "INSERT INTO counts VALUES (?, 1)", ("secret word",))

    await nodes[0].write(insert)
    with pytest.raises(DatabaseFailed) as caught:
        await nodes[0].write(insert)
    assert "duplicate key" in str(caught.value)
    assert "secret word" not in str(caught.value)


async def test_an_error_of_the_work_itself_keeps_its_own_cause(
    nodes: tuple[PostgresDatabase, PostgresDatabase],
) -> None:
    def refuse(_: Connection) -> None:
        raise NotFound("no such thread") from KeyError("t")

    for lane in (ALICE, HOUSE):
        with pytest.raises(NotFound) as caught:
            await nodes[0].write(refuse, lane=lane)
        assert chain_of(caught.value) == ["NotFound: no such thread", "KeyError: 't'"]


async def test_texts_with_nul_stay_what_they_are_and_in_their_order(
    nodes: tuple[PostgresDatabase, PostgresDatabase],
) -> None:
    words = [
        "",
        "a",
        "a\0",
        "a\0b",
        "a\1",
        "a\0010",
        "a\0011",
        "a\2",
        "\0",
        "\1",
        "\0001",
        "é\0",
        "😀",
    ]

    def keep(connection: Connection) -> list[str]:
        execute(connection, 'CREATE TABLE words (word text COLLATE "C" PRIMARY KEY)')
        for word in words:
            execute(connection, "INSERT INTO words VALUES (?)", (word,))
        return load_column(connection, "SELECT word FROM words ORDER BY word")

    assert await nodes[0].write(keep) == sorted(words)


async def test_rows_that_nobody_asks_for_are_not_fetched(
    nodes: tuple[PostgresDatabase, PostgresDatabase],
) -> None:
    def look(connection: Connection) -> int:
        raw: Any = driver_of(connection)
        cursor = raw.stream("SELECT n, repeat('x', 1000) FROM generate_series(1, 1000000) AS n")
        found = next(iter(cursor))[0]
        cursor.close()
        return int(found)

    assert await nodes[0].read(look) == 1


@pytest.mark.parametrize(
    "made_with, then, told",
    [
        ("ENCODING 'SQL_ASCII' LOCALE 'C'", "", "the encoding SQL_ASCII.*UTF8"),
        ("", "ALTER DATABASE %s SET synchronous_commit = off", "synchronous_commit=off"),
    ],
)
async def test_a_server_that_promises_less_is_refused(
    postgres: PostgresServer, made_with: str, then: str, told: str
) -> None:
    name = "lesser"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 {made_with}")
    try:
        if then:
            postgres.execute(then % name)
        with pytest.raises(DatabaseFailed, match=told):
            await open_database(postgres.address(name))
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(Unavailable) as caught:
        await open_database("postgresql://me:secret@127.0.0.1:1/none")
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)
