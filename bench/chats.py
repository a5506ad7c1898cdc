"""Measure what AI SDK's socket costs beside `/ws`, in one run.

`python bench/chats.py`; about a minute. `README.md` says how to read what it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import uvloop
from client import HOST
from pace import NS_PER_S, Pace
from target import Target, make_tokens, running
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from isolane.testing.server import free_port

EVENTS = 2_000
RATE = 1_000
"""Events a second of the one run that is followed."""
ROUNDS = 6
REPLAYED = 1_000
REPLAYS = 20
STARTS = 40
FOLLOWED_MAX = 1.3
REPLAY_MAX_S = 0.015
START_MORE_MAX_S = 0.010
WORDS = "What one says in a conversation, at some length. " * 4


@dataclass(frozen=True, slots=True)
class Chats:
    """One user before the two doors of one gateway."""

    target: Target

    def open(self, path: str, protocol: str) -> connect:
        """Open a socket."""
        headers = {"Authorization": f"Bearer {self.target.tokens[0]}"}
        return connect(
            f"ws://{HOST}:{self.target.port}{path}",
            additional_headers=headers,
            subprotocols=[Subprotocol(protocol)],
            compression=None,
            max_size=None,
            proxy=None,
        )

    async def cpu_of(self, work: Callable[[], Awaitable[object]]) -> float:
        """Return the server's CPU seconds while `work` goes on."""
        before = _cpu_s(self.target.pid)
        await work()
        return _cpu_s(self.target.pid) - before


def _cpu_s(pid: int) -> float:
    spent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(spent[11]) + int(spent[12])) / os.sysconf("SC_CLK_TCK")


def pace_of(events: int, rate: int) -> dict[str, int]:
    """Return what makes an agent speak so often, so many times a second from now on."""
    return Pace(time.monotonic_ns(), NS_PER_S // rate, events).to_props()


def turn_of(chat: str, text: str, props: dict[str, int], *, before: int = 0) -> dict[str, Any]:
    """Return a turn of AI SDK's behind so many earlier messages."""
    earlier = [
        {"id": f"{chat}-{n}", "role": "user", "parts": [{"type": "text", "text": WORDS}]}
        for n in range(before)
    ]
    own = {"id": str(uuid4()), "role": "user", "parts": [{"type": "text", "text": text}]}
    return {
        "type": "send",
        "requestId": str(uuid4()),
        "id": chat,
        "trigger": "submit-message",
        "messages": [*earlier, own],
        "headers": {},
        "body": {"forwardedProps": props},
    }


async def chat(socket: ClientConnection, frame: dict[str, Any]) -> float:
    """Do one request of AI SDK's to its end; return the seconds until its first chunk."""
    began, first = time.perf_counter(), 0.0
    await socket.send(json.dumps(frame))
    async for text in socket:
        first = first or time.perf_counter() - began
        if '"type":"end"' in str(text)[:60]:
            return first
        if '"type":"error"' in str(text)[:60]:
            raise RuntimeError(str(text))
    raise RuntimeError("the socket closed")


async def run(socket: ClientConnection, thread: str, props: dict[str, int]) -> None:
    """Do one run at `/ws` to its end."""
    question = {"id": str(uuid4()), "role": "user", "content": "Speak."}
    frame = {
        "threadId": thread,
        "runId": str(uuid4()),
        "messages": [question],
        "state": {},
        "tools": [],
        "context": [],
        "forwardedProps": props,
    }
    await socket.send(json.dumps(frame))
    async for text in socket:
        if "RUN_FINISHED" in str(text):
            return


async def measure_following(chats: Chats) -> float:
    """Print the server's CPU for each followed event at both doors; return the ratio."""
    old, new = list[float](), list[float]()
    async with chats.open("/ws", "agui.v1") as ws, chats.open("/ai/chat", "ai-chat.v1") as ai:
        for number in range(ROUNDS + 1):  # the first is of caches
            old.append(await chats.cpu_of(partial(run, ws, "ws", pace_of(EVENTS, RATE))))
            frame = turn_of(f"ai-{number}", "Speak.", pace_of(EVENTS, RATE))
            new.append(await chats.cpu_of(partial(chat, ai, frame)))
    ratio = median(ai / ws for ws, ai in zip(old[1:], new[1:], strict=True))
    for door, spent in (("/ws", old), ("/ai/chat", new)):
        print(f"{door:>9}  {median(spent[1:]) / EVENTS * 1e6:6.1f} us of CPU for an event")
    print(f"    ratio  {ratio:6.2f} (at most {FOLLOWED_MAX})")
    return ratio


async def measure_replay(chats: Chats) -> float:
    """Print how long a turn of a thousand deltas takes to be told again; return the median."""
    async with chats.open("/ai/chat", "ai-chat.v1") as socket:
        await chat(socket, turn_of("replayed", "Speak.", pace_of(REPLAYED, 100_000)))
        took: list[float] = []
        for _ in range(REPLAYS):
            head = {"type": "resume", "requestId": str(uuid4()), "id": "replayed"}
            began = time.perf_counter()
            await chat(socket, {**head, "headers": {}, "body": {}})
            took.append(time.perf_counter() - began)
    print(f"a turn of {REPLAYED} deltas again: {median(took) * 1000:.1f} ms, its reading included")
    return median(took)


async def measure_starts(chats: Chats) -> float:
    """Print what 499 known messages cost the start of a run; return the difference."""
    by_count: dict[int, list[float]] = {0: [], 499: []}
    async with chats.open("/ai/chat", "ai-chat.v1") as socket:
        brief = pace_of(1, 100_000)
        await chat(socket, turn_of("long", "Speak.", brief, before=499))
        for _ in range(STARTS):
            for before, took in by_count.items():
                took.append(await chat(socket, turn_of("long", "Speak.", brief, before=before)))
    one, many = (median(took) for took in by_count.values())
    print(f"until the first chunk: {one * 1000:.1f} ms with one message, {many * 1000:.1f} ms "
          f"with 500 of which one is new")  # fmt: skip
    return many - one


async def measure(target: Target) -> bool:
    """Measure and print; say whether all of it stays within its bounds."""
    chats = Chats(target)
    ratio = await measure_following(chats)
    replay_s = await measure_replay(chats)
    more_s = await measure_starts(chats)
    return ratio <= FOLLOWED_MAX and replay_s <= REPLAY_MAX_S and more_s <= START_MORE_MAX_S


def main() -> int:
    """Start a gateway and measure it; return 1 when a bound is passed."""
    parser = argparse.ArgumentParser(description="Measure AI SDK's socket beside /ws.")
    parser.add_argument("--folder", type=Path, help="where the database is; a disk, not a tmpfs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data, port = Path(folder) / "data", free_port()
        where = ["--host", HOST, "--port", str(port), "--data", str(data)]
        command = ["-m", "isolane", "serve", "--agent", "agent:stream", *where]
        os.environ["ISOLANE_LIMIT_FRAMES_PER_MINUTE"] = "100000"
        data.mkdir()
        with running(command, data / "isolane.log", port) as pid:
            target = Target("isolane", port, pid, make_tokens(data, 1))
            return 0 if uvloop.run(measure(target)) else 1


if __name__ == "__main__":
    sys.exit(main())
