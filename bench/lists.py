"""Measure what a question costs whose client sends the whole conversation along.

`python bench/lists.py`; about two minutes. `README.md` says how to read what it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from filling import add_threads, make_database
from machine import Turns, read_cpu_s
from servers import HOST, Server, make_tokens, serve_isolane
from websockets.asyncio.client import connect

WORDS = "What one says in a conversation, at some length. " * 10
"""Characters of each message, as in a chat."""
QUESTION = "What do you think of it, in ten words or less?"
ROUNDS = {0: 40, 1: 40, 10: 12, 50: 8}
"""For each history: what is short is asked more often, so that enough pings come meanwhile."""
PING_EVERY_S = 0.02
SENT_BYTES_S = 8_000_000
"""What a user may send each second of what the thread has, before the next list has to wait."""
NEIGHBOUR_MAX_S = 0.25
"""Maximum seconds at p99, as `docs/guarantees.md` promises."""
STARTED = b"RUN_STARTED"


@dataclass(frozen=True, slots=True)
class Phase:
    """What some questions took, and what a neighbour found meanwhile."""

    costs: Sequence[Cost]
    pings_s: Sequence[float]
    stretch: float
    """How many times longer the server's loop took, because it had to wait for a core."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a question took in one round, in seconds."""

    until_started_s: float
    server_cpu_s: float


class Pings:
    """A neighbour who pings on a schedule that waits for no answer, in a thread of its own."""

    def __init__(self, server: Server) -> None:
        """Speak as the second user of `server`."""
        self._server = server
        self._is_over = threading.Event()
        self.is_counted = True
        self.took_s: list[float] = []

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Ping for the block's time."""
        thread = threading.Thread(target=uvloop.run, args=(self._ping(),))
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    async def _ping(self) -> None:
        headers = {"Authorization": f"Bearer {self._server.tokens[1]}"}
        url = f"ws://{HOST}:{self._server.port}/ws"
        async with connect(url, additional_headers=headers, proxy=None) as socket:
            await socket.send('{"type":"hello","v":1}')
            await socket.recv()
            listening = asyncio.create_task(self._listen(socket))
            while not self._is_over.is_set():
                moment = time.time() if self.is_counted else None
                await socket.send(json.dumps({"type": "ping", "t": moment}))
                await asyncio.sleep(PING_EVERY_S)
            listening.cancel()

    async def _listen(self, socket: object) -> None:
        async for text in socket:  # type: ignore[attr-defined]
            frame = json.loads(text)
            if frame["type"] == "pong" and frame.get("t") is not None:
                self.took_s.append(time.time() - frame["t"])


def ask(server: Server, thread_id: str, history: bytes, number: int) -> Cost:
    """Ask once more on a thread, with its history sent along, and read the answer to its end."""
    name = f"{thread_id}-{'long' if history else 'short'}-{number}"
    question = json.dumps({"id": name, "role": "user", "content": QUESTION}).encode()
    head = f'{{"threadId":"{thread_id}","runId":"{name}","state":{{}},"messages":['.encode()
    body = head + history + question + b'],"tools":[],"context":[],"forwardedProps":{}}'
    line = http.client.HTTPConnection(HOST, server.port, timeout=120)
    headers = {"Authorization": f"Bearer {server.tokens[0]}", "Content-Type": "application/json"}
    cpu_s, began_s = read_cpu_s(server.pid), time.perf_counter()
    line.request("POST", "/agui", body, headers)
    answer = line.getresponse()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{answer.status} {answer.read().decode()}")
    first = answer.readline()
    while STARTED not in first:
        first = answer.readline()
    took = Cost(time.perf_counter() - began_s, read_cpu_s(server.pid) - cpu_s)
    answer.read()
    line.close()
    return took


def measure(server: Server, thread_id: str, history: bytes, rounds: int) -> Phase:
    """Ask some times beside a neighbour; no ping of a pause between counts."""
    pings, costs = Pings(server), list[Cost]()
    before = Turns.read(server.pid)
    with pings.going_on():
        for number in range(rounds):
            pause_s = len(history) / SENT_BYTES_S
            if pause_s > 1:  # the user's pace: so the list isn't kept waiting
                pings.is_counted = False
                time.sleep(pause_s)
                pings.is_counted = True
            costs.append(ask(server, thread_id, history, number))
    return Phase(costs, sorted(pings.took_s), Turns.read(server.pid).stretch_since(before))


def fill(data: Path) -> dict[int, bytes]:
    """Make a thread for each history; return what its client sends of it."""
    make_database(data)
    histories: dict[int, bytes] = {}
    for size_mb in ROUNDS:
        one = json.dumps({"id": "m-000000", "role": "user", "content": WORDS})
        count = max(size_mb * 1_000_000 // (len(one) + 1), 1)
        add_threads(data, 1, prefix=f"h{size_mb}-", holds=(1, 8, count), words=WORDS)
        history = "".join(
            json.dumps({"id": f"m-{place}", "role": "user", "content": WORDS}) + ","
            for place in range(count)
        )
        histories[size_mb] = history.encode()
    return histories


def show(size_mb: int, phases: Sequence[Phase]) -> bool:
    """Print a line; say whether the neighbour was served in time."""
    cells, in_time = [f"{size_mb:>4} MB"], True
    for phase in phases:
        until_s = sorted(cost.until_started_s for cost in phase.costs)[len(phase.costs) // 2]
        cpu_s = sum(cost.server_cpu_s for cost in phase.costs) / len(phase.costs)
        pings_s = phase.pings_s
        p50_s, p99_s = pings_s[len(pings_s) // 2], pings_s[int(len(pings_s) * 0.99)]
        in_time = in_time and p99_s < NEIGHBOUR_MAX_S * phase.stretch
        cells += [f"{value * 1000:>8.0f} ms" for value in (until_s, cpu_s, p50_s, p99_s)]
        cells.append(f"{phase.stretch:>11.1f}")
    print(*cells)
    return in_time


def main() -> int:
    """Fill, ask and print; return 1 when a neighbour had to wait."""
    parser = argparse.ArgumentParser(description="Measure what a long list of messages costs.")
    parser.add_argument("--folder", type=Path, help="where the database is; a disk, not a tmpfs")
    options = parser.parse_args()
    in_time = True
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = Path(folder) / "data"
        histories = fill(data)
        env = {"ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000"}  # for the pings
        with serve_isolane(data, "agent:brief", make_tokens(2), env=env) as server:
            columns = ("until start", "CPU", "ping p50", "ping p99", "stretch") * 2
            print(f"{'sent':>7}", *(f"{column:>11}" for column in columns))
            for size_mb, history in histories.items():
                ask(server, f"h{size_mb}-0", history, -1)  # the first time is of caches
                phases = [
                    measure(server, f"h{size_mb}-0", sent, ROUNDS[size_mb])
                    for sent in (history, b"")
                ]
                in_time = show(size_mb, phases) and in_time
    return 0 if in_time else 1


if __name__ == "__main__":
    sys.exit(main())
