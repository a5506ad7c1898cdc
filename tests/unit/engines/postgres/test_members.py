"""Nodes live as long as their beats are new, by the clock of whoever looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from tests.house import until
from tests.postgres import PostgresServer

from isolane.clock import now_ms
from isolane.contracts import NodeInfo, NodeRole
from isolane.engines.postgres.database import PostgresDatabase, open_database
from isolane.engines.postgres.driver import connect
from isolane.engines.postgres.members import BROKEN_S, LEASE_S, Deaths, PostgresMembers
from isolane.errors import NameTaken
from isolane.sql.driver import execute

# --- who is dead: pure ---------------------------------------------------------------------------


def look(deaths: Deaths, seconds: range, beats: dict[str, int]) -> list[tuple[str, int]]:
    """Look once a second, and return what the last look says."""
    found: list[tuple[str, int]] = []
    for second in seconds:
        found = deaths.look(float(second), beats)
    return found


def test_a_beat_that_stays_the_same_for_a_whole_lease_is_the_last_one() -> None:
    deaths, lease = Deaths(), round(LEASE_S)
    assert look(deaths, range(lease), {"a": 1, "b": 1}) == []
    assert deaths.look(lease, {"a": 1, "b": 2}) == [("a", 1)]
    assert deaths.look(lease + 1, {"a": 1, "b": 2}) == [("a", 1)]


def test_who_was_cut_off_itself_watches_anew() -> None:
    """Else the database's absence would be the death of everybody."""
    deaths, lease = Deaths(), round(LEASE_S)
    assert look(deaths, range(lease), {"a": 1}) == []
    back = round(lease + BROKEN_S + 1)
    assert look(deaths, range(back, back + lease), {"a": 1}) == []
    assert look(deaths, range(back + lease, back + lease + 1), {"a": 1}) == [("a", 1)]


@pytest.mark.parametrize("step", [-3_600_000, 3_600_000])
def test_a_clock_of_the_server_that_jumps_declares_nobody_dead(step: int) -> None:
    deaths = Deaths()
    for second in range(60):
        beat = 1_000 * second + (step if second > 30 else 0)
        assert deaths.look(float(second), {"a": beat}) == []


def test_a_node_that_comes_back_under_its_id_begins_anew() -> None:
    deaths, lease = Deaths(), round(LEASE_S)
    assert look(deaths, range(lease), {"a": 1}) == []
    assert deaths.look(lease - 0.5, {}) == []
    assert look(deaths, range(lease, 2 * lease), {"a": 1}) == []


# --- on a server ---------------------------------------------------------------------------------


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.clean_database() as address:
        yield address


async def live(members: PostgresMembers) -> set[str]:
    return {node.node_id for node in await members.load_nodes()}


async def until_false(members: PostgresMembers, node_id: str) -> None:
    """Beat until the node learns that it has no row any more."""
    async with asyncio.timeout(10):
        while await members.beat(node_id):  # noqa: ASYNC110 - its thread has no event for us
            await asyncio.sleep(0.01)


@asynccontextmanager
async def members_at(
    url: str, name: str = "host", *, info: NodeInfo | None = None
) -> AsyncIterator[tuple[PostgresMembers, PostgresDatabase]]:
    database = await open_database(url)
    members = PostgresMembers(
        database, info or NodeInfo(name), open_connection=partial(connect, url), clock=now_ms
    )
    try:
        yield members, database
    finally:
        await members.leave("leaves")
        await database.close()


async def test_who_registers_lives_until_it_leaves(url: str) -> None:
    async with members_at(url) as (one, _), members_at(url, "other") as (two, _):
        await one.register("one")
        await two.register("two")
        assert await live(one) == await live(two) == {"one", "two"}
        assert await one.beat("one")
        await one.leave("one")
        assert await live(two) == {"two"}


async def test_who_takes_a_name_has_it_and_the_other_one_learns_that(url: str) -> None:
    async with members_at(url, "same") as (one, _), members_at(url, "same") as (two, _):
        await one.register("old")
        await two.register("new")
        assert await live(two) == {"new"}
        with pytest.raises(NameTaken, match="as same: give each its own ISOLANE_NODE_ID"):
            await until_false(one, "old")
        assert await two.beat("new")
        await one.leave("old")
        assert await live(two) == {"new"}
        await two.leave("new")


async def test_two_that_take_a_name_at_once_leave_one(url: str) -> None:
    async with members_at(url, "same") as (one, _), members_at(url, "same") as (two, _):
        await asyncio.gather(one.register("one"), two.register("two"))
        assert len(await live(one)) == 1
        await one.leave("one")
        await two.leave("two")


async def test_others_and_their_agents_are_known_from_the_start(url: str) -> None:
    info = NodeInfo("worker", NodeRole.WORKER, ("écho", "b"), "1.2")
    async with members_at(url) as (one, _), members_at(url, info=info) as (two, _):
        await two.register("two")
        await one.register("one")
        assert one.get_others() == {"two": ("écho", "b")}
        found = {node.node_id: node for node in await one.load_nodes()}
        assert found["two"].info == info
        assert (found["two"].runs, found["two"].is_draining) == (0, False)
        await one.leave("one")
        await two.leave("two")


async def test_a_node_that_was_declared_dead_learns_it_with_its_next_beat(url: str) -> None:
    async with members_at(url) as (members, database):
        await members.register("node")
        await database.write(lambda one: execute(one, "DELETE FROM nodes").rowcount)
        await until_false(members, "node")
        await members.register("again")
        assert await members.beat("again")
        assert await live(members) == {"again"}
        await members.leave("again")


async def test_beats_go_on_while_the_loop_is_blocked(url: str) -> None:
    async with members_at(url) as (members, database):
        await members.register("node")

        async def load() -> int:
            query = "SELECT beat_at FROM nodes"
            return await database.read(lambda one: int(execute(one, query).fetchone()[0]))

        before = await load()
        async with asyncio.timeout(10):
            while await load() == before:  # noqa: ASYNC110 - its thread has no event for us
                await asyncio.sleep(0.01)
        await members.leave("node")


async def test_the_skew_of_clocks_is_told(url: str) -> None:
    database = await open_database(url)
    ahead = PostgresMembers(
        database,
        NodeInfo("ahead"),
        open_connection=partial(connect, url),
        clock=lambda: now_ms() + 60_000,
    )
    await ahead.register("node")
    await until(lambda: ahead.clock_skew_ms() > 50_000, within_s=10)
    await ahead.leave("node")
    await database.close()
