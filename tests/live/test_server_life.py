"""Whole servers, one after the other in one process: a life leaves nothing behind for the next.

Each is told to stop by the signal that a supervisor sends, while runs are under way and sockets
and event streams are open; and each finds on disk what the one before it left.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
import uvloop
from pydantic import SecretStr
from tests.house import until
from tests.live.client import TERMINAL, Client, Follower, connect
from tests.live.event_stream import EventStream, open_stream
from tests.live.server import Looks
from tests.live.stage import SECRET_KEY, mint

from isolane.app import create_app
from isolane.doors.gateway import Gateway
from isolane.errors import ContractError
from isolane.server import Server, make_config
from isolane.settings import Settings
from isolane.sockets.open_factory import get_websocket_manager_factory

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal

USERS: Final = ("ann", "ben")
LISTENING: Final = "0A"
"""How the kernel's tables write the state of a socket that takes connections."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


async def patient(
    input: RunAgentInput,  # noqa: A002 - AG-UI's name for it
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncIterator[str]:
    """Say one word, and wait to be stopped."""
    del input, context
    yield "still "
    await stop.wait()


# --- what a process holds ------------------------------------------------------------------------


class Held(NamedTuple):
    """What a life could leave behind."""

    tasks: set[str]
    threads: Counter[str]
    descriptors: Counter[str]
    listening: int


def look() -> Held:
    """Return what the process holds now, the asking task left out."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return Held(
        tasks={task.get_name() for task in others},
        threads=Counter(thread.name for thread in threading.enumerate()),
        descriptors=Counter(target.partition(":")[0] for target in open_files()),
        listening=count_listening(),
    )


def open_files() -> list[str]:
    """Return what each descriptor of the process stands for."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one of this very listing
            targets.append(str(descriptor.readlink()))
    return targets


def count_listening() -> int:
    """Return how many sockets of the process take connections."""
    own = {target for target in open_files() if target.startswith("socket:")}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(row[3] == LISTENING and f"socket:[{row[9]}]" in own for row in rows)


async def look_for(wanted: Held) -> Held:
    """Return what is held once that is as wanted, or what is held after looks for 2 s."""
    async for _ in Looks(2):
        if look() == wanted:
            break
    return look()


# --- one life ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """A server that runs."""

    serving: asyncio.Task[None]
    gateway: Gateway
    address: str

    def connect(self, user: str, *, hello: bool = True) -> AbstractAsyncContextManager[Client]:
        """Open a socket of a user."""
        return connect(f"ws://{self.address}/ws", mint(user), hello=hello)

    @asynccontextmanager
    async def events(self, user: str, after: str) -> AsyncIterator[EventStream]:
        """Open an event stream of the user's thread."""
        headers = {"Authorization": f"Bearer {mint(user)}"}
        async with (
            httpx.AsyncClient(
                base_url=f"http://{self.address}", headers=headers, trust_env=False
            ) as http,
            open_stream(http, f"/api/threads/t/events?after={after}") as stream,
        ):
            yield stream


def configure(settings: Settings) -> uvicorn.Config:
    """Return what `isolane serve` runs with, on a port that is free."""
    app = create_app(settings, {"patient": patient})
    return make_config(app, settings, host="127.0.0.1", port=0)


@asynccontextmanager
async def begin_life(data: Path) -> AsyncIterator[Life]:
    """Start a server, and end it with the block if it still runs."""
    settings = Settings(data=data, secret_key=SecretStr(SECRET_KEY), drain_timeout_s=0)
    opened: asyncio.Future[tuple[Gateway, str]] = asyncio.get_running_loop().create_future()

    async def greet(gateway: Gateway, url: str) -> None:
        opened.set_result((gateway, urlsplit(url).netloc))

    server = Server(configure(settings), greet=greet)
    serving = asyncio.create_task(server.serve())
    try:
        either: set[asyncio.Future[Any]] = {serving, opened}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        assert opened.done(), "the server ended before it answered"
        yield Life(serving, *opened.result())
    finally:
        server.should_exit = True
        await serving


async def live(data: Path, followers: dict[str, Follower], number: int) -> Gateway:
    """Start, serve two users, stop in the middle of their runs; return what served them."""
    async with begin_life(data) as life, AsyncExitStack() as stack:
        assert get_websocket_manager_factory() is life.gateway.factory
        clients = [await ask(stack, life, user, followers[user], f"run-{number}") for user in USERS]
        clients.append(await stack.enter_async_context(life.connect("ann", hello=False)))
        stream = await stack.enter_async_context(life.events("ann", followers["ann"].cursor))
        await until(lambda: life.gateway.sockets.connection_count == len(clients))
        assert look().listening == 1
        assert not life.serving.done()  # else nobody would take the signal
        signal.raise_signal(signal.SIGTERM)
        for client in clients:
            assert await client.closed() == (1001, "going_away")
        assert (await stream.rest())[-1].event["code"] == "going_away"
        await life.serving
        return life.gateway


async def ask(
    stack: AsyncExitStack, life: Life, user: str, follower: Follower, run_id: str
) -> Client:
    """Go on with the user's thread, and begin a run there that waits to be stopped."""
    client = await stack.enter_async_context(life.connect(user))
    assert client.welcome is not None
    assert client.welcome["activeRuns"] == []
    await client.follow(follower)
    await client.run("t", run_id, "go")
    await client.until_event("TEXT_MESSAGE_CONTENT", run_id)
    return client


def assert_let_go(gateway: Gateway) -> None:
    """Fail when a gateway that was stopped holds anything, or can be found."""
    factory = gateway.factory
    held = (gateway.sockets.connection_count, factory.manager_count, factory.follower_count)
    assert (held, len(gateway.tasks), gateway.feed.readers) == ((0, 0, 0), 0, 0)
    assert gateway.service.active_count == 0
    with pytest.raises(ContractError):
        get_websocket_manager_factory()


# --- and the next --------------------------------------------------------------------------------


async def live_again_and_again(data: Path, *, lives: int) -> None:
    """Compare what is held after each life with what was held after the first one."""
    # More threads than one may start when a free one has not yet said that it is free.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    followers = {user: Follower("t", "0-0") for user in USERS}
    sockets = look().descriptors["socket"]
    assert_let_go(await live(data, followers, 0))
    await until(lambda: look().descriptors["socket"] == sockets)
    first = look()
    assert (first.tasks, first.listening) == (set(), 0)
    assert not [name for name in first.descriptors if name.startswith(str(data))]
    for number in range(1, lives):
        assert_let_go(await live(data, followers, number))
        assert await look_for(first) == first
    for follower in followers.values():
        assert_all_ended(follower, lives)


def assert_all_ended(follower: Follower, lives: int) -> None:
    """Fail unless the log holds one run of each life, with one end that says why."""
    for number in range(lives):
        *_, end = run = follower.of_run(f"run-{number}")
        assert (end["type"], end["code"]) == ("RUN_ERROR", "going_away")
        assert sum(event["type"] in TERMINAL for event in run) == 1


# Raised within uvloop's own close, it would keep that from ever ending; the test counts for itself.
@pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning")
@pytest.mark.parametrize(
    "new_loop,lives",
    [
        pytest.param(uvloop.new_event_loop, 20, id="uvloop"),  # what `isolane serve` runs on
        pytest.param(asyncio.new_event_loop, 5, id="asyncio"),  # what a host may run on
    ],
)
def test_server_that_stops_leaves_its_process_as_it_was(
    tmp_path: Path, new_loop: LoopFactory, lives: int
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(live_again_and_again(tmp_path / "data", lives=lives))
