"""Servers, a browser, and people's devices, for all browser tests.

They share one event loop, as they share one browser, so each module says
`pytestmark = pytest.mark.asyncio(loop_scope="session")`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser
from tests.browser.device import Device, open_device, running_browser
from tests.browser.gateway import Gateway, running_gateway
from tests.live.proxy import Proxy, proxy_to


class Visit(Protocol):
    """Opens a new device; see the fixture `visit`."""

    async def __call__(self, base: str, *, is_phone: bool = False, is_dark: bool = False) -> Device:
        """Return it with an empty page."""
        ...


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Start the one browser; devices are contexts of it, which share nothing."""
    async with running_browser() as browser:
        yield browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guided(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """Serve the built-in guide, as `isolane serve --demo` does."""
    async with running_gateway(tmp_path_factory.mktemp("guided") / "data", is_demo=True) as one:
        yield one


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def paced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """Serve the agent that goes at the test's pace."""
    async with running_gateway(tmp_path_factory.mktemp("paced") / "data", "paced:paced") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def line(paced: Gateway) -> AsyncIterator[Proxy]:
    """Stand before `paced`, to be cut."""
    async with proxy_to(paced.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser) -> AsyncIterator[Visit]:
    """Give a function that opens devices; none of them may have done what it must not."""
    devices: list[Device] = []

    async with AsyncExitStack() as stack:

        async def open_one(base: str, *, is_phone: bool = False, is_dark: bool = False) -> Device:
            device = await open_device(browser, base, is_phone=is_phone, is_dark=is_dark)
            stack.push_async_callback(device.page.context.close)
            devices.append(device)
            return device

        yield open_one
    for device in devices:
        device.watch.assert_clean()
