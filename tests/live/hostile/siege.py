"""A server that is attacked beside an honest neighbour, and what both must show afterwards."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from tests.live.hostile.attack import Attack, Scene
from tests.live.issuer import IssuerServer, new_key, running_issuer
from tests.live.people import Browser, new_person
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, mint, own_server
from tests.live.stopwatch import Turns

ROOT: Final = Path(__file__).parents[3]
NEIGHBOUR: Final = "tests.live.hostile.neighbour"
AGENTS: Final = (
    SCRIPT,
    *(f"{name}=hostile.misbehaving:{name}" for name in ("deaf", "flood", "late")),
)
KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "plain": {},
    "other": {
        "ISOLANE_COMPRESSION": "true",
        "ISOLANE_AGENT_THREADS": "2",
        "ISOLANE_SEND_TIMEOUT_S": "2",
    },
}
"""Settings beside the defaults, which are what is attacked."""

USERS: Final = 12
"""Of the neighbour: so many share 50 pings a second without one of them coming near its limit."""
WINDOW_S: Final = 1.0
PINGS_MIN: Final = 25
NEIGHBOUR_S: Final = 0.25
"""What an honest client beside it must not wait longer for, at p99, where the server has a core.

Where it has to share one, as here with its attacker and whatever else runs, all that it does takes
longer by what it waits for that core: the kernel counts it, and the bound is stretched by it.
"""
NEWCOMER_S: Final = 5.0
QUIET_WITHIN_S: Final = 5.0
GROWN_KIB_MAX: Final = 32 * 1024
"""Of one attack. An allocator gives memory back in steps, and keeps what one large message took;
what is left behind by each of a hundred thousand frames, a kilobyte say, shows all the same."""
TRIES: Final = 3
"""Times more that much may be taken, by an attack of many at once whose peaks differ."""
OLD_TICKETS: Final = 20
TICKET_S: Final = 30.0
REPORT_WITHIN_S: Final = 60.0


class Neighbour:
    """The neighbour's process; see `neighbour.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def begin(self) -> None:
        """Let a window begin."""
        await self._tell("mark")

    async def report(self) -> dict[str, Any]:
        """End the window and return how it was."""
        await self._tell("report")
        told: dict[str, Any] = json.loads(await self.hear())
        return told

    async def hear(self) -> str:
        """Return the next line that it says."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), REPORT_WITHIN_S)
        return line.decode().strip()

    async def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()


@asynccontextmanager
async def neighbour_of(server: Server) -> AsyncIterator[Neighbour]:
    """Start a neighbour and wait until it is there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", NEIGHBOUR), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    try:
        neighbour = Neighbour(process)
        tokens = [mint(f"honest-{number}") for number in range(USERS)]
        told = {"url": server.websocket_url(), "tokens": tokens}
        await neighbour._tell(json.dumps(told))
        assert await neighbour.hear() == "ready"
        yield neighbour
    finally:
        process.kill()
        await process.wait()


@dataclass(eq=False)
class Siege:
    """One server, its neighbour, and what was there before the first attack."""

    server: Server
    neighbour: Neighbour
    corp: IssuerServer
    browser: Browser
    old_tickets: list[str]
    tickets_died_at: float
    gauges: dict[str, float]
    descriptors: Counter[str]

    def scene(self) -> Scene:
        """Return the scene of one more round."""
        return Scene(self.server, self.corp, self.browser, self.old_tickets, self.tickets_died_at)

    async def withstand(self, attack: Attack) -> set[str]:
        """Let an attack happen beside the neighbour; fails unless nobody and nothing is hurt.

        What is left behind grows with every round; what the heap keeps of one moment doesn't, so
        where much was taken the same must not take it again and again.
        """
        pid, kib = self.server.pid, self.server.resident_kib()
        answers = await self._suffer(attack)
        for _ in range(TRIES):
            if self.server.resident_kib() - kib < GROWN_KIB_MAX:
                break
            kib = self.server.resident_kib()
            answers |= await self._suffer(attack)
        assert self.server.pid == pid
        assert self.server.resident_kib() - kib < GROWN_KIB_MAX
        return answers

    async def _suffer(self, attack: Attack) -> set[str]:
        """Do rounds of it until a window is over, and wait until all is as before."""
        watched, rounds, answers = self._watch(), 0, set[str]()
        await self.neighbour.begin()
        until = monotonic() + WINDOW_S
        try:
            while not rounds or monotonic() < until:
                answers |= set(await attack.deed(self.scene()))
                rounds += 1
        finally:
            report = await self.neighbour.report()
            stretch = max(one.stretch(now) for one, now in zip(watched, self._watch(), strict=True))
            kib = self.server.resident_kib()
            tell(f"{attack.name}: {rounds} rounds, {kib} KiB, x{stretch:.2f}, {report}")
        await self._settle()
        assert_unhurt(report, stretch)
        return answers

    def _watch(self) -> tuple[Turns, Turns]:
        """Return how long the loop's thread has waited for a core, and all threads together.

        One beside the loop that waits while it holds the interpreter keeps the loop waiting, too,
        and that shows in its own time only.
        """
        return Turns.of_main(self.server.pid), Turns.of(self.server.pid)

    async def _settle(self) -> None:
        """Return once all that there was counts as before."""
        await self.server.wait_for_gauges(self.gauges, within_s=QUIET_WITHIN_S)
        await self.server.wait_for_descriptors(self.descriptors, within_s=QUIET_WITHIN_S)


def tell(line: str) -> None:
    """Show a line, where pytest shows what a test prints."""
    sys.stdout.write(f"\n{line}\n")


def assert_unhurt(report: Mapping[str, Any], stretch: float) -> None:
    """Fail when the neighbour was refused anything, lost anything, or waited for it."""
    assert not report["troubles"]
    assert not report["lost"]
    assert report["pings"] >= PINGS_MIN
    assert report["visits"] >= 1
    assert report["slowest_visit_s"] < NEWCOMER_S, report
    assert report["p99_s"] < NEIGHBOUR_S * stretch + report["control_p99_s"], report


@asynccontextmanager
async def siege_of(data: Path, kind: str) -> AsyncIterator[Siege]:
    """Start a server of a kind, its users' provider, and a neighbour."""
    async with AsyncExitStack() as stack:
        keys = [new_key("ES256", "key ES256"), new_key("RS256", "key RS256")]
        corp = await stack.enter_async_context(running_issuer("corp", *keys))
        env = {"ISOLANE_PROVIDERS": json.dumps([corp.settings]), **KINDS[kind]}
        server = await stack.enter_async_context(own_server(data, *AGENTS, env=env))
        browser = await stack.enter_async_context((await new_person(server)).sign_in())
        lane = Lane(server)
        tickets = await server.tickets(lane.token, OLD_TICKETS)
        died_at = monotonic() + TICKET_S + 1
        await _warm_up(server)
        neighbour = await stack.enter_async_context(neighbour_of(server))
        yield Siege(
            *(server, neighbour, corp, browser, tickets, died_at),
            gauges=await server.gauges(),
            descriptors=await _descriptors(server),
        )


async def _warm_up(server: Server) -> None:
    """Let the server open what it opens once, when it has much to do."""
    lanes = [Lane(server) for _ in range(30)]
    await asyncio.gather(*(lane.play("t", "r", "warm up") for lane in lanes))


async def _descriptors(server: Server) -> Counter[str]:
    """Return what is open when nothing comes and goes."""
    seen = server.descriptors()
    while (now := server.descriptors()) != seen:
        seen = now
        await asyncio.sleep(0.2)
    return seen
