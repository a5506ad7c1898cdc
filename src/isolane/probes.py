"""What `/readyz` asks: the dependencies of a process, and how it stands among others."""

from __future__ import annotations

from functools import partial
from typing import Final

from isolane import databases
from isolane.contracts import Bell, Members, NodeInfo
from isolane.doors.parts import Health, Probe
from isolane.errors import Unavailable
from isolane.health.pressure import Pressure
from isolane.health.resources import Resources
from isolane.health.watchdog import Watchdog
from isolane.settings import Settings
from isolane.sql.database import Database

SKEW_MAX_MS: Final = 1_000
"""Milliseconds by which the clocks of a process and of its database may differ."""


def make_health(
    settings: Settings,
    database: Database,
    watchdog: Watchdog,
    *,
    info: NodeInfo,
    members: Members,
    bell: Bell,
) -> Health:
    """Return what watches the process `info`."""
    dependencies: dict[str, Probe] = {
        "database": database.probe,
        "event loops": partial(_check_loops, watchdog),
    }
    if not members.is_alone:
        dependencies["clock"] = partial(_check_clock, members)
    resources = Resources(
        memory_bytes=settings.memory_bytes,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        folder=databases.find_folder(settings.sqlalchemy_url),
    )
    return Health(
        dependencies=dependencies,
        watchdog=watchdog,
        pressure=Pressure(resources.read_memory, resources.read_disk),
        info=info,
        members=members,
        bell=bell,
    )


async def _check_clock(members: Members) -> None:
    skew_ms = members.clock_skew_ms()
    if abs(skew_ms) > SKEW_MAX_MS:  # tokens and revocations are dated by clocks
        raise Unavailable(f"the clock is {skew_ms} ms ahead of the database's")


async def _check_loops(watchdog: Watchdog) -> None:
    blocked = watchdog.get_blocked()
    if blocked:
        raise Unavailable(f"blocked: {', '.join(blocked)}")
