"""Who takes part in the churn: a server, and users each on a line of their own that breaks.

All users name the same threads and runs, and whatever one says carries a mark of their own, which
is sought in everything that the others are given.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from time import monotonic
from typing import Final

import httpx
from tests.live.churn.agents import SECRET
from tests.live.client import RECV_TIMEOUT_S, Client, Frame, connect
from tests.live.markers import find_markers, marker_of
from tests.live.proxy import Proxy
from tests.live.server import Server
from tests.live.stage import Lane, mint
from websockets.exceptions import ConnectionClosed, InvalidHandshake

GAPS: Final = "gaps told"
MISPLACED: Final = "events missing, doubled or out of order"
BUSY: Final = "unavailable"
"""The code of what a server says that is about to stop."""
FAULTY_CLOSES: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1011, 4401, 4403, 4409, 4429})
"""With these a server blames its client, or itself; honest clients never see them."""
SILENT: Final = "keepalive ping timeout"
"""The reason of a close that a frozen server finds right: it has not read the answer yet."""
PATIENCE_S: Final = 90.0
"""How long it may take, through all faults, until something is done that should be."""


class Busy(Exception):
    """The server takes nothing now, and will again."""


LOST: Final = (Busy, ConnectionClosed, InvalidHandshake, OSError, EOFError, httpx.TransportError)
"""What a line brings that was cut, or behind which there is no server now."""


@dataclass(eq=False)
class World:
    """What all users share."""

    server: Server
    chance: Random
    tally: Counter[str] = field(default_factory=lambda: Counter({GAPS: 0, MISPLACED: 0}))
    stop_s: list[float] = field(default_factory=list)
    """How long each stop took, in seconds, faults included."""
    faulty_outcomes: frozenset[str] = frozenset()
    """How any run may end now, because of what befalls the server."""
    deadline: float = 0.0

    @property
    def is_over(self) -> bool:
        """Say whether the users are to go home."""
        return monotonic() >= self.deadline

    def live_for(self, for_s: float) -> None:
        """Set how long the users stay from now."""
        self.deadline = monotonic() + for_s


@dataclass(eq=False)
class Person:
    """A user, on a line of their own."""

    world: World
    lane: Lane
    proxy: Proxy
    chance: Random
    """Draws what this user does."""
    pace: Random
    """Draws how long this user and the line rest: how often they do is not the seed's to say."""
    runs: int = 0
    """How many were asked for so far; it makes the next one's id."""
    held: Counter[str] = field(default_factory=Counter)
    """How many runs each thread holds."""

    @property
    def mark(self) -> str:
        """What only this user says."""
        return marker_of(self.lane.user)

    @cached_property
    def http(self) -> httpx.AsyncClient:
        """A client for the HTTP routes, over the line; `go_home()` closes it."""
        headers = {"Authorization": f"Bearer {mint(self.lane.user, expires_s=86_400)}"}
        return httpx.AsyncClient(
            base_url=f"http://{self.proxy.address}",
            headers=headers,
            trust_env=False,
            verify=False,  # noqa: S501 - there is no TLS; reading the machine's trust is slow
            timeout=RECV_TIMEOUT_S,
        )

    async def go_home(self) -> None:
        """Leave no line open."""
        await self.http.aclose()
        del self.http

    def count(self, what: str, number: int = 1) -> None:
        """Count something for the table."""
        self.world.tally[what] += number

    def search(self, text: str) -> str:
        """Look for what is not this user's, and return the text."""
        marks = find_markers(text)
        assert set(marks) <= {self.mark}, f"{self.lane.user} was given {text[:2000]}"
        assert SECRET not in text, text[:2000]
        self.count("characters searched for others' marks", len(text))
        self.count("own marks found", len(marks))
        return text

    async def rest(self, least_s: float, most_s: float) -> None:
        """Do nothing for a while: people are not as quick as machines."""
        await asyncio.sleep(self.pace.uniform(least_s, most_s))

    async def persist(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Try until an attempt says that it is done, whatever becomes of the line."""
        deadline = monotonic() + PATIENCE_S
        while True:
            try:
                if await attempt():
                    return
            except LOST as error:
                self._note_loss(error)
                if monotonic() > deadline:
                    raise AssertionError(f"{self.lane.user} finds no way back") from error
            await self.rest(0.05, 0.3)

    async def ask_http(self, method: str, path: str, *also: int) -> httpx.Response:
        """Ask, until there is an answer; statuses other than success are named."""
        answers: list[httpx.Response] = []

        async def attempt() -> bool:
            answer = await self.http.request(method, path)
            self.search(answer.text)
            if answer.status_code == 503:
                raise Busy
            assert answer.is_success or answer.status_code in also, answer.text
            answers.append(answer)
            return True

        await self.persist(attempt)
        return answers[0]

    @asynccontextmanager
    async def connect(self, *, hello: bool = True, query: str = "") -> AsyncIterator[Ear]:
        """Open a socket over the line."""
        url = self.lane.server.websocket_url(address=self.proxy.address) + query
        async with connect(url, self.lane.token, hello=False) as client:
            ear = Ear(client.socket, person=self)
            if hello:
                await ear.greet()
            yield ear

    def _note_loss(self, error: BaseException) -> None:
        """Count a line that is gone; fails when the server blames somebody."""
        name = type(error).__name__
        if isinstance(error, ConnectionClosed):
            code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
            assert code not in FAULTY_CLOSES or reason == SILENT, f"{self.lane.user}: {error}"
            name = f"close {code}"
        self.count(f"lines lost: {name}")


@dataclass(eq=False)
class Ear(Client):
    """A socket whose every frame is searched and counted."""

    person: Person | None = None

    def _read(self, text: str) -> Frame:
        assert self.person is not None
        return super()._read(self.person.search(text))

    def _note(self, frame: Frame) -> Frame:
        assert self.person is not None
        # Nobody here goes on from a place that the server never told: it was lost.
        assert frame.get("code") != "invalid_cursor", (frame, self.followers)
        self.person.count(GAPS, frame.get("recovered") is False)
        self.person.count("events checked", "chunk" in frame)
        try:
            return super()._note(frame)
        except AssertionError:
            self.person.count(MISPLACED)
            raise
