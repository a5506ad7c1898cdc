"""A gateway whose users may have three connections and three threads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.house import House, open_house, says

from isolane.sockets.open_factory import close_factory, open_factory


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house(
        {"default": says()}, limit_connections_per_user=3, limit_threads_per_user=3
    ) as opened:
        open_factory(opened.factory)
        yield opened
        close_factory(opened.factory)
