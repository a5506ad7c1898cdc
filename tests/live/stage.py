"""What the tests of the protocol share: a server for a whole module, and each test's own user.

Tests that share a server share its event loop too, so such a module says
`pytestmark = pytest.mark.asyncio(loop_scope="module")`.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import jwt
import pytest
import pytest_asyncio
from tests.live.client import Client, Follower, Frame, connect, is_terminal, parse_id
from tests.live.server import Server, running_server
from tests.live.untold import note
from websockets.exceptions import ConnectionClosed

SECRET_KEY: Final = note("the live tests sign their own tokens with this key")
SCRIPT: Final = "script=protocol_agents:script"
"""The agent that most tests serve, as the default."""
_numbers: Final[Iterator[int]] = count(1)


def mint(
    user: str,
    *,
    expires_s: float = 3600,
    key: str = SECRET_KEY,
    algorithm: str = "HS256",
    **claims: object,
) -> str:
    """Return a token as `isolane token` prints it, without the second that a process costs."""
    now_s = time.time()
    every = {"sub": user, "iat": int(now_s), "exp": int(now_s + expires_s), **claims}
    present = {name: value for name, value in every.items() if value is not None}
    return note(jwt.encode(present, key, algorithm=algorithm))


def steps(*all_steps: list[Any]) -> str:
    """Return the message that makes the agent `script` do these steps."""
    return json.dumps(all_steps)


def kept_events(count: int) -> dict[str, str]:
    """Return the settings with which a thread keeps so many events, of which a run may have all."""
    return {"ISOLANE_LOG_MAX_EVENTS": str(count), "ISOLANE_LIMIT_RUN_EVENTS": str(count)}


@dataclass(frozen=True)
class Lane:
    """One user on a server, whom no other test knows."""

    server: Server
    user: str = field(default_factory=lambda: f"user-{next(_numbers)}")

    @property
    def token(self) -> str:
        """A fresh token of the user."""
        return mint(self.user)

    def connect(
        self, *, agent: str | None = None, hello: bool = True
    ) -> AbstractAsyncContextManager[Client]:
        """Open a socket."""
        return connect(self.server.websocket_url(agent), self.token, hello=hello)

    def connect_with(self, token: str) -> AbstractAsyncContextManager[Client]:
        """Open a socket with a token of the test's own making, without hello."""
        return connect(self.server.websocket_url(), token, hello=False)

    def replay(self, run_id: str, offset: str = "-1") -> AbstractAsyncContextManager[Client]:
        """Open a read-only socket that replays one run."""
        query = urlencode({"runId": run_id, "offset": offset})
        return connect(f"{self.server.websocket_url()}?{query}", self.token, hello=False)

    async def open_gate(self, gate: str) -> None:
        """Let the runs go on that hold at a gate."""
        keeper = Lane(self.server)
        async with keeper.connect(agent="script", hello=False) as client:
            await client.run("gates", "opener", steps(["open", gate]))
            await client.until_end("opener")

    async def finish(
        self, client: Client, thread_id: str, run_id: str, text: str, **fields: object
    ) -> Frame:
        """Run to the end and return the terminal envelope."""
        await client.run(thread_id, run_id, text, **fields)
        return await client.until_end(run_id)

    async def play(
        self, thread_id: str, run_id: str, text: str, *, agent: str | None = None, **fields: object
    ) -> list[Frame]:
        """Run to the end on a socket of its own and return the run's events."""
        async with self.connect(agent=agent, hello=False) as client:
            await client.run(thread_id, run_id, text, **fields)
            frames = await client.until(is_terminal)
        return [frame["chunk"] for frame in frames]

    async def load_log(self, thread_id: str) -> Follower:
        """Return what the whole log of a thread holds now."""
        async with self.connect() as client:
            return await caught_up(client, thread_id)


async def caught_up(client: Client, thread_id: str, after: str | None = None) -> Follower:
    """Subscribe and return the follower once it has reached the head of that moment."""
    await client.send({"type": "subscribe", "threadId": thread_id, "after": after})
    answer = await client.until_type("subscribed")
    assert answer["recovered"] is True, answer
    epoch, head_seq = parse_id(answer["head"])
    follower = client.followers[thread_id] = Follower(thread_id, after or f"{epoch}-0")
    if head_seq > parse_id(follower.after)[1]:
        await client.until(lambda frame: frame.get("id") == answer["head"])
    return follower


async def settled(client: Client) -> list[Frame]:
    """Return what still comes on a socket, of its own threads, for all that was done before.

    A run on a thread of its own takes the way of every event, so what was to come has come when it
    has ended. News of threads, which come unasked, are left out.
    """
    fence = f"fence-{next(_numbers)}"
    await client.run(fence, fence, "over")
    frames = await client.until(lambda frame: frame.get("runId") == fence and is_terminal(frame))
    return [
        frame
        for frame in frames
        if frame.get("threadId") != fence and frame.get("type") != "thread"
    ]


def text_of(events: list[Frame]) -> str:
    """Return what the messages among `events` say."""
    deltas = [e["delta"] for e in events if e["type"] == "TEXT_MESSAGE_CONTENT"]
    return "".join(deltas)


def types_of(events: list[Frame]) -> list[str]:
    """Return the types of `events`."""
    return [event["type"] for event in events]


def envelopes(frames: list[Frame]) -> list[Frame]:
    """Return the data frames among `frames`."""
    return [frame for frame in frames if "chunk" in frame]


async def read_to_close(client: Client) -> tuple[list[Frame], tuple[int | None, str]]:
    """Return every frame up to the close, and the close."""
    frames: list[Frame] = []
    try:
        while True:
            frames.append(await client.recv())
    except ConnectionClosed:
        return frames, (client.socket.close_code, client.socket.close_reason or "")


def shared_server(*agents: str, env: Mapping[str, str] | None = None) -> Callable[..., Any]:
    """Return a fixture: one server for all tests of a module, which must stop with clean output."""

    async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
        async with own_server(tmp_path_factory.mktemp("shared") / "data", *agents, env=env) as one:
            yield one

    made: Callable[..., Any] = pytest_asyncio.fixture(scope="module", loop_scope="module")(server)
    return made


@asynccontextmanager
async def own_server(
    data: Path,
    *agents: str,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    command: str = "serve",
    options: tuple[str, ...] = (),
) -> AsyncIterator[Server]:
    """Start a server whose tokens the tests sign; it must have stopped with clean output."""
    settings = {"ISOLANE_SECRET_KEY": SECRET_KEY, "ISOLANE_DRAIN_TIMEOUT_S": "1", **(env or {})}
    async with running_server(
        data, *agents, env=settings, port=port, command=command, options=options
    ) as server:
        yield server
    server.assert_clean(traceback_allowed=True)
