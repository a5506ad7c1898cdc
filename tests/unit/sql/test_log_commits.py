"""When the log begins its commits."""

from __future__ import annotations

import asyncio

from tests.house import context_of, draft_of, open_ground

from isolane.contracts import Batch, RunLease
from isolane.events.event import Record
from isolane.sql.log import DatabaseEventLog
from isolane.sql.log_commits import APART_S, HURRIED_MAX

COMMITS = 20


class Hurried:
    """A source that asks for its next commit as soon as one is done."""

    def __init__(self, log: DatabaseEventLog, lease: RunLease) -> None:
        self._log = log
        self._lease = lease
        self.began_s: list[float] = []
        self.is_done = asyncio.Event()

    def ask(self) -> None:
        self._log.commit_soon(self)

    def take_batch(self) -> Batch:
        self.began_s.append(asyncio.get_running_loop().time())
        return Batch(self._lease, [b"{}"], len(self.began_s))

    def settle(self, outcome: list[Record] | Exception) -> None:
        assert isinstance(outcome, list)
        if len(self.began_s) == COMMITS:
            self.is_done.set()
        else:
            self.ask()


async def test_commits_that_follow_one_another_wait_for_more_to_share_them() -> None:
    async with open_ground() as ground:
        begun = await ground.begin_run(context_of("r"), draft_of())
        source = Hurried(ground.log, begun.lease)
        source.ask()
        await source.is_done.wait()
        apart_s = [
            later - sooner
            for sooner, later in zip(source.began_s, source.began_s[1:], strict=False)
        ]
        hurried = 0
        for each in apart_s:
            hurried = hurried + 1 if each < APART_S - 0.001 else 0
            assert hurried <= HURRIED_MAX
