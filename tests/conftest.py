"""How every test runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.brokers import RedisServer, running_redis
from tests.postgres import READY, PostgresServer, running_postgres

from isolane.engines.postgres.database import open_database

pytest_plugins = ("isolane.testing.plugin",)

# A gate says the same twice: the same examples each time, and no verdict by the clock.
settings.register_profile(
    "gate",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gate")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Give a PostgreSQL server, which all tests of this process share."""
    with running_postgres() as server:
        server.execute(f"CREATE DATABASE {READY}")
        asyncio.run(_make_tables(server.address(READY)))
        server.note_tables()
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis server, which all tests of this process share."""
    with running_redis() as server:
        yield server


async def _make_tables(url: str) -> None:
    await (await open_database(url)).close()
