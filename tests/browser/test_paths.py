"""The page below a path, in a browser: behind a proxy that strips it, and mounted in a host app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import expect
from tests.browser.conftest import Visit
from tests.browser.device import Device
from tests.browser.gateway import PASSWORD, Gateway, running_gateway
from tests.live.forwarding import ReverseProxy, reverse_proxy
from tests.live.people import COOKIE, open_accounts
from tests.live.provider import Provider, serving
from tests.live.server import LOOPBACK, free_port
from tests.live.test_paths import host_app

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

CORP: Final = Provider("corp")
AWAY: Final = Provider("away")
"""Nobody is ever there."""


@asynccontextmanager
async def below(
    data: Path, prefix: str, *agents: str, is_demo: bool = False, strips: bool = True
) -> AsyncIterator[tuple[Gateway, ReverseProxy]]:
    """Serve a gateway behind a proxy, which visitors find below `prefix`."""
    proxy = ReverseProxy(0, prefix, strips, port=free_port())
    async with running_gateway(
        data, *agents, is_demo=is_demo, providers=[CORP, AWAY], public_url=proxy.url
    ) as gateway:
        proxy.target_port = gateway.port
        async with reverse_proxy(proxy), serving(proxy, CORP):
            yield gateway, proxy


async def paths_of(device: Device, name: str) -> list[str | None]:
    """Return the paths of a cookie that the browser holds."""
    cookies = await device.page.context.cookies()
    return [cookie.get("path") for cookie in cookies if cookie.get("name") == name]


async def chat(device: Device) -> None:
    """Ask something, find the thread again after a reload, and in a tab of its own."""
    await device.ask("What is Isolane?")
    await device.ended()
    told = await device.said()
    assert told
    await device.page.reload()
    await expect(device.words).to_have_text(told)
    other = await device.new_tab()
    await other.is_connected()
    await expect(other.words).to_have_text(told)
    await other.page.close()


async def test_person_signs_in_at_a_provider_chats_and_signs_out_below_a_path(
    tmp_path: Path, visit: Visit
) -> None:
    async with below(tmp_path / "data", "/chat") as (_, proxy):
        device = await visit(proxy.url)
        await device.sign_in_at("Corp", "ada")
        await expect(device.page).to_have_url(f"{proxy.url}/")
        assert await paths_of(device, COOKIE) == ["/chat"]
        assert await paths_of(device, "isolane_signin") == []
        await chat(device)
        await device.button("Sign out").click()
        await expect(device.see("signin")).to_be_visible()
        assert await paths_of(device, COOKIE) == []
        await device.page.get_by_role("link", name="Sign in with Away").click()
        await expect(device.see("signin").get_by_role("status")).to_contain_text("can't be reached")
        await expect(device.page).to_have_url(f"{proxy.url}/")


async def test_links_of_the_demo_begin_with_the_public_url(tmp_path: Path, visit: Visit) -> None:
    async with below(tmp_path / "data", "/a/b", is_demo=True, strips=False) as (gateway, proxy):
        assert gateway.links["alice"].startswith("/a/b/signin?code=")
        device = await visit(proxy.url)
        await device.page.goto(f"{proxy.origin}{gateway.links['alice']}")
        await device.is_connected()
        await expect(device.page).to_have_url(f"{proxy.url}/")
        await chat(device)
        await device.page.close()  # before the server, which it would miss


async def test_page_works_where_a_host_mounts_it(tmp_path: Path, visit: Visit) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with open_accounts(data) as accounts:
        await accounts.add("ada", PASSWORD)
    async with host_app("plain", data) as port:
        device = await visit(f"http://{LOOPBACK}:{port}/agent")
        await device.sign_in("ada")
        await expect(device.page).to_have_url(f"{device.base}/")
        await chat(device)
        await device.page.close()  # as above
