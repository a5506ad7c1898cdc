"""Measure what the chat doors cost beside `/ws`, in one run: those of AI SDK and of OpenAI.

`python bench/chats.py`; about two minutes. `README.md` says how to read what it prints.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final
from uuid import uuid4

from line import Answer, Line
from machine import Turns, read_cpu_s
from pace import Pace
from servers import HOST, Server, make_tokens, serve_isolane
from wire import TEXT, encode_frame

EVENTS: Final = 2_000
RATE: Final = 1_000
"""Events a second of the one run that is followed."""
ROUNDS: Final = 6
AT_ONCE: Final = 0
"""Rate of a run that is over as soon as it can be."""
REPLAYED: Final = 1_000
REPLAYS: Final = 40
BEFORE: Final = 499
STARTS: Final = 20
"""Of each length at each door. Their bytes stay below the pace of large bodies."""
FOLLOWED_MAX: Final = 1.3
REPLAY_MAX_S: Final = 0.015
START_MORE_MAX_S: Final = 0.010
WORDS: Final = "What one says in a conversation, at some length. " * 4


class Door(ABC):
    """A way to ask an agent, to follow its answer, and to read that again."""

    path: str
    first: bytes
    """Stands in each event of an answer."""
    last: bytes
    """Stands at the end of an answer."""

    def __init__(self, port: int, token: str) -> None:
        """Come as the user of `token`."""
        self.port = port
        self.token = token

    def open(self) -> Line:
        """Return a line on which requests may be sent."""
        return Line(self.port)

    def ask(self, line: Line, sent: bytes) -> Answer:
        """Send a request and read its answer to the end."""
        return line.ask(sent, first=self.first, last=self.last)

    @abstractmethod
    def to_turn(self, chat: str, props: Mapping[str, str], *, before: int = 0) -> bytes:
        """Return the request that asks once, behind so many earlier messages."""


class Again(ABC):
    """A door whose answers can be read again."""

    @abstractmethod
    def to_replays(self, chat: str, asked: bytes, answer: Answer) -> Mapping[str, bytes]:
        """Return the requests for what came for a turn of a chat, by what they are called."""


class OfSocket(Door):
    """A door on a WebSocket."""

    def open(self) -> Line:
        """Return a line that has been upgraded."""
        line = super().open()
        line.upgrade(self.path, self.token)
        return line

    def to_frame(self, said: Mapping[str, Any]) -> bytes:
        """Return a frame."""
        return encode_frame(TEXT, json.dumps(said).encode())


class OfHttp(Door):
    """A door that takes a request for each turn. A connection is used again and again."""

    first = b"data: "
    last = b"\r\n0\r\n\r\n"  # the end of what comes in pieces

    def to_request(
        self, said: Mapping[str, Any] | None, *, path: str = "", headers: Sequence[str] = ()
    ) -> bytes:
        """Return a request, with a body or without."""
        body = b"" if said is None else json.dumps(said).encode()
        lines = [
            f"{'GET' if said is None else 'POST'} {path or self.path} HTTP/1.1",
            f"Host: {HOST}:{self.port}",
            f"Authorization: Bearer {self.token}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body


class Threads(OfSocket):
    """`/ws`, the yardstick."""

    path = "/ws"
    first = b'"TEXT_MESSAGE_CONTENT"'
    last = b'"RUN_FINISHED"'

    def to_turn(self, chat: str, props: Mapping[str, str], *, before: int = 0) -> bytes:
        """Return a run's frame."""
        del before
        question = {"id": str(uuid4()), "role": "user", "content": "Speak."}
        return self.to_frame(
            {
                "threadId": chat,
                "runId": str(uuid4()),
                "messages": [question],
                "state": {},
                "tools": [],
                "context": [],
                "forwardedProps": props,
            }
        )


def _to_chat(chat: str, before: int) -> dict[str, Any]:
    """Return what both of AI SDK's transports send: a question behind so many earlier ones."""
    parts = [{"type": "text", "text": WORDS}]
    ids = [*(f"{chat}-{number}" for number in range(before)), str(uuid4())]
    messages = [{"id": each, "role": "user", "parts": parts} for each in ids]
    return {"id": chat, "trigger": "submit-message", "messages": messages}


