"""An honest neighbour in a process of its own, for the attacker keeps the test's loop busy.

Some users stay connected and ping on a schedule that waits for no answer, so that whatever holds
the server up shows in every ping of that time. Now and then one of them comes with a new socket
and lets a small run play. Each ping has a twin, to a bare echo: what the machine is late both show.

`python -m tests.live.hostile.neighbour`: the first line on stdin says where and as whom; after it
`mark` begins a window and `report` ends it, with one line of JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count, cycle
from pathlib import Path
from time import monotonic
from typing import Any, Final

from tests.live.client import Client, connect, outcome_of

EVERY_S: Final = 0.02
VISIT_EVERY_S: Final = 0.4
ANSWERED_WITHIN_S: Final = 30.0
"""A ping that took so long is lost; what is late is judged by who asked."""
ECHO: Final = Path(__file__).with_name("echo.py")
TWIN_BYTES: Final = 8


class Control:
    """The twin of every ping: eight bytes to a bare echo, and back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.delays_s: list[float] = []
        self._reader = reader
        self._writer = writer
        self._sent: dict[int, float] = {}

    def ping(self, number: int) -> None:
        """Send the twin of a ping."""
        self._sent[number] = monotonic()
        self._writer.write(number.to_bytes(TWIN_BYTES, "big"))

    async def listen(self) -> None:
        """Note how long each took."""
        while True:
            number = int.from_bytes(await self._reader.readexactly(TWIN_BYTES), "big")
            self.delays_s.append(monotonic() - self._sent.pop(number))


class Honest:
    """The users who stay, and those who come and go."""

    def __init__(self, url: str, tokens: Sequence[str], control: Control) -> None:
        self._url = url
        self._tokens = tokens
        self._control = control
        self._clients: list[Client] = []
        self._sent: dict[int, float] = {}
        self._numbers = count(1)
        self._delays_s: list[float] = []
        self._visits_s: list[float] = []
        self._troubles: list[str] = []

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Be there, until the block ends."""
        async with asyncio.TaskGroup() as group:
            for token in self._tokens:
                group.create_task(self._stay(token))
            while len(self._clients) < len(self._tokens):  # noqa: ASYNC110 - they are many
                await asyncio.sleep(EVERY_S)
            listening = group.create_task(self._control.listen())
            yield
            listening.cancel()
            for client in self._clients:
                await client.socket.close()

    async def window(self, ended: asyncio.Event) -> dict[str, Any]:
        """Live until the event, and tell how that was."""
        for delays in (self._delays_s, self._visits_s, self._control.delays_s, self._troubles):
            delays.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ping(ended))
            group.create_task(self._visit(ended))
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                while self._sent:  # noqa: ASYNC110 - the answers come to many readers
                    await asyncio.sleep(EVERY_S)
        return {
            "pings": len(self._delays_s),
            "lost": len(self._sent),
            "p99_s": p99(self._delays_s),
            "worst_s": max(self._delays_s, default=0.0),
            "control_p99_s": p99(self._control.delays_s),
            "visits": len(self._visits_s),
            "slowest_visit_s": max(self._visits_s, default=0.0),
            "troubles": self._troubles,
        }

    async def _ping(self, ended: asyncio.Event) -> None:
        due = monotonic()
        for client in cycle(self._clients):
            if ended.is_set():
                return
            number = next(self._numbers)
            self._control.ping(number)
            self._sent[number] = monotonic()
            await client.send({"type": "ping", "t": number})
            due += EVERY_S
            await asyncio.sleep(max(due - monotonic(), 0))

    async def _visit(self, ended: asyncio.Event) -> None:
        for token in cycle(self._tokens):
            if ended.is_set():
                return
            began = monotonic()
            try:
                await self._play(token, f"visit-{next(self._numbers)}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it was done to an honest one
                self._troubles.append(repr(error))
            self._visits_s.append(monotonic() - began)
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), VISIT_EVERY_S)

    async def _play(self, token: str, run_id: str) -> None:
        async with connect(self._url, token) as client:
            await client.run("visits", run_id, "hi")
            end = (await client.until_end(run_id))["chunk"]
            if outcome_of(end) != "success":
                self._troubles.append(json.dumps(end))

    async def _stay(self, token: str) -> None:
        async with connect(self._url, token) as client:
            self._clients.append(client)
            async for text in client.socket:
                self._take(json.loads(text))

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "pong":
            self._delays_s.append(monotonic() - self._sent.pop(frame["t"]))
        elif frame["type"] not in {"ping", "thread"}:
            self._troubles.append(json.dumps(frame))


def p99(delays_s: Sequence[float]) -> float:
    """Return what 99 of 100 stay within."""
    ordered = sorted(delays_s)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


@asynccontextmanager
async def _control() -> AsyncIterator[Control]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", str(ECHO)), stdin=PIPE, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield Control(reader, writer)
        writer.close()
    finally:
        process.kill()
        await process.wait()


async def _live() -> None:
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    told = json.loads(await stdin.readline())
    async with _control() as control:
        honest = Honest(told["url"], told["tokens"], control)
        async with honest.connected():
            _say("ready")
            while await stdin.readline():
                ended = asyncio.Event()
                window = asyncio.create_task(honest.window(ended))
                await stdin.readline()
                ended.set()
                _say(json.dumps(await window))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_live())
