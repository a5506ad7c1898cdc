"""The example with `useChat` in a real browser, behind a line that is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from tests.browser.conftest import Visit
from tests.browser.device import Device
from tests.browser.site import ROOT, bundle, site
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLE: Final = ROOT / "examples/aisdk/main.jsx"
CUT_WORDS: Final = r"WebSocket connection to|net::ERR_|status of 404"
"""What a browser writes into its console at a cut line, and at a chat that nobody has begun."""


@dataclass(frozen=True)
class Elsewhere:
    """The example's site, and the line to the gateway that its pages use."""

    origin: str
    line: Proxy
    server: Server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("aisdk")
    async with site(await bundle(EXAMPLE, folder)) as origin:
        env = {"ISOLANE_ALLOWED_ORIGINS": origin}
        agents = (SCRIPT, "helper=chat_agents:helper")
        async with (
            own_server(folder / "data", *agents, env=env) as server,
            proxy_to(server.port) as line,
        ):
            yield Elsewhere(origin, line, server)


class Chat:
    """One tab with the example."""

    def __init__(self, device: Device) -> None:
        """Look at a page."""
        self.page: Page = device.page

    async def send(self, text: str) -> None:
        """Ask."""
        await self.page.locator("input").fill(text)
        await self.press("Send")

    async def press(self, name: str) -> None:
        """Press a button."""
        await self.page.get_by_role("button", name=name, exact=True).click()

    async def shows(self, *messages: str) -> None:
        """Wait until these messages are shown, and no other."""
        await expect(self.page.locator("p")).to_have_text([*messages])

    async def is_now(self, status: str) -> None:
        """Wait for a status, or the words of an error."""
        await expect(self.page.locator("output")).to_contain_text(status)


async def open_chat(
    visit: Visit, elsewhere: Elsewhere, lane: Lane, *, door: str = "/ai/chat"
) -> Chat:
    device = await visit(elsewhere.origin)
    device.watch.forgiven.append(CUT_WORDS)
    where = f"server=http://{elsewhere.line.address}&door={door}&token={lane.token}"
    await device.page.goto(f"{elsewhere.origin}/#{where}")
    await device.page.locator("input").wait_for()
    return Chat(device)


@pytest.fixture
def lane(elsewhere: Elsewhere) -> Lane:
    return Lane(elsewhere.server)


def held(lane: Lane, *words: str) -> str:
    """Return a question whose answer goes on behind its first word once the gate is open."""
    first, *rest = words
    hold = ["hold", f"{lane.user} go"]
    return steps(["say", first], hold, *(["say", word] for word in rest))


async def test_a_cut_a_reload_and_a_second_tab_lose_no_word(
    visit: Visit, elsewhere: Elsewhere, lane: Lane
) -> None:
    chat = await open_chat(visit, elsewhere, lane)
    question = held(lane, "one ", "two")
    await chat.send(question)
    await chat.shows(question, "one ")
    elsewhere.line.cut()
    await chat.is_now("WebSocket")
    await chat.press("Go on")
    await chat.is_now("streaming")
    await chat.shows(question, "one ")
    await chat.page.reload()
    await chat.shows(question, "one ")
    await chat.is_now("streaming")
    second = await open_chat(visit, elsewhere, lane)
    await second.is_now("streaming")
    await lane.open_gate(f"{lane.user} go")
    for tab in (chat, second):
        await tab.is_now("ready")
        await tab.shows(question, "one two")


async def test_stop_and_another_answer(visit: Visit, elsewhere: Elsewhere, lane: Lane) -> None:
    chat = await open_chat(visit, elsewhere, lane)
    question = held(lane, "one ", "two")
    await chat.send(question)
    await chat.shows(question, "one ")
    await chat.press("Stop")
    await chat.is_now("ready")
    await lane.open_gate(f"{lane.user} go")
    await chat.press("Again")
    await chat.shows(question, "one two")


@pytest.mark.parametrize("answer", ["Yes", "No"])
async def test_an_approval(visit: Visit, elsewhere: Elsewhere, lane: Lane, answer: str) -> None:
    chat = await open_chat(visit, elsewhere, lane, door="/ai/helper/chat")
    await chat.send("delete")
    await chat.shows("delete", "Let me delete. May I delete? YesNo")
    await chat.page.reload()
    await chat.shows("delete", "Let me delete. May I delete? YesNo")
    await chat.is_now("ready")  # AI SDK sends no answer while it asks for a stream to resume
    await chat.press(answer)
    said = f'Let me delete. You said {{"approved": {str(answer == "Yes").lower()}}}.'
    await chat.shows("delete", said)
    await chat.is_now("ready")
    await chat.page.reload()
    await chat.shows("delete", said)
