"""A sign-in: the session begins, and its proof is used up, in one transaction."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import select

from isolane.auth.guessing import GuessGuard
from isolane.auth.sessions import SessionBook
from isolane.auth.tickets import TicketBook
from isolane.clock import now_ms
from isolane.contracts import Identity
from isolane.engines.sqlite.database import open_database
from isolane.errors import Unauthenticated
from isolane.sql.database import Database
from isolane.sql.tables import attempts, sessions
from isolane.tasks import TaskOwner

ADA: Final = "corp|ada"
HOUR_MS: Final = 3_600_000
CRASH: Final = """
import asyncio, os, sys
from isolane.auth import sessions
from tests.unit.auth.test_signing_in import sign_in
sessions._load_rights = lambda *given: os._exit(9)
asyncio.run(sign_in(*sys.argv[1:]))
"""
"""A process that dies when everything is written and nothing is committed."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts of a sign-in, on one database."""

    database: Database
    sessions: SessionBook
    links: TicketBook
    guesses: GuessGuard


@asynccontextmanager
async def open_desk(url: str) -> AsyncIterator[Desk]:
    database, tasks = await open_database(url), TaskOwner()
    try:
        yield Desk(
            database,
            SessionBook(database, clock=now_ms, tasks=tasks, idle_ms=HOUR_MS, max_ms=HOUR_MS),
            TicketBook(database, "sign-in", clock=now_ms, timer=now_ms, lifetime_ms=HOUR_MS),
            GuessGuard(database, clock=now_ms),
        )
    finally:
        await tasks.close()
        await database.close()


async def sign_in(url: str, way: str, code: str) -> None:
    """Sign in with a right password or by a link."""
    async with open_desk(url) as desk:
        if way == "link":
            identity = await desk.links.find(code)
            spend = partial(desk.links.spend, code)
            await desk.sessions.begin(identity.user_id, settle=spend)
            return
        async with desk.guesses.attempt(ADA, "192.0.2.1") as forget:
            await desk.sessions.begin(ADA, settle=forget)


async def load_kept(desk: Desk, code: str) -> tuple[bool, int, int]:
    """Return whether the link can be used, and the counts of sessions and of attempts."""
    try:
        await desk.links.find(code)
    except Unauthenticated:
        is_usable = False
    else:
        is_usable = True
    begun = await desk.database.read(lambda reading: reading.execute(select(sessions)).all())
    tried = await desk.database.read(lambda reading: reading.execute(select(attempts.c.key)).all())
    return is_usable, len(begun), sum(row.key.startswith("pair ") for row in tried)


@pytest.mark.parametrize(
    "way, kept, done",
    [("link", (True, 0, 0), (False, 1, 0)), ("password", (True, 0, 1), (True, 1, 0))],
)
async def test_crash_leaves_no_half_sign_in(
    tmp_path: Path, way: str, kept: tuple[bool, int, int], done: tuple[bool, int, int]
) -> None:
    url = f"sqlite:///{tmp_path / 'isolane.db'}"
    async with open_desk(url) as desk:
        code = (await desk.links.issue(Identity(ADA))).secret
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CRASH, url, way, code], check=False
    )
    assert died.returncode == 9
    async with open_desk(url) as desk:
        assert await load_kept(desk, code) == kept
    await sign_in(url, way, code)
    async with open_desk(url) as desk:
        assert await load_kept(desk, code) == done


async def test_link_that_is_raced_begins_one_session(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'isolane.db'}"
    async with open_desk(url) as desk:
        code = (await desk.links.issue(Identity(ADA))).secret
        identity = await desk.links.find(code)
        spend = partial(desk.links.spend, code)
        told = await asyncio.gather(
            *(desk.sessions.begin(identity.user_id, settle=spend) for _ in range(20)),
            return_exceptions=True,
        )
        refused = [each for each in told if isinstance(each, Unauthenticated)]
        assert len(refused) == 19
        assert await load_kept(desk, code) == (False, 1, 0)
