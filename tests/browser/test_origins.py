"""A page of another origin, in a real browser: what of the gateway it may use, and what not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio
from tests.browser.conftest import Visit
from tests.browser.device import Device
from tests.browser.site import ROOT, bundle, site
from tests.live.people import COOKIE, PASSWORD, new_person, sign_in
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, mint, own_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED: Final = "refused by the browser"
CORS_WORDS: Final = r"blocked by CORS policy|net::ERR_FAILED|status of 4(01|29)"
"""What a browser writes into its console where it refuses, and where it is refused."""


@dataclass(frozen=True)
class Elsewhere:
    """Two sites that are not the gateway's, of which it lists the first, and the gateway."""

    listed: str
    stranger: str
    server: Server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    script = await bundle(ROOT / "tests/live/node/elsewhere.mjs", folder)
    async with site(script) as listed, site(script) as stranger:
        env = {"ISOLANE_ALLOWED_ORIGINS": listed, "ISOLANE_FRAME_ANCESTORS": listed}
        async with own_server(folder / "data", SCRIPT, env=env) as server:
            yield Elsewhere(listed, stranger, server)


async def call(device: Device, name: str, server: Server, token: str = "") -> Any:  # noqa: ANN401 - as JSON has it
    """Let the page do one thing with the gateway."""
    options = json.dumps({"url": server.url, "token": token})
    return await device.page.evaluate(f"elsewhere.{name}({options})")


@pytest_asyncio.fixture(loop_scope="session")
async def page(elsewhere: Elsewhere, visit: Visit) -> Device:
    """Give the page of the listed site."""
    return await open_page(visit, elsewhere.listed)


async def open_page(visit: Visit, origin: str) -> Device:
    device = await visit(origin)
    device.watch.forgiven.append(CORS_WORDS)
    await device.page.goto(origin)
    await device.page.wait_for_function("globalThis.elsewhere")
    return device


async def test_published_clients_work_from_a_listed_page(
    elsewhere: Elsewhere, page: Device
) -> None:
    token = Lane(elsewhere.server).token
    for client in ("agui", "tanstack"):
        assert (await call(page, client, elsewhere.server, token)).strip() == "hello there"
    done = [201, 200, 200, 200, 200, "id: ", 204]
    assert await call(page, "rest", elsewhere.server, token) == done


async def test_tanstack_comes_back_to_its_thread_from_a_listed_page(
    elsewhere: Elsewhere, page: Device
) -> None:
    answers = await call(page, "hydration", elsewhere.server, Lane(elsewhere.server).token)
    assert [answer.strip() for answer in answers] == ["hello there"] * 4


async def test_ticket_that_a_listed_page_buys_opens_its_socket(
    elsewhere: Elsewhere, page: Device
) -> None:
    lane = Lane(elsewhere.server)
    assert await call(page, "ticket", elsewhere.server, lane.token) == lane.user


async def test_listed_page_reads_why_it_is_refused_and_when_to_come_back(
    elsewhere: Elsewhere, page: Device
) -> None:
    none, last = await call(page, "refusals", elsewhere.server, Lane(elsewhere.server).token)
    assert none[0] == 401
    assert json.loads(none[2])["code"] == "unauthenticated"
    assert last[0] == 429
    assert int(last[1]) > 0


async def test_page_that_is_not_listed_reads_nothing(elsewhere: Elsewhere, visit: Visit) -> None:
    device = await open_page(visit, elsewhere.stranger)
    token = mint("ada")
    assert (await call(device, "plain", elsewhere.server, token))[0] == REFUSED


async def test_no_cookie_is_of_use_to_a_page_of_another_origin(
    elsewhere: Elsewhere, page: Device
) -> None:
    server = elsewhere.server
    person = await new_person(server)
    async with server.http() as http:
        assert (await sign_in(http, person.name, PASSWORD)).is_success
        cookie = http.cookies[COOKIE]
    # The two sites are of one host, so this browser does send it along.
    await page.page.context.add_cookies(
        [{"name": COOKIE, "value": cookie, "url": server.url, "sameSite": "Lax"}]
    )
    assert (await call(page, "cookie", server))[0] == REFUSED
    assert (await call(page, "plain", server, mint("ada")))[0] == 200


async def test_chat_page_is_framed_by_a_listed_page_only(
    elsewhere: Elsewhere, page: Device, visit: Visit
) -> None:
    await call(page, "frame", elsewhere.server)
    frame = page.page.frames[-1]
    assert await frame.evaluate("document.title") == "Isolane"
    stranger = await open_page(visit, elsewhere.stranger)
    stranger.watch.forgiven.append("frame-ancestors|Framing")
    await call(stranger, "frame", elsewhere.server)
    assert await stranger.page.frames[-1].evaluate("document.title") != "Isolane"
