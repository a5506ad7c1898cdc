"""Agents that do what the user's message says, and what is no agent.

Served as `--agent name=protocol_agents:attribute`.

A message that is JSON is a list of steps; the words of any other are said back. Gates let a test
decide when a run goes on: `hold` waits for one, and `open`, from a run of whichever user, opens it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from unittest.mock import Mock

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal

FOLDER: Final = "PROTOCOL_AGENTS_FOLDER"
"""Names where the signs are that blocks wait for: who is blocked can be told nothing else."""
_gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


class UnspeakableError(Exception):
    """An error that can't even be told."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no words")


_RAISES: Final[dict[str, Callable[[str], BaseException]]] = {
    "ValueError": ValueError,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopAsyncIteration": StopAsyncIteration,
    "unspeakable": UnspeakableError,
}
_NONSENSE: Final[dict[str, Any]] = {
    "number": 7,
    "none": None,
    "bytes": b"text",
    "list": [],
    "empty mapping": {},
    "unknown type": {"type": "NO_SUCH_EVENT"},
    "content without message": {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x"},
    "end without start": {"type": "TEXT_MESSAGE_END", "messageId": "m"},
    "field of wrong type": {"type": "TEXT_MESSAGE_START", "messageId": 7, "role": "assistant"},
    "not a number": {"type": "CUSTOM", "name": "n", "value": float("nan")},
    "a set": {"type": "CUSTOM", "name": "n", "value": {1}},
    "lone surrogate": "\ud800",
    "too large": {"type": "CUSTOM", "name": "n", "value": "x" * (1 << 20)},
    "of another run": {"type": "RUN_FINISHED", "threadId": "t", "runId": "of-another"},
    "of another thread": {"type": "RUN_STARTED", "threadId": "of-another", "runId": "r"},
}


async def script(
    input: RunAgentInput,  # noqa: A002  # AG-UI's name for it
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncIterator[object]:
    """Do the steps of the user's last message, one after the other."""
    for name, *arguments in _steps(_question(input)):
        if name in {"hold", "open"}:
            await _pass_gate(name, arguments[0], stop)
        elif name == "deaf":
            await _sleep_for_ever()
        elif name == "wait":
            await asyncio.Event().wait()  # hears no stop, but lets itself be cancelled
        elif name == "block":
            _block(*arguments)
        elif name == "block until":
            _block_until(*arguments)
        elif name == "raise":
            _raise(*arguments)
        else:
            for value in _values(name, arguments, input, context):
                yield value
        if stop.is_set():
            return


def _steps(question: str) -> list[Any]:
    if question.startswith("["):
        steps: list[Any] = json.loads(question)
        return steps
    return [["say", f"{word} "] for word in question.split()]


def _question(input: RunAgentInput) -> str:  # noqa: A002
    return next(str(m.content) for m in reversed(input.messages) if m.role == "user")


def _values(
    name: str,
    arguments: list[Any],
    input: RunAgentInput,  # noqa: A002
    context: UserExecutionContext,
) -> list[object]:
    """Return what a step yields."""
    match name, arguments:
        case "say", [text]:
            return [text]
        case "event", [event]:
            return [event]
        case "nonsense", [kind]:
            return [_NONSENSE[kind]]
        case "input", []:
            return [input.model_dump_json(by_alias=True, exclude_none=True)]
        case "recall", []:
            return ["".join(str(m.content) for m in input.messages if m.role == "user")]
        case "whoami", []:
            return [json.dumps([context.user_id, context.thread_id, context.run_id])]
        case "blobs", [count, size]:
            return [{"type": "CUSTOM", "name": "blob", "value": "x" * size}] * count
        case "count", [number]:
            return [f"{n} " for n in range(1, number + 1)]
        case _:
            raise LookupError(f"no step is called {name}")


async def _pass_gate(name: str, gate: str, stop: StopSignal) -> None:
    """Open a gate, or wait until it is open or the run is stopped."""
    if name == "open":
        _gates[gate].set()
        return
    waits = [asyncio.ensure_future(_gates[gate].wait()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _sleep_for_ever() -> NoReturn:
    """Neither end nor let itself be cancelled."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


def _block(seconds: float) -> None:
    """Hold up the loop, as agents do that call what isn't asynchronous."""
    time.sleep(seconds)


def _block_until(sign: str) -> None:
    """Hold up the loop until there is a file of that name."""
    path = f"{os.environ[FOLDER]}/{sign}"
    while not os.access(path, os.F_OK):  # calls nothing that would be found in the stack instead
        time.sleep(0.01)


def _raise(kind: str, text: str) -> NoReturn:
    raise _RAISES[kind](text)


async def babbler(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Talk on and on, stopped, cancelled or ended."""
    del input
    while True:
        yield "bla "
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


class Rambler:
    """An object whose `run` is an agent: it asks for no context, and says the history's length."""

    async def run(self, input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
        """Say how many messages there are."""
        yield f"{len(input.messages)} messages"


rambler: Final = Rambler()


async def coroutine_function(input: RunAgentInput) -> str:  # noqa: A002
    """Return an answer where an agent would yield it."""
    return _question(input)


def sync_generator(input: RunAgentInput) -> Iterator[str]:  # noqa: A002
    """Yield without being asynchronous."""
    yield _question(input)


mock: Final = Mock()
called: Final = rambler.run(input=cast("RunAgentInput", None))