class ChatSocket(OfSocket, Again):
    """AI SDK over a WebSocket."""

    path = "/ai/chat"
    first = b'"type":"chunk"'
    last = b'"type":"end"'

    def to_turn(self, chat: str, props: Mapping[str, str], *, before: int = 0) -> bytes:
        """Return a frame that sends a turn."""
        head = {"type": "send", "requestId": str(uuid4()), "body": {"forwardedProps": props}}
        return self.to_frame({**head, **_to_chat(chat, before)})

    def to_replays(self, chat: str, asked: bytes, answer: Answer) -> Mapping[str, bytes]:
        """Return a frame that resumes. Its id is in use once only, as its request has ended."""
        del asked, answer
        frame = {"type": "resume", "requestId": "again", "id": chat}
        return {"resume": self.to_frame(frame)}


class ChatHttp(OfHttp, Again):
    """AI SDK over HTTP."""

    path = "/ai/chat"

    def to_turn(self, chat: str, props: Mapping[str, str], *, before: int = 0) -> bytes:
        """Return a request that sends a turn."""
        return self.to_request({**_to_chat(chat, before), "forwardedProps": props})

    def to_replays(self, chat: str, asked: bytes, answer: Answer) -> Mapping[str, bytes]:
        """Return a request for the chat's stream."""
        del asked, answer
        return {"stream": self.to_request(None, path=f"{self.path}/{chat}/stream")}


def _to_list(before: int) -> list[dict[str, str]]:
    """Return a question behind so many earlier messages, of a user and an assistant in turns."""
    roles = [("assistant", "user")[number % 2] for number in reversed(range(before))]
    earlier = [{"role": role, "content": WORDS} for role in roles]
    return [*earlier, {"role": "user", "content": "Speak."}]


class Completions(OfHttp, Again):
    """OpenAI's Chat Completions. Each request has a thread of its own, and brings its history."""

    path = "/v1/chat/completions"

    def to_turn(self, chat: str, props: Mapping[str, str], *, before: int = 0) -> bytes:
        """Return a request that may be repeated."""
        said = {"model": "default", "stream": True, "metadata": props, "messages": _to_list(before)}
        return self.to_request(said, headers=[f"Idempotency-Key: {chat}-{uuid4()}"])

    def to_replays(self, chat: str, asked: bytes, answer: Answer) -> Mapping[str, bytes]:
        """Return the same request: this API has no other way to an answer that was lost."""
        del chat, answer
        return {"the same key": asked}


class Responses(OfHttp, Again):
    """OpenAI's Responses. Each request has a thread of its own, and brings its history."""

    path = "/v1/responses"

    def to_turn(self, chat: str, props: Mapping[str, str], *, before: int = 0) -> bytes:
        """Return a request."""
        del chat
        said = {"model": "default", "stream": True, "metadata": props, "input": _to_list(before)}
        return self.to_request(said)

    def to_replays(self, chat: str, asked: bytes, answer: Answer) -> Mapping[str, bytes]:
        """Return requests for the response's events: for all, and for the second half."""
        del chat, asked
        found = re.search(rb'"id":"(resp_[^"]+)"', answer.content)
        assert found is not None  # noqa: S101 - the first event has it
        path = f"{self.path}/{found[1].decode()}?stream=true"
        half = f"{path}&starting_after={REPLAYED // 2}"
        return {
            "stream": self.to_request(None, path=path),
            f"starting_after={REPLAYED // 2}": self.to_request(None, path=half),
        }


DOORS: Final[Sequence[Callable[[int, str], Door]]] = (
    ChatSocket,
    ChatHttp,
    Completions,
    Responses,
)


def pace_of(events: int, rate: int) -> dict[str, str]:
    """Return what makes an agent say so many events, at so many per second."""
    return {"pace": str(Pace(rate, events=events))}


def to_ms(took_s: Sequence[float]) -> str:
    """Return the median of times for a table, and the shortest one."""
    return f"{median(took_s) * 1e3:5.1f} ms (shortest {min(took_s) * 1e3:5.1f})"


def name_of(door: Door) -> str:
    """Return how a door is called in a table."""
    return f"{door.path}{' (WebSocket)' if isinstance(door, OfSocket) else ''}"


def measure_following(doors: Sequence[Door], server: Server) -> bool:
    """Print the server's CPU for each followed event; say whether each door stays in its bound."""
    rounds = range(ROUNDS + 1)
    spent = [[_follow(door, server, f"followed-{number}") for door in doors] for number in rounds]
    del spent[0]  # of caches
    print(f"server CPU for a followed event, {RATE} events a second, {ROUNDS} rounds in turns:")
    ratios: list[float] = []
    for place, door in enumerate(doors):
        own = median(one[place] for one in spent) / EVENTS * 1e6
        ratios.append(median(one[place] / one[0] for one in spent))
        bound = f", at most {FOLLOWED_MAX}" if place else ""
        print(f"  {name_of(door):24} {own:7.1f} us   {ratios[-1]:5.2f} times /ws{bound}")
    return max(ratios) <= FOLLOWED_MAX


