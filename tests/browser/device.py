"""What a person has in front of them: a browser of their own, and somebody who watches it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    Response,
    ViewportSize,
    WebSocket,
    async_playwright,
    expect,
)
from tests.browser.gateway import PASSWORD
from tests.live.server import LOOPBACK

CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # What is not on this machine does not exist.
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {LOOPBACK}",
)
DESK: Final[ViewportSize] = {"width": 1180, "height": 780}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
WAIT_MS: Final = 15_000
SHOTS: Final = Path(__file__).parent / "shots"

# A page that was opened without a session asks who is here, and is told: nobody.
NOBODY_HERE: Final = r"status of 401 \(Unauthorized\) http://\S+/api/me$"
# What the pages of a provider load and lack, which are not ours.
PROVIDERS_OWN: Final = r"fonts\.googleapis\.com|/favicon\.ico$"
# The page lets go of a line that doesn't stand yet: it took too long, or the session has ended.
GIVEN_UP: Final = "WebSocket is closed before the connection is established"
LINE_LOST: Final = r"net::ERR_(CONNECTION_(RESET|REFUSED)|EMPTY_RESPONSE|SOCKET_NOT_CONNECTED)"
_TELL_VIOLATIONS: Final = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
_STORED: Final = """async () => JSON.stringify([
  document.documentElement.outerHTML, document.cookie, {...localStorage}, {...sessionStorage},
  await indexedDB.databases(), await caches.keys(), history.state])"""

expect.set_options(timeout=WAIT_MS)


@dataclass
class Watch:
    """Sees what a browser does: nothing forbidden, nothing elsewhere, no error in the console."""

    problems: list[str] = field(default_factory=list)
    forgiven: list[str] = field(default_factory=lambda: [NOBODY_HERE, PROVIDERS_OWN, GIVEN_UP])
    """Patterns of what the test itself brings about."""
    frames: list[str] = field(default_factory=list)
    """What went over WebSockets, both ways."""
    _bodies: list[asyncio.Task[str]] = field(default_factory=list)

    def over(self, context: BrowserContext) -> None:
        """Watch every page of a context."""
        context.on("console", self._read)
        context.on("weberror", lambda error: self.problems.append(f"raised: {error.error}"))
        context.on("request", self._follow)
        context.on("response", self._keep)
        context.on("page", lambda page: page.on("websocket", self._listen))

    async def bodies(self) -> str:
        """Return what came by HTTP, as far as there was a body."""
        return "\n".join(await asyncio.gather(*self._bodies))

    def assert_clean(self) -> None:
        """Fail for anything that was not forgiven."""
        forgiven = [re.compile(pattern) for pattern in self.forgiven]
        left = [one for one in self.problems if not any(p.search(one) for p in forgiven)]
        assert not left, "\n".join(left)

    def _read(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"{message.type}: {message.text} {message.location['url']}")

    def _follow(self, request: Request) -> None:
        self._check_host(request.url)

    def _keep(self, response: Response) -> None:
        if "/api/" in urlsplit(response.url).path:
            self._bodies.append(asyncio.create_task(_load_body(response)))

    def _listen(self, socket: WebSocket) -> None:
        self._check_host(socket.url)
        for way in ("framereceived", "framesent"):
            socket.on(way, lambda frame: self.frames.append(str(frame)))

    def _check_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and parts.hostname != LOOPBACK:
            self.problems.append(f"elsewhere: {url}")


@dataclass(frozen=True)
class Device:
    """One page of a browser, and what a person does there."""

    page: Page
    watch: Watch
    base: str
    """Where the page is served: a server, or the proxy before it."""

    # --- coming and going -----------------------------------------------------------------------

    async def sign_in(self, user: str) -> None:
        """Sign in by the form, and wait until the line stands."""
        await self.page.goto(self.base)
        await self.page.get_by_label("Name").fill(user)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.is_connected()

    async def sign_in_at(self, provider: str, subject: str) -> None:
        """Sign in at a provider's own pages, which this browser hasn't seen before."""
        await self.page.goto(self.base)
        await self.page.get_by_role("link", name=f"Sign in with {provider}").click()
        await self.page.get_by_placeholder("Enter any login").fill(subject)
        await self.page.get_by_placeholder("and password").fill(PASSWORD)
        await self.page.get_by_role("button", name="Sign-in").click()
        await self.page.get_by_role("button", name="Continue").click()
        await self.is_connected()

    async def is_connected(self) -> None:
        """Wait until the line stands."""
        await expect(self.connection).to_have_attribute("data-state", "connected")

    async def new_tab(self) -> Device:
        """Open the same address in another tab of the same browser."""
        page = await self.page.context.new_page()
        await page.goto(self.page.url)
        return Device(page, self.watch, self.base)

    async def visit_thread(self, thread_id: str) -> None:
        """Open a thread by its address."""
        await self.page.goto(f"{self.base}/#{thread_id}")

    # --- asking ---------------------------------------------------------------------------------

    async def ask(self, question: str) -> None:
        """Write a question and send it by Enter."""
        await self.field.fill(question)
        await self.field.press("Enter")

    async def ended(self, state: str = "done") -> None:
        """Wait until the newest answer is in this state."""
        await expect(self.answer).to_have_attribute("data-state", state)

    async def said(self) -> str:
        """Return the words of the newest answer."""
        return await self.words.inner_text()

    async def thread_id(self) -> str:
        """Return the open thread's id, as the address has it."""
        await expect(self.page).to_have_url(re.compile("#.+"))
        return urlsplit(self.page.url).fragment

    # --- what is there --------------------------------------------------------------------------

    def see(self, test_id: str) -> Locator:
        """Return everything of a `data-testid`."""
        return self.page.get_by_test_id(test_id)

    def button(self, name: str, *, inside: Locator | None = None) -> Locator:
        """Return the button of that name."""
        return (inside or self.page.locator("body")).get_by_role("button", name=name, exact=True)

    def thread(self, thread_id: str) -> Locator:
        """Return a thread's entry in the list."""
        return self.page.locator(f"[data-thread='{thread_id}']")

    @property
    def field(self) -> Locator:
        """Where questions are written."""
        return self.page.get_by_label("Your question")

    @property
    def connection(self) -> Locator:
        """The status line."""
        return self.see("connection")

    @property
    def questions(self) -> Locator:
        """Every question."""
        return self.see("question")

    @property
    def answer(self) -> Locator:
        """The newest answer."""
        return self.see("answer").last

    @property
    def words(self) -> Locator:
        """The newest answer's words."""
        return self.answer.locator("> .prose, .prose:not(details *)").last

    # --- looking --------------------------------------------------------------------------------

    async def everything(self) -> str:
        """Return all that this browser holds or ever got: page, storage, network."""
        held = str(await self.page.evaluate(_STORED))
        return "\n".join([held, *self.watch.frames, await self.watch.bodies()])

    async def keep_shot(self, name: str) -> None:
        """Keep a picture of the page, for people to look at."""
        SHOTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=SHOTS / f"{name}.png")


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Start Chromium, which sees nothing but this machine."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


async def open_device(
    browser: Browser, base: str, *, is_phone: bool = False, is_dark: bool = False
) -> Device:
    """Open a browser of one's own: nothing is shared with any other."""
    context = await browser.new_context(
        viewport=PHONE if is_phone else DESK,
        device_scale_factor=2 if is_phone else 1,
        is_mobile=is_phone,
        has_touch=is_phone,
        color_scheme="dark" if is_dark else "light",
    )
    context.set_default_timeout(WAIT_MS)
    await context.add_init_script(_TELL_VIOLATIONS)
    watch = Watch()
    watch.over(context)
    return Device(await context.new_page(), watch, base)


async def _load_body(response: Response) -> str:
    """Return the body; nothing when the page was left before it had come."""
    try:
        return await response.text()
    except Error:
        return ""
