"""What an attack is: a name in `docs/hostile.md`, a deed, and the server that it is done to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeAlias

from tests.live.framing import TEXT
from tests.live.hostile.wire import HELLO, Wire, frame, wire_to
from tests.live.issuer import IssuerServer
from tests.live.people import Browser
from tests.live.server import Server
from tests.live.stage import Lane

_addresses: Final = count(1)


def new_address() -> str:
    """Return an address of this machine that nobody has come from yet."""
    number = next(_addresses)
    return f"127.1.{number // 250}.{number % 250 + 1}"


@dataclass(frozen=True)
class Scene:
    """One round of an attack: the server, and an address of the attacker's own."""

    server: Server
    corp: IssuerServer
    browser: Browser
    old_tickets: list[str]
    """Bought when the server began, for who comes too late with them."""
    tickets_died_at: float
    """When the last of them has expired, by the loop's clock."""
    source: str = field(default_factory=new_address)

    def lane(self) -> Lane:
        """Return a user whom nobody knows yet."""
        return Lane(self.server)

    @asynccontextmanager
    async def wire(self, *, is_lazy: bool = False) -> AsyncIterator[Wire]:
        """Open a TCP connection; a lazy one takes little more than what is asked for."""
        async with wire_to(self.server.port, source=self.source, is_lazy=is_lazy) as wire:
            yield wire

    @asynccontextmanager
    async def socket(self, lane: Lane, *headers: str, is_lazy: bool = False) -> AsyncIterator[Wire]:
        """Open a WebSocket with a good credential, and greet."""
        async with self.wire(is_lazy=is_lazy) as wire:
            assert await wire.upgrade(f"Authorization: Bearer {lane.token}", *headers) == "101"
            await wire.push(frame(TEXT, HELLO))
            assert await wire.words(until=["welcome"]) == ["welcome"]
            yield wire

    async def say(self, *pieces: bytes, sockets: int = 8) -> set[str]:
        """Say the same on many sockets at once, and return how those end."""
        lane = self.lane()

        async def one() -> str:
            async with self.socket(lane) as wire:
                for piece in pieces:
                    await wire.push(piece)
                return await wire.end()

        return set(await asyncio.gather(*(one() for _ in range(sockets))))

    async def knock(self, *headers: str, path: str = "/ws") -> str:
        """Ask for a socket; return the status, or for who was let in to be told, the close."""
        async with self.wire() as wire:
            status = await wire.upgrade(*headers, path=path)
            if status == "101" and any("agui.v1" in header for header in headers):
                return (await wire.words(until=["welcome"]))[-1]
            return status


Deed: TypeAlias = Callable[[Scene], Awaitable[Iterable[str]]]
"""Does one round and returns the answers that it got."""


@dataclass(frozen=True)
class Attack:
    """A deed, done to the server of a kind."""

    name: str
    deed: Deed
    kind: str


ATTACKS: Final[dict[str, Attack]] = {}


def attack(name: str, *, kind: str = "plain") -> Callable[[Deed], Deed]:
    """Register what follows under the name of its row."""

    def register(deed: Deed) -> Deed:
        assert name not in ATTACKS, f"two attacks are called {name}"
        ATTACKS[name] = Attack(name, deed, kind)
        return deed

    return register


async def at_once(number: int, make: Callable[[], Awaitable[str]], *, width: int = 20) -> list[str]:
    """Do something many times, so many of them at a time, and return the answers."""
    places = asyncio.Semaphore(width)

    async def one() -> str:
        async with places:
            return await make()

    return list(await asyncio.gather(*(one() for _ in range(number))))