def _follow(door: Door, server: Server, chat: str) -> float:
    """Return the server's CPU seconds while one run is followed at a door."""
    line = door.open()
    before = read_cpu_s(server.pid)
    door.ask(line, door.to_turn(chat, pace_of(EVENTS, RATE)))
    spent = read_cpu_s(server.pid) - before
    line.close()
    return spent


def measure_replays(doors: Sequence[Door], server: Server) -> bool:
    """Print what it takes to tell a turn again; say whether each door stays in its bound."""
    print(
        f"a turn of {REPLAYED} deltas told again, to a socket that parses nothing, {REPLAYS} times:"
    )
    slowest_s = 0.0
    for door in doors:
        assert isinstance(door, Again)  # noqa: S101 - all but the yardstick are
        line = door.open()
        asked = door.to_turn("replayed", pace_of(REPLAYED, AT_ONCE))
        for name, again in door.to_replays("replayed", asked, door.ask(line, asked)).items():
            answer = door.ask(line, again)
            told, least = answer.content.count(door.first), REPLAYED // 2
            if told < least:
                raise RuntimeError(f"{name_of(door)} told {told} events, not {least} at least")
            turns, before = Turns.read(server.pid), read_cpu_s(server.pid)
            took_s = [door.ask(line, again).last_s for _ in range(REPLAYS)]
            cpu_s = (read_cpu_s(server.pid) - before) / REPLAYS
            stretch = Turns.read(server.pid).stretch_since(turns)
            slowest_s = max(slowest_s, median(took_s) / stretch)
            print(
                f"  {name_of(door):24} {to_ms(took_s)} until the last byte, at most "
                f"{REPLAY_MAX_S * 1e3:.0f} ms; {cpu_s * 1e3:5.1f} ms of server CPU; "
                f"stretch {stretch:.1f}; {told} events, {len(answer.content) // 1024} KiB ({name})"
            )
        line.close()
    return slowest_s <= REPLAY_MAX_S


def measure_starts(doors: Sequence[Door], server: Server) -> bool:
    """Print what known messages cost the start of a run; say whether each stays in its bound."""
    print(
        f"until the first event of a question alone, and behind {BEFORE} messages, {STARTS} times:"
    )
    most_s = 0.0
    for door in doors:
        line = door.open()
        took: dict[int, list[float]] = {0: [], BEFORE: []}
        door.ask(line, door.to_turn("long", pace_of(1, AT_ONCE), before=BEFORE))
        turns = Turns.read(server.pid)
        for _ in range(STARTS):
            for before, own in took.items():
                turn = door.to_turn("long", pace_of(1, AT_ONCE), before=before)
                own.append(door.ask(line, turn).first_s)
        stretch = Turns.read(server.pid).stretch_since(turns)
        one, many = took.values()
        # Each pair is of one moment, and so are their neighbours.
        more_s = median(after - before for before, after in zip(one, many, strict=True))
        most_s = max(most_s, more_s / stretch)
        print(
            f"  {name_of(door):24} {to_ms(one)} and {to_ms(many)}: {more_s * 1e3:5.1f} ms more, "
            f"at most {START_MORE_MAX_S * 1e3:.0f} ms; stretch {stretch:.1f}"
        )
        line.close()
    return most_s <= START_MORE_MAX_S


def measure(server: Server) -> bool:
    """Measure and print; say whether all of it stays within its bounds."""
    tokens = server.tokens
    doors = [door(server.port, token) for door, token in zip(DOORS, tokens[1:], strict=True)]
    is_kept = [
        measure_following([Threads(server.port, tokens[0]), *doors], server),
        measure_replays(doors, server),
        measure_starts(doors, server),
    ]
    return all(is_kept)


def main() -> int:
    """Start a gateway and measure it; return 1 when a bound is passed."""
    parser = argparse.ArgumentParser(description="Measure the chat doors beside /ws.")
    parser.add_argument("--folder", type=Path, help="where the database is; a disk, not a tmpfs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tokens = make_tokens(1 + len(DOORS))
        env = {"ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000"}
        with serve_isolane(Path(folder) / "data", "agent:stream", tokens, env=env) as server:
            return 0 if measure(server) else 1


if __name__ == "__main__":
    sys.exit(main())
