"""What tests of signing in share: a clock to set, and a database of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.house import MEMORY, ManualClock

from isolane.engines.sqlite.database import open_database
from isolane.sql.database import Database


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    database = await open_database(MEMORY)
    yield database
    await database.close()
