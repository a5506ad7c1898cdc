"""Measure the check at the door: what `ensure` takes, and what it adds to making a manager.

`python bench/manager.py`; some seconds. `README.md` says how to read what it prints.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from timeit import Timer

import uvloop
from ag_ui.core import RunAgentInput

from isolane.agents.function import adapt_function
from isolane.app import open_gateway
from isolane.context import UserExecutionContext
from isolane.contracts import WebSocketManagerProtocol, ensure
from isolane.errors import ContractError
from isolane.logs import configure_logs
from isolane.settings import Settings
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.open_factory import create_websocket_manager

REPEATS = 9
CALLS = 20_000
CALLS_REFUSED = 500
ROUNDS = 60
THREADS = 200
"""Managers made in one round, each way."""

KNOWN = "ensure, an object of a class it knows"
UNCHECKED = "a new manager, unchecked"
CHECKED = "a new manager, then ensure"
PUBLIC = "create_websocket_manager"

Create = Callable[[UserExecutionContext], Awaitable[WebSocketManagerProtocol]]


class Wrong:
    """Looks like a manager at first sight, and lacks everything else."""

    async def close(self) -> None:
        """Do nothing."""


async def silent(run: RunAgentInput) -> AsyncIterator[str]:
    """Be the agent that a gateway needs, which is never asked."""
    del run
    yield ""


def time_call_s(call: Callable[[], object], *, calls: int) -> float:
    """Return what one call takes, in seconds, in the quietest of several repeats."""
    return min(Timer(call).repeat(REPEATS, calls)) / calls


def refuse(value: object) -> None:
    """Have an object refused."""
    try:
        ensure(value, WebSocketManagerProtocol)
    except ContractError:
        return
    raise AssertionError(f"{value!r} was let in")


async def time_round_s(create: Create, contexts: Sequence[UserExecutionContext]) -> float:
    """Return what it takes to make a manager for each context; they are let go afterwards."""
    began_s = time.perf_counter()
    managers = [await create(context) for context in contexts]
    took_s = time.perf_counter() - began_s
    for manager in managers:
        await manager.close()
    return took_s


async def compare(factory: WebSocketManagerFactory) -> list[dict[str, float]]:
    """Return each round's time for each way to a manager; they take turns in going first."""

    async def create_checked(context: UserExecutionContext) -> WebSocketManagerProtocol:
        return ensure(await factory.create_manager(context), WebSocketManagerProtocol)

    async def create_unchecked(context: UserExecutionContext) -> WebSocketManagerProtocol:
        return await factory.create_manager(context)

    ways: list[tuple[str, Create]] = [
        (UNCHECKED, create_unchecked),
        (CHECKED, create_checked),
        (PUBLIC, create_websocket_manager),
    ]
    user = UserExecutionContext(user_id="u1")
    contexts = [user.for_thread(f"t{number}") for number in range(THREADS)]
    rounds = []
    for _ in range(ROUNDS):
        ways = [*ways[1:], ways[0]]
        rounds.append({name: await time_round_s(create, contexts) for name, create in ways})
    return rounds


async def measure(data: Path) -> None:
    """Open a gateway, measure with what it makes, and print the figures."""
    settings = Settings(data=data, database_url="sqlite://", limit_threads_per_user=THREADS)
    async with open_gateway(settings, {"silent": adapt_function(silent, name="silent")}) as gateway:
        context = UserExecutionContext(user_id="u1").for_thread("t")
        manager = await create_websocket_manager(context)
        kept_s = time_call_s(lambda: ensure(manager, WebSocketManagerProtocol), calls=CALLS)
        refused_s = time_call_s(lambda: refuse(Wrong()), calls=CALLS_REFUSED)
        await manager.close()
        rounds = await compare(gateway.factory)
    show(kept_s, refused_s, rounds)


def show(kept_s: float, refused_s: float, rounds: Sequence[Mapping[str, float]]) -> None:
    """Print the figures."""
    print(f"{KNOWN:<42}{kept_s * 1e6:>8.2f} us")
    print(f"{'ensure, a wrong object':<42}{refused_s * 1e6:>8.2f} us")
    for name in (UNCHECKED, CHECKED, PUBLIC):
        least_s = min(times[name] for times in rounds) / THREADS
        more = median(times[name] / times[UNCHECKED] for times in rounds) - 1
        print(f"{name:<42}{least_s * 1e6:>8.2f} us{more:>+8.1%}")


def main() -> None:
    """Measure and print."""
    configure_logs("console")  # to stderr, apart from the figures
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(measure(Path(folder)))


if __name__ == "__main__":
    main()
