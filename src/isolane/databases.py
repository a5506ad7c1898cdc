"""Which engine keeps the data: the address of the database says."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType

from isolane.bells import Broker, BrokerBell
from isolane.clock import Clock, monotonic_ms, now_ms
from isolane.contracts import Bell, Limits, Members, NodeInfo, NodeStatus
from isolane.engines.memory.bell import LocalBell
from isolane.engines.memory.limits import LocalLimits
from isolane.engines.sqlite import database as sqlite
from isolane.engines.sqlite import usage_report
from isolane.engines.sqlite.file import lock_database, path_of
from isolane.engines.sqlite.members import DatabaseMembers
from isolane.errors import DatabaseFailed
from isolane.settings import Settings
from isolane.sql.database import Database
from isolane.sql.driver import driver_of
from isolane.sql.usage_report import Report, load_report
from isolane.tasks import TaskOwner


def is_shared(url: str) -> bool:
    """Say whether several gateways may serve the database: one of a server, not a file."""
    return not url.startswith("sqlite:")


async def open_database(url: str) -> Database:
    """Open the database at `url`, and make or migrate its tables.

    Raises:
        Unavailable: The database can't be reached.
        DatabaseFailed: It can't be used as it is; or what its engine needs isn't installed.
    """
    if is_shared(url):
        database: Database = await _import_postgres().open_database(url)
        return database
    return await sqlite.open_database(url)


def _import_postgres() -> ModuleType:
    """Return the engine for PostgreSQL, whose driver is an extra of the package."""
    try:
        from isolane.engines.postgres import database  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise DatabaseFailed(
            "ISOLANE_DATABASE_URL names a PostgreSQL database, whose driver isn't installed: "
            "pip install 'isolane[postgres]'"
        ) from error
    return database


def make_members(url: str, database: Database, info: NodeInfo, *, clock: Clock) -> Members:
    """Return the book of the nodes that serve a database, for the node `info`."""
    if not is_shared(url):
        return DatabaseMembers(database, info, clock=clock)
    from isolane.engines.postgres.driver import connect  # noqa: PLC0415 - an extra
    from isolane.engines.postgres.members import PostgresMembers  # noqa: PLC0415

    return PostgresMembers(database, info, open_connection=partial(connect, url), clock=clock)


def _open_broker(settings: Settings, key: bytes) -> Broker:
    if settings.bell_url is None:
        from isolane.engines.postgres.bell import PostgresBroker  # noqa: PLC0415 - an extra
        from isolane.engines.postgres.driver import connect  # noqa: PLC0415

        return PostgresBroker(partial(connect, settings.sqlalchemy_url))
    try:
        from isolane.engines.redis.bell import RedisBroker  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise DatabaseFailed(
            "ISOLANE_BELL_URL names a Redis server, whose driver isn't installed: "
            "pip install 'isolane[redis]'"
        ) from error
    broker = RedisBroker(settings.bell_url.get_secret_value(), key=key)
    broker.check()
    return broker


def make_limits(
    settings: Settings, database: Database, members: Members, *, tasks: TaskOwner
) -> Limits:
    """Return what counts what users hold: connections over all processes, all else in this one."""
    local = LocalLimits(settings.published_limits, clock=monotonic_ms)
    if not is_shared(settings.sqlalchemy_url):
        return local
    from isolane.engines.postgres.limits import SharedLimits  # noqa: PLC0415 - an extra

    return SharedLimits(
        local,
        database,
        get_node_id=lambda: members.node_id,
        most=settings.limit_connections_per_user,
        tasks=tasks,
    )


async def load_nodes(url: str, database: Database) -> list[NodeStatus]:
    """Return the nodes that serve the database at `url`, by name."""
    return await make_members(url, database, NodeInfo("reader"), clock=now_ms).load_nodes()


@asynccontextmanager
async def open_bell(settings: Settings) -> AsyncIterator[Bell]:
    """Have the bell of a database's nodes for the block: of this process, where there is one.

    Raises:
        DatabaseFailed: The broker of the settings can't be used, or its driver isn't installed.
    """
    if not is_shared(settings.sqlalchemy_url):
        yield LocalBell()
        return
    secret = "" if settings.secret_key is None else settings.secret_key.get_secret_value()
    key = hmac.digest(secret.encode(), b"isolane bell", "sha256")
    bell = BrokerBell(await asyncio.to_thread(_open_broker, settings, key), key=key)
    await bell.open()
    try:
        yield bell
    finally:
        await bell.close()


def lock(url: str) -> AbstractContextManager[None]:
    """Let no other gateway serve a file for the block. A server's databases may have several.

    Raises:
        DatabaseInUse: Another gateway serves it.
    """
    return nullcontext() if is_shared(url) else lock_database(url)


def find_folder(url: str) -> Path | None:
    """Return the folder of a database's file; None for one in memory, or on a server."""
    path = None if is_shared(url) else path_of(url)
    return None if path is None else path.parent


async def read_report(url: str, limit: int) -> Report:
    """Return who keeps most, `limit` users at most, also while a gateway serves the database.

    Raises:
        NothingToReport: There is no database to read.
        Unavailable: The database can't be reached.
    """
    if not is_shared(url):
        return usage_report.read_report(url, limit)
    database = await open_database(url)
    try:
        return await database.read(lambda one: load_report(driver_of(one), limit))
    finally:
        await database.close()
