"""The commits of the event log: the batches of all runs share them.

One commit is under way. The first batch starts it at the end of the loop's tick; what comes while
it lasts is for the next one. So a lone event waits for nobody, and a thousand share one fsync. A
commit under load waits a little for more to share it. No task stands between a run and its commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from sqlalchemy import Connection

from isolane.contracts import Batch, BatchSource
from isolane.errors import NotFound
from isolane.events.event import Record
from isolane.sql.database import Database
from isolane.tasks import TaskOwner, report

BATCHES_MAX: Final = 2_000
"""Batches that share a commit at most."""
APART_S: Final = 0.002
"""Seconds between the beginnings of two commits under load. Events that come meanwhile share the
cost of one: 180 µs of CPU and an fsync."""
HURRIED_MAX: Final = 4
"""Commits in a row that may begin sooner than `APART_S` after the last one. More of them are load:
the beginning of an answer, which is a few commits, isn't."""

Outcome = list[Record] | NotFound
"""Result of one batch in a commit: its records, or the reason why it alone was refused."""
Write = Callable[[Sequence[Batch], Connection], list[Outcome]]
"""Writes batches in the transaction that has begun."""
_Taken = tuple[BatchSource, Batch]
"""A batch, and who hears what became of it."""


class LogCommits:
    """Takes a batch of each source that asks, and tells it what became of that."""

    def __init__(
        self,
        database: Database,
        *,
        tasks: TaskOwner,
        write: Write,
        committed: Callable[[], None],
    ) -> None:
        """Let `write` write the batches; call `committed` after each commit."""
        self._database = database
        self._tasks = tasks
        self._write = write
        self._committed = committed
        self._waiting: list[BatchSource] = []
        self.is_busy = False
        """Whether a commit is under way, or about to begin."""
        self._began_s = 0.0
        """When the last commit began, by the loop's clock."""
        self._hurried = 0
        """Commits in a row that began sooner than `APART_S` after the one before."""

    def put(self, source: BatchSource) -> None:
        """Take a batch of `source` when the commit under way is done.

        Without one, a commit begins at the end of the loop's tick.
        """
        self._waiting.append(source)
        if not self.is_busy:
            self._begin_soon()

    def _begin_soon(self) -> None:
        """Begin a commit: at the end of the loop's tick, or a little later under load."""
        self.is_busy = True
        loop = asyncio.get_running_loop()
        since_s = loop.time() - self._began_s
        self._hurried = self._hurried + 1 if since_s < APART_S else 0
        if self._hurried > HURRIED_MAX:
            loop.call_later(APART_S - since_s, self._begin)
        else:
            loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Take the batches of those who wait, and commit them together."""
        taken: list[_Taken] = []
        while self._waiting and not taken:
            sources, self._waiting = self._waiting[:BATCHES_MAX], self._waiting[BATCHES_MAX:]
            for source in sources:
                batch = _take(source)
                if batch is not None:
                    taken.append((source, batch))
        self.is_busy = bool(taken)
        if taken:
            self._began_s = asyncio.get_running_loop().time()
            write = partial(self._write, [batch for _, batch in taken])
            self._database.commit_log(write).add_done_callback(partial(self._settle, taken))

    def _settle(self, taken: list[_Taken], committed: asyncio.Future[list[Outcome]]) -> None:
        error = committed.exception()
        if error is None:
            for (source, _), outcome in zip(taken, committed.result(), strict=True):
                _tell(source, outcome)
        elif len(taken) > 1:  # one that can't be committed may have kept the others out
            self._tasks.detach(self._commit_singly(taken), name="log commits")
            return
        else:
            assert isinstance(error, Exception)  # noqa: S101 - nothing else comes from a thread
            _tell(taken[0][0], error)
        self._go_on()

    async def _commit_singly(self, taken: list[_Taken]) -> None:
        """Give each batch of a failed commit its own transaction: one that can't be is alone."""
        try:
            for source, batch in taken:
                outcome: list[Record] | Exception
                try:
                    (outcome,) = await self._database.write(partial(self._write, [batch]))
                except Exception as error:  # noqa: BLE001 - goes to the one whose batch it is
                    outcome = error
                _tell(source, outcome)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        self._committed()
        self.is_busy = False
        if self._waiting:
            self._begin_soon()


def _take(source: BatchSource) -> Batch | None:
    try:
        return source.take_batch()
    except Exception as error:  # noqa: BLE001 - the others go on
        _report_broken(source, error)
        return None


def _tell(source: BatchSource, outcome: list[Record] | Exception) -> None:
    try:
        source.settle(outcome)
    except Exception as error:  # noqa: BLE001 - the others go on
        _report_broken(source, error)


def _report_broken(source: BatchSource, error: Exception) -> None:
    """Tell a source that it broke, so that nobody waits for it for ever."""
    report("log commits", error)
    with suppress(Exception):
        source.settle(error)
