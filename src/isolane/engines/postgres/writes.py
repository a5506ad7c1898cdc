"""Writes that wait for a thread: several at once, and of each user one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from isolane.sql.lanes import Lanes

T = TypeVar("T")


class _Write(NamedTuple):
    work: Callable[[Connection], Any]
    done: asyncio.Future[Any]


class Writes:
    """Hands writes to threads. Lanes take turns; the writes of one lane run in their order."""

    def __init__(
        self,
        threads: Executor,
        run: Callable[[Callable[[Connection], Any], str], Any],
        *,
        most: int,
    ) -> None:
        """Let `run` carry out a write of a lane in one of `threads`, `most` of them at once."""
        self._threads = threads
        self._run = run
        self._free = most
        self._lanes: Lanes[_Write] = Lanes()
        self._under_way: dict[str, asyncio.Future[Any]] = {}

    def put(self, work: Callable[[Connection], T], *, lane: str) -> asyncio.Future[T]:
        """Put a write in line, and return the future of its result or error.

        Cancelling the future undoes nothing that has begun.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._lanes.put(lane, _Write(work, done))
        self._begin()
        return done

    async def close(self) -> None:
        """Return when nothing waits any more."""
        while self._under_way:
            await asyncio.wait(self._under_way.values())
            await asyncio.sleep(0)  # what was told of them comes first, and may begin others

    def _begin(self) -> None:
        while self._free and (found := self._lanes.take(self._may_begin)) is not None:
            lane, write = found
            if write.done.cancelled():
                continue
            self._free -= 1
            running = asyncio.get_running_loop().run_in_executor(
                self._threads, self._run, write.work, lane
            )
            self._under_way[lane] = running
            running.add_done_callback(partial(self._settle, lane, write.done))

    def _may_begin(self, lane: str) -> bool:
        return lane not in self._under_way

    def _settle(self, lane: str, done: asyncio.Future[Any], running: asyncio.Future[Any]) -> None:
        self._free += 1
        del self._under_way[lane]
        error = running.exception()
        if not done.done():  # its caller has gone otherwise
            if error is None:
                done.set_result(running.result())
            else:
                done.set_exception(error)
        self._begin()
