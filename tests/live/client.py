"""A thin client of the wire for tests, and a recorder that checks what it is given as it comes.

It speaks `agui.v1` frame by frame and keeps no state of its own beyond what the tests look at, so
that a test can also say what no proper client would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tests.live.untold import note
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

Frame: TypeAlias = dict[str, Any]
Wanted: TypeAlias = Callable[[Frame], bool]

SUBPROTOCOL: Final = Subprotocol("agui.v1")
RECV_TIMEOUT_S: Final = 10.0
TERMINAL: Final = frozenset({"RUN_FINISHED", "RUN_ERROR"})


@dataclass
class Follower:
    """What one subscription to one thread has applied: every entry once, in order, none missing.

    `after` is the id where the subscription began; `apply()` fails the test at the first id that
    is not the next one. It outlives its socket: another one goes on with it by `follow()`.
    """

    thread_id: str
    after: str
    envelopes: list[Frame] = field(default_factory=list)

    @property
    def cursor(self) -> str:
        """The id to resume after."""
        newest: str = self.envelopes[-1]["id"] if self.envelopes else self.after
        return newest

    @property
    def events(self) -> list[Frame]:
        """The applied events."""
        return [envelope["chunk"] for envelope in self.envelopes]

    @property
    def types(self) -> list[str]:
        """The applied events' types."""
        return [event["type"] for event in self.events]

    @property
    def texts(self) -> dict[str, str]:
        """The text of each message, by its id, in the order in which they began."""
        texts: dict[str, str] = {}
        for event in self.events:
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                message_id = event["messageId"]
                texts[message_id] = texts.get(message_id, "") + event["delta"]
        return texts

    @property
    def text(self) -> str:
        """All text that was applied."""
        return "".join(self.texts.values())

    def of_run(self, run_id: str) -> list[Frame]:
        """Return the applied events of one run."""
        return [e["chunk"] for e in self.envelopes if e["runId"] == run_id]

    def has_ended(self, run_id: str) -> bool:
        """Say whether the run's terminal event was applied."""
        return any(event["type"] in TERMINAL for event in self.of_run(run_id))

    def apply(self, envelope: Frame) -> None:
        """Take the next entry; fails when it is not the next one."""
        assert envelope.keys() == {"id", "chunk", "threadId", "runId"}, envelope
        assert isinstance(envelope["id"], str), envelope
        assert envelope["threadId"] == self.thread_id, envelope
        epoch, seq = parse_id(envelope["id"])
        last_epoch, last_seq = parse_id(self.cursor)
        assert seq == last_seq + 1, f"{envelope['id']} came after {self.cursor}"
        # The position before the first entry is the same in every epoch.
        assert epoch == last_epoch or last_seq == 0, f"{envelope['id']} came after {self.cursor}"
        self.envelopes.append(envelope)


def parse_id(event_id: str) -> tuple[str, int]:
    """Return epoch and number of an id; tests may look inside, clients may not."""
    epoch, _, seq = event_id.rpartition("-")
    return epoch, int(seq)


