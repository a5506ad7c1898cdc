"""Tasks that repeat while the gateway is open: retention, removal, revocations, relief."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from isolane import databases
from isolane.doors.gateway import Gateway
from isolane.errors import IsolaneError, chain_of, traceback_of
from isolane.health.pressure import LOOK_S, ReliefActions, relieve
from isolane.health.resources import give_back_memory
from isolane.log.feed import HouseTopic
from isolane.log.window import FULL_WINDOW, SMALL_WINDOW
from isolane.runs.requests import remove_due
from isolane.tasks import is_cancelled_itself

INTERVAL_MAX_S: Final = 60.0
"""Seconds between two looks for old entries, at most, even when entries are kept for long."""
INTERVAL_MIN_S: Final = 0.25
"""Seconds between two looks for old entries, at least, even when entries are kept briefly."""
REVOCATION_INTERVAL_S: Final = 0.25
"""Other processes revoke, too, as `isolane user remove` does, and SQLite tells nobody."""
BEAT_S: Final = 1.0
"""Seconds between two beats. A run whose answer was lost begins within two beats."""
LOG_LOOK_S: Final = 0.25
"""Seconds between two looks into followed logs, where other nodes write: a ring may get lost."""
STOPS_LOOK_S: Final = 0.5
"""Seconds between two looks for stops that other nodes wrote."""

_log = structlog.get_logger(__name__)


def start_upkeep(gateway: Gateway) -> None:
    """Begin what `gateway` sees to, in tasks that it owns."""
    tasks, settings = gateway.tasks, gateway.settings
    trim_s = to_interval_s(settings.log_retention_s)
    trim = every(trim_s, partial(_trim, gateway), failed="retention_postponed")
    tasks.detach(trim, name="retention")
    enforce = every(
        REVOCATION_INTERVAL_S, gateway.enforce_revocations, failed="revocations_postponed"
    )
    tasks.detach(enforce, name="revocations")
    beat = every(BEAT_S, gateway.service.beat, failed="beat_postponed")
    tasks.detach(beat, name="beat")
    if databases.is_shared(settings.sqlalchemy_url):
        look = every(LOG_LOOK_S, gateway.feed.look, failed="log_look_postponed")
        tasks.detach(look, name="look into the logs")
        stops = every(STOPS_LOOK_S, gateway.service.look_for_stops, failed="stops_postponed")
        tasks.detach(stops, name="look for stops")
    removal_s = to_interval_s(settings.request_threads_kept_s)
    remove = every(
        removal_s, partial(_remove_requests, gateway), failed="request_removal_postponed"
    )
    tasks.detach(remove, name="removal of requests")
    act = partial(relieve, gateway.health.pressure, _list_relief(gateway))
    tasks.detach(every(LOOK_S, act, failed="pressure_relief_failed"), name="pressure")


async def hear_others(gateway: Gateway) -> None:
    """Do at once what other nodes ring for. A ring may get lost: each look finds it, too."""
    feed, service = gateway.feed, gateway.service
    _ = await feed.hear_house(HouseTopic.STOPS, _StopLooks(gateway).begin)
    _ = await feed.hear_house(HouseTopic.TURNS, service.look_for_turns)


class _StopLooks:
    """Looks for stops when somebody rings: once at a time, and once more for rings meanwhile."""

    def __init__(self, gateway: Gateway) -> None:
        self._look = gateway.service.look_for_stops
        self._tasks = gateway.tasks
        self._is_wanted = False
        self._is_under_way = False

    def begin(self) -> None:
        """Look soon."""
        self._is_wanted = True
        if not self._is_under_way:
            self._is_under_way = True
            self._tasks.detach(self._run(), name="look for stops")

    async def _run(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                await self._look()
        except IsolaneError as error:  # the look that comes by itself does it
            _log.warning("stops_postponed", chain=chain_of(error))
        finally:
            self._is_under_way = False


async def every(interval_s: float, act: Callable[[], Awaitable[object]], *, failed: str) -> None:
    """Call `act` now and `interval_s` seconds after each end of it, until cancelled.

    Whatever it raises is told in the log, as the event `failed`, and the next call comes. What
    nobody foresaw is told as an error, with its traceback.
    """
    while True:
        try:
            await act()
        except IsolaneError as error:
            _log.warning(failed, chain=chain_of(error))
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled_itself():  # else `act` awaited something that was cancelled
                raise
            _log.error(failed, chain=chain_of(error), exception=traceback_of(error))
        await asyncio.sleep(interval_s)  # the pace


def to_interval_s(kept_s: float) -> float:
    """Return the seconds between two looks for what is kept `kept_s`: a quarter, within bounds."""
    return min(INTERVAL_MAX_S, max(kept_s / 4, INTERVAL_MIN_S))


async def _trim(gateway: Gateway) -> None:
    older_than = gateway.clock() - round(gateway.settings.log_retention_s * 1000)
    await gateway.feed.trim(older_than=older_than)


async def _remove_requests(gateway: Gateway) -> None:
    """Remove the threads of single requests, also of those that another life has left."""
    older_than = gateway.clock() - round(gateway.settings.request_threads_kept_s * 1000)
    close = gateway.factory.close_thread
    await remove_due(gateway.storage.store, gateway.service, close, older_than=older_than)


def _list_relief(gateway: Gateway) -> ReliefActions:
    return ReliefActions(
        shed_sockets=gateway.sockets.shed_idle,
        shrink_windows=partial(gateway.feed.resize_windows, SMALL_WINDOW),
        restore_windows=partial(gateway.feed.resize_windows, FULL_WINDOW),
        give_back_memory=give_back_memory,
    )
