"""Tasks that repeat while the gateway is open: retention, removal, revocations, relief."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from isolane.doors.gateway import Gateway
from isolane.errors import IsolaneError, chain_of, traceback_of
from isolane.health.pressure import LOOK_S, ReliefActions, relieve
from isolane.health.resources import give_back_memory
from isolane.log.feed import HouseTopic
from isolane.log.window import FULL_WINDOW, SMALL_WINDOW
from isolane.runs.requests import remove_due
from isolane.sockets.user_news import UserNews
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
"""Seconds between two looks into followed logs, where other nodes write, while the bell is deaf."""
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
    removal_s = to_interval_s(settings.request_threads_kept_s)
    remove = every(
        removal_s, partial(_remove_requests, gateway), failed="request_removal_postponed"
    )
    tasks.detach(remove, name="removal of requests")
    act = partial(relieve, gateway.health.pressure, _list_relief(gateway))
    tasks.detach(every(LOOK_S, act, failed="pressure_relief_failed"), name="pressure")


async def join_others(gateway: Gateway) -> None:
    """Begin what a gateway does that shares its database, and hear what others ring for.

    A ring may get lost: each look finds what it was for.
    """
    feed, service, tasks = gateway.feed, gateway.service, gateway.tasks
    gateway.sockets.news = UserNews(
        gateway.storage.store,
        feed,
        gateway.sockets.post_to_user,
        tasks=tasks,
        clock=gateway.clock,
    )
    gone, rung = asyncio.Event(), asyncio.Event()

    def look_now() -> None:
        feed.look_soon()
        gone.set()

    look = every(LOG_LOOK_S, feed.look_if_due, failed="log_look_postponed", rung=gone)
    tasks.detach(look, name="look into the logs")
    _ = await feed.hear_house(HouseTopic.DELETIONS, look_now)
    _ = await feed.hear_house(HouseTopic.STOPS, rung.set)
    _ = await feed.hear_house(HouseTopic.TURNS, service.look_for_turns)
    stops = every(STOPS_LOOK_S, service.look_for_stops, failed="stops_postponed", rung=rung)
    tasks.detach(stops, name="look for stops")


async def every(
    interval_s: float,
    act: Callable[[], Awaitable[object]],
    *,
    failed: str,
    rung: asyncio.Event | None = None,
) -> None:
    """Call `act` now and `interval_s` seconds after each end of it, until cancelled.

    Where `rung` is set meanwhile, the next call comes at once.

    Whatever it raises is told in the log, as the event `failed`, and the next call comes. What
    nobody foresaw is told as an error, with its traceback.
    """
    rung = rung or asyncio.Event()
    while True:
        rung.clear()
        try:
            await act()
        except IsolaneError as error:
            _log.warning(failed, chain=chain_of(error))
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled_itself():  # else `act` awaited something that was cancelled
                raise
            _log.error(failed, chain=chain_of(error), exception=traceback_of(error))
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_s):  # the pace
                await rung.wait()


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