@dataclass(eq=False)
class Client:
    """One socket. Frames come by `recv()` and `until()`; envelopes reach their followers too."""

    socket: ClientConnection
    followers: dict[str, Follower] = field(default_factory=dict)
    welcome: Frame | None = None

    async def greet(self) -> None:
        """Say hello and keep the welcome."""
        await self.send({"type": "hello", "v": 1})
        self.welcome = await self.until_type("welcome")

    async def send(self, frame: Mapping[str, object] | str | bytes) -> None:
        """Send a frame; text and bytes go out as they are."""
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def recv(self, *, timeout_s: float = RECV_TIMEOUT_S) -> Frame:
        """Return the next frame that is no ping. Raises ConnectionClosed once the socket is."""
        async with asyncio.timeout(timeout_s):
            while True:
                text = await self.socket.recv()
                assert isinstance(text, str), "the server never sends binary"
                frame = self._read(text)
                if frame != {"type": "ping"}:
                    return self._note(frame)

    async def until_true(self, condition: Callable[[], bool]) -> None:
        """Take frames until what they brought is as wanted: at once, when it is so already."""
        async with asyncio.timeout(RECV_TIMEOUT_S):
            while not condition():
                await self.recv()

    async def until(self, wanted: Wanted, *, timeout_s: float = RECV_TIMEOUT_S) -> list[Frame]:
        """Return the frames up to and with the first one that is wanted."""
        frames: list[Frame] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not frames or not wanted(frames[-1]):
                    frames.append(await self.recv(timeout_s=timeout_s))
        except TimeoutError:
            raise TimeoutError(f"not in {timeout_s} s; got {frames[-8:]}") from None
        return frames

    async def until_type(self, kind: str, *, timeout_s: float = RECV_TIMEOUT_S) -> Frame:
        """Return the next control frame of that type."""
        frames = await self.until(lambda f: f.get("type") == kind, timeout_s=timeout_s)
        return frames[-1]

    async def until_event(
        self, kind: str, run_id: str | None = None, *, timeout_s: float = RECV_TIMEOUT_S
    ) -> Frame:
        """Return the next envelope with an event of that type, of that run."""
        frames = await self.until(
            lambda f: is_event(f, kind) and run_id in {None, f.get("runId")}, timeout_s=timeout_s
        )
        return frames[-1]

    async def until_end(self, run_id: str, *, timeout_s: float = RECV_TIMEOUT_S) -> Frame:
        """Return the run's terminal envelope."""
        frames = await self.until(
            lambda f: f.get("runId") == run_id and is_terminal(f), timeout_s=timeout_s
        )
        return frames[-1]

    async def run(self, thread_id: str, run_id: str, text: str, **fields: object) -> None:
        """Send a run frame that adds one user message, `<run id>-question`."""
        await self.send(run_frame(thread_id, run_id, text, **fields))

    async def abort(self, run_id: str) -> None:
        """Ask for a run's end."""
        await self.send({"type": "abort", "runId": run_id})

    async def subscribe(self, thread_id: str, after: str | None = None) -> Follower:
        """Follow a thread from `after`, or its start, and return a new recorder.

        A gap (`recovered` false) fails the test; who expects one sends the frame by hand.
        """
        head = await self._subscribe(thread_id, after)
        start = after or f"{parse_id(head)[0]}-0"
        self.followers[thread_id] = Follower(thread_id, start)
        return self.followers[thread_id]

    async def follow(self, follower: Follower) -> None:
        """Go on with a recorder that another socket has fed, from where it stands."""
        await self._subscribe(follower.thread_id, follower.cursor)
        self.followers[follower.thread_id] = follower

    async def closed(self, *, timeout_s: float = RECV_TIMEOUT_S) -> tuple[int | None, str]:
        """Read on until the server closes and return code and reason; None is a broken socket."""
        async with asyncio.timeout(timeout_s):
            try:
                while True:
                    await self.recv(timeout_s=timeout_s)
            except ConnectionClosed:
                return self.socket.close_code, self.socket.close_reason or ""

    async def _subscribe(self, thread_id: str, after: str | None) -> str:
        """Subscribe and return the head that the answer names."""
        # What still comes for the subscription before this one belongs to nobody.
        self.followers.pop(thread_id, None)
        start = {} if after is None else {"after": after}
        await self.send({"type": "subscribe", "threadId": thread_id} | start)
        answer = await self.until_type("subscribed")
        assert answer["threadId"] == thread_id, answer
        assert answer["recovered"] is True, answer
        return str(answer["head"])

    def _read(self, text: str) -> Frame:
        frame: Frame = json.loads(text)
        return frame

    def _note(self, frame: Frame) -> Frame:
        if "chunk" in frame and frame["threadId"] in self.followers:
            self.followers[frame["threadId"]].apply(frame)
        return frame


def is_event(frame: Frame, kind: str) -> bool:
    """Say whether a frame is an envelope with an event of that type."""
    return "chunk" in frame and frame["chunk"]["type"] == kind


def is_terminal(frame: Frame) -> bool:
    """Say whether a frame is the envelope of a run's end."""
    return "chunk" in frame and frame["chunk"]["type"] in TERMINAL


def outcome_of(end: Frame) -> str:
    """Return how a run ended, by its terminal event: the type of its outcome, or its code."""
    return str(end["code"] if end["type"] == "RUN_ERROR" else end["outcome"]["type"])


def run_frame(thread_id: str, run_id: str, text: str, **fields: object) -> Frame:
    """Return a RunAgentInput that adds one user message; `fields` add to it or replace."""
    question = {"id": f"{run_id}-question", "role": "user", "content": note(text)}
    return {
        "threadId": thread_id,
        "runId": run_id,
        "state": {},
        "messages": [question],
        "tools": [],
        "context": [],
        "forwardedProps": {},
        **fields,
    }


@asynccontextmanager
async def connect(url: str, token: str | None, *, hello: bool = True) -> AsyncIterator[Client]:
    """Open a socket at a WebSocket URL, greet, and close it with the block.

    Without a token nothing is offered as a credential; without `hello` only data frames come.
    """
    offered = [f"bearer.{token}"] if token else []
    async with open_socket(url, *offered) as socket:
        yield await begin(socket, hello=hello)


def open_socket(url: str, *offered: str, **headers: str) -> open_websocket:
    """Open a socket of `agui.v1`, to be awaited or entered, which offers these subprotocols too."""
    return open_websocket(
        url,
        subprotocols=[SUBPROTOCOL, *map(Subprotocol, offered)],
        additional_headers=headers,
        compression=None,
        max_size=None,
        proxy=None,
        ping_interval=None,
        close_timeout=2.0,
    )


async def begin(socket: ClientConnection, *, hello: bool) -> Client:
    """Return a client on an open socket, greeted if so wanted."""
    client = Client(socket)
    if hello:
        await client.greet()
    return client
