"""The end of a process: no more runs are taken on, and those under way get their end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog

from isolane.errors import GoingAway, HandedOver, IsolaneError
from isolane.runs.driver import RunDriver
from isolane.runs.ground import Ground
from isolane.runs.run import Run

MARGIN_S: Final = 10.0
"""Seconds that ended runs may take to write their end; the agents' own grace is well below."""


_log = structlog.get_logger(__name__)


class Drain:
    """Ends the runs of this process in order."""

    def __init__(self, ground: Ground, *, driver: RunDriver) -> None:
        """Wait for runs that are being taken on before all others end."""
        self._live = ground.live
        self._draining = ground.draining
        self._book = ground.book
        self._members = ground.members
        self._roster = ground.roster
        self._node = ground.node
        self._tasks = ground.tasks
        self._driver = driver
        self._starting = ground.starting
        self._hurried = asyncio.Event()

    async def drain(self, *, timeout_s: float) -> None:
        """Let runs under way go on for `timeout_s`, then end them; see `AgentService.drain`."""
        self._draining.begin()
        self._members.drain()
        await self._tasks.complete(self._drain(timeout_s), name="shutdown of runs")

    def hurry(self) -> None:
        """End the wait of a drain, now or to come."""
        self._hurried.set()

    async def _drain(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(MARGIN_S):  # they may be runs under way then
                await self._starting.until_released()
                await self._driver.dispatcher.until_idle()
                await self._driver.beginning.until_released()
        await self._give_back()
        active = [run for run in self._live if run.begun is not None]
        if not active:
            return
        for run in active:  # another process begins these at once
            if run.is_restartable and self._roster.is_served_elsewhere(run.draft.agent):
                run.stop.set(HandedOver("another process begins the run anew"))
        ended = self._tasks.start(_until_ended(active), name="drain")
        hurried = self._tasks.start(self._hurried.wait(), name="hurry")
        await asyncio.wait({ended, hurried}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for run in active:
            error = HandedOver if run.is_restartable else GoingAway
            run.stop.set(error("the gateway is shutting down"))
        await asyncio.wait({ended}, timeout=MARGIN_S)

    async def _give_back(self) -> None:
        """Let any node begin what this one has claimed and hasn't begun."""
        try:
            for held in await self._book.load_held(self._node.id):
                if not held.has_begun:
                    await self._book.give_back(held.lease)
        except IsolaneError as error:  # others get these runs once this node is gone
            _log.warning("runs_not_given_back", reason=str(error))


async def _until_ended(runs: Iterable[Run]) -> None:
    """Return once all of the runs have ended."""
    for run in runs:
        await run.ended.wait()
