"""People with accounts, the browsers that they sign in with, and whoever runs the gateway."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
from tests.live.client import Client, begin
from tests.live.server import LEFTOVERS, START_TIMEOUT_S, Server
from tests.live.stage import Lane
from tests.live.untold import note
from websockets.asyncio.client import connect as open_websocket
from websockets.typing import Subprotocol

from isolane.auth.accounts import Accounts
from isolane.clock import now_ms
from isolane.contracts import PLAIN
from isolane.engines.sqlite.database import open_database
from isolane.settings import DATABASE_NAME

PASSWORD: Final = note("correct horse battery")
COOKIE: Final = "isolane_session"
_numbers: Final = count(1)


# --- whoever runs the gateway --------------------------------------------------------------------


class Ended(NamedTuple):
    """How a command ended and what it said."""

    code: int | None
    out: str
    err: str


async def isolane(*words: str, data: Path, stdin: str = "") -> Ended:
    """Run a command beside the server."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isolane", *words, "--data", str(data)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), START_TIMEOUT_S)
    assert not any(mark in err.decode() for mark in (*LEFTOVERS, "Traceback"))
    return Ended(process.returncode, out.decode(), err.decode())


async def add_user(data: Path, name: str, password: str = PASSWORD) -> Ended:
    """Make an account as one does by hand."""
    words = ("user", "add", name, "--password-stdin")
    return await isolane(*words, data=data, stdin=note(password) + "\n")


@asynccontextmanager
async def open_accounts(data: Path) -> AsyncIterator[Accounts]:
    """Do what `isolane user` does, without the second that its process takes to begin."""
    database = await open_database(f"sqlite:///{data / DATABASE_NAME}")
    accounts = Accounts(database, clock=now_ms)
    try:
        yield accounts
    finally:
        accounts.close()
        await database.close()


def query(server: Server, statement: str, **values: object) -> list[tuple[Any, ...]]:
    """Read or change the server's database under it, as time would that nobody waits for."""
    file = sqlite3.connect(server.data / DATABASE_NAME, timeout=10)
    with closing(file), file:
        return file.execute(statement, values).fetchall()


# --- people --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Browser:
    """One browser that somebody is signed in with: it sends its cookie, and our page's Origin."""

    server: Server
    http: httpx.AsyncClient

    @property
    def cookie(self) -> str:
        """The session's secret."""
        return self.http.cookies[COOKIE]

    def connect(self, *, hello: bool = True) -> AbstractAsyncContextManager[Client]:
        """Open a socket as the page does."""
        return cookie_socket(self.server, self.cookie, self.server.url, hello=hello)

    async def buy_ticket(self) -> str:
        """Return a ticket for pages of this origin."""
        answer = (await self.http.post("/api/tickets")).raise_for_status()
        return str(answer.json()["ticket"])

    def redeem(self, ticket: str) -> AbstractAsyncContextManager[Client]:
        """Open a socket by a ticket alone."""
        return ticket_socket(self.server, ticket, origin=self.server.url)

    async def who(self) -> tuple[int, str | None]:
        """Return the status with which the gateway says who this is, and the reason if it won't."""
        answer = await self.http.get("/api/me")
        return answer.status_code, answer.json().get("reason")


@dataclass(frozen=True)
class Person:
    """Somebody with an account, whom no other test knows."""

    server: Server
    name: str

    @property
    def lane(self) -> Lane:
        """What this person opens with a token, not with a browser."""
        return Lane(self.server, self.name)

    @asynccontextmanager
    async def sign_in(self, **headers: str) -> AsyncIterator[Browser]:
        """Sign in with one more browser."""
        async with signed_in(self.server, self.name, **headers) as http:
            http.headers["Origin"] = self.server.url
            yield Browser(self.server, http)


async def new_person(server: Server, *, scopes: Iterable[str] = PLAIN) -> Person:
    """Return somebody who has just got an account."""
    person = Person(server, f"person-{next(_numbers)}")
    async with open_accounts(server.data) as accounts:
        await accounts.add(person.name, PASSWORD, scopes=scopes)
    return person


async def sign_in(
    http: httpx.AsyncClient, name: str, password: str = PASSWORD, **headers: str
) -> httpx.Response:
    """Ask for a session."""
    body = {"username": name, "password": password}
    return await http.post("/api/session", json=body, headers=headers)


@asynccontextmanager
async def signed_in(server: Server, name: str, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client that keeps the cookie and sends no Origin of its own."""
    async with server.http() as http:
        assert (await sign_in(http, name, **headers)).status_code == 200
        yield http


@asynccontextmanager
async def cookie_socket(
    server: Server, cookie: str, *origins: str, offered: bool = True, hello: bool = False
) -> AsyncIterator[Client]:
    """Open a socket as a browser does: the cookie goes along, and the Origin says who asks."""
    headers = [("Cookie", f"{COOKIE}={cookie}"), *(("Origin", origin) for origin in origins)]
    async with _socket(server.websocket_url(), headers, offered=offered, hello=hello) as client:
        yield client


@asynccontextmanager
async def ticket_socket(
    server: Server, ticket: str, *, origin: str | None = None, hello: bool = True
) -> AsyncIterator[Client]:
    """Open a socket with nothing but a ticket."""
    url = f"{server.websocket_url()}?ticket={ticket}"
    headers = [] if origin is None else [("Origin", origin)]
    async with _socket(url, headers, offered=True, hello=hello) as client:
        yield client


@asynccontextmanager
async def _socket(
    url: str, headers: list[tuple[str, str]], *, offered: bool, hello: bool
) -> AsyncIterator[Client]:
    async with open_websocket(
        url,
        subprotocols=[Subprotocol("agui.v1")] if offered else None,
        additional_headers=headers,
        proxy=None,
        ping_interval=None,
        close_timeout=2.0,
    ) as socket:
        yield await begin(socket, hello=hello)
