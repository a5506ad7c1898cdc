"""The writes of a database: who is next, and which of them share a commit.

The house's writes have a transaction each, and come before those of users, but never twice in a row
while users wait. Writes of users are small: some of them share one transaction, taken in turns from
all lanes, and each is undone alone when it fails.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from isolane.sql.lanes import HOUSE, Lanes

T = TypeVar("T")

GROUP_MAX: Final = 16
"""Writes of users that share a commit: some milliseconds of the writer, for which others wait."""


@dataclass(slots=True)
class Write:
    """One write that waits for its commit."""

    work: Callable[[Any], Any]
    deadline_s: float
    """Until when it may wait for a lock, by the monotonic clock."""
    done: asyncio.Future[Any]


Outcome = tuple[Any, Exception | None]
"""The result of a write and None, or None and the error that it raised."""
Commit = Callable[[Sequence[Write]], Sequence[Outcome]]
"""Carries writes out in one transaction where it can. It runs in the writing thread."""


class Commits:
    """Hands writes to the writing thread, one transaction after the other."""

    def __init__(
        self, submit: Callable[[Callable[[], Any]], asyncio.Future[Any]], commit: Commit
    ) -> None:
        """Run `commit` in the thread that `submit` leads to."""
        self._submit = submit
        self._commit = commit
        self._house: deque[Write] = deque()
        self._lanes: Lanes[Write] = Lanes()
        self._under_way: asyncio.Future[Any] | None = None
        self._was_house = False

    def put(self, work: Callable[[Any], T], *, lane: str, deadline_s: float) -> asyncio.Future[T]:
        """Put `work` in line. Its future gets what it returned, once that is committed.

        Or it gets what the work raised. Cancelling the future undoes nothing that has begun.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write = Write(work, deadline_s, done)
        if lane == HOUSE:
            self._house.append(write)
        else:
            self._lanes.put(lane, write)
        self._begin_next()
        return done

    async def close(self) -> None:
        """Return when nothing waits any more."""
        while self._under_way is not None:
            await asyncio.wait({self._under_way})
            await asyncio.sleep(0)  # what was told of it comes first, and may begin the next

    def _begin_next(self) -> None:
        if self._under_way is not None:
            return
        while batch := self._take_batch():
            wanted = [write for write in batch if not write.done.cancelled()]
            if wanted:
                self._under_way = self._submit(partial(self._commit, wanted))
                self._under_way.add_done_callback(partial(self._settle, wanted))
                return

    def _take_batch(self) -> list[Write]:
        """Return what shares the next transaction: one write of the house, or some of users."""
        self._was_house = bool(self._house) and not (self._was_house and self._lanes)
        if self._was_house:
            return [self._house.popleft()]
        batch: list[Write] = []
        while len(batch) < GROUP_MAX and (found := self._lanes.take()) is not None:
            batch.append(found[1])
        return batch

    def _settle(self, batch: Sequence[Write], committed: asyncio.Future[Any]) -> None:
        self._under_way = None
        for write, (result, error) in zip(batch, _outcomes_of(committed, batch), strict=True):
            if write.done.done():  # its caller has gone
                continue
            if error is None:
                write.done.set_result(result)
            else:
                write.done.set_exception(error)
        self._begin_next()


def _outcomes_of(committed: asyncio.Future[Any], batch: Sequence[Write]) -> Sequence[Outcome]:
    """Return what became of each; when the thread itself failed, that is told to all."""
    error = committed.exception()
    if error is None:
        outcomes: Sequence[Outcome] = committed.result()
        return outcomes
    failure = RuntimeError("the writing thread failed")
    failure.__cause__ = error
    return [(None, failure)] * len(batch)
