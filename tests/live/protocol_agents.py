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
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from unittest.mock import Mock

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal

FOLDER: Final = "PROTOCOL_AGENTS_FOLDER"
"""Names where the signs are that blocks wait for: who is blocked can be told nothing else."""
GATES: Final = "PROTOCOL_AGENTS_GATES"
"""Names where the signs of open gates are, where several processes serve the agents."""
_gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
_memory: defaultdict[str, dict[str, None]] = defaultdict(dict)
"""What was said in each thread, by the id that the agent was given, as agent frameworks keep it."""


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
    "malformed": {"type": "STEP_STARTED", "stepName": 7},
    "content without message": {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x"},
    "end without start": {"type": "TEXT_MESSAGE_END", "messageId": "m"},
    "field of wrong type": {"type": "TEXT_MESSAGE_START", "messageId": 7, "role": "assistant"},
    "not a number": {"type": "CUSTOM", "name": "n", "value": float("nan")},
    "a set": {"type": "CUSTOM", "name": "n", "value": {1}},
    "half an id": {"type": "TEXT_MESSAGE_START", "messageId": "\ud800"},
    "too large": {"type": "CUSTOM", "name": "n", "value": "x" * (1 << 20)},
    "of another run": {"type": "RUN_FINISHED", "threadId": "t", "runId": "of-another"},
    "of another thread": {"type": "RUN_STARTED", "threadId": "of-another", "runId": "r"},
}


async def script(  # noqa: C901 - a branch for each step that waits
    input: RunAgentInput,  # noqa: A002  # AG-UI's name for it
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncGenerator[object, None]:
    """Do the steps of the user's last message, one after the other."""
    for name, *arguments in _steps(_question(input)):
        if name in {"hold", "open"}:
            await _pass_gate(name, arguments[0], stop)
        elif name == "deaf":
            await _sleep_for_ever()
        elif name == "wait":
            await asyncio.Event().wait()  # hears no stop, but lets itself be cancelled
        elif name == "pause":
            await asyncio.sleep(*arguments)
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


async def lasting(
    input: RunAgentInput,  # noqa: A002
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncGenerator[object, None]:
    """Say which attempt this is, and do the steps; another process may begin it anew."""
    yield {"type": "CUSTOM", "name": "attempt", "value": context.attempt}
    async with aclosing(script(input, context, stop)) as values:
        async for value in values:
            yield value


lasting.restartable = True  # type: ignore[attr-defined]


def _steps(question: str) -> list[Any]:
    if question.startswith("["):
        steps: list[Any] = json.loads(question)
        return steps
    return [["say", f"{word} "] for word in question.split()]


def _question(input: RunAgentInput) -> str:  # noqa: A002
    content = next(m.content for m in reversed(input.messages) if m.role == "user")
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if part.type == "text")


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
        case "who", []:
            return [json.dumps([context.user_id, context.issuer, context.subject])]
        case "blobs", [count, size]:
            return [{"type": "CUSTOM", "name": "blob", "value": "x" * size}] * count
        case "count", [number]:
            return [f"{n} " for n in range(1, number + 1)]
        case _:
            return _rarer_values(name, arguments, input, context)


def _rarer_values(
    name: str,
    arguments: list[Any],
    input: RunAgentInput,  # noqa: A002
    context: UserExecutionContext,
) -> list[object]:
    """Return what a rarer step yields: much, or what is about the ids that the agent is given."""
    match name, arguments:
        case "ids", []:
            return [json.dumps(_ids(input, context))]
        case "claimed", []:
            return [f"claimed: {context.is_history_claimed}"]
        case "named", [event]:
            return [_named(event, input)]
        case "remember", [text]:
            _memory[input.thread_id][text] = None
            return []
        case "attachments", []:
            return [json.dumps(_attachments(input))]
        case "snapshot", []:
            messages = [m.model_dump(by_alias=True, exclude_none=True) for m in input.messages]
            return [{"type": "MESSAGES_SNAPSHOT", "messages": messages}]
        case "long", [what, count]:
            return _long(what, count)
        case "ask", [interrupt]:
            return _ask(interrupt, input)
        case "memory", []:
            return [" ".join(_memory[input.thread_id])]
        case _:
            raise LookupError(f"no step is called {name}")


def _ask(interrupt: dict[str, Any], input: RunAgentInput) -> list[object]:  # noqa: A002
    """Return a question to the person, or what they answered."""
    if input.resume:
        return [f"answered {json.dumps(entry.payload)} " for entry in input.resume]
    outcome = {"type": "interrupt", "interrupts": [interrupt]}
    ids = {"threadId": input.thread_id, "runId": input.run_id}
    return [{"type": "RUN_FINISHED", **ids, "outcome": outcome}]


def _long(what: str, count: int) -> list[object]:
    """Return what says two characters so often."""
    if what == "text":
        return ["a😀" * count]
    call = {"toolCallId": "c"}
    if what == "result":
        return [{"type": "TOOL_CALL_RESULT", "messageId": "r", "content": "éé" * count, **call}]
    arguments = json.dumps({"text": '"😀' * count}, ensure_ascii=False)
    return [
        {"type": "TOOL_CALL_START", "toolCallName": "f", **call},
        {"type": "TOOL_CALL_ARGS", "delta": arguments, **call},
    ]


def _attachments(input: RunAgentInput) -> list[str]:  # noqa: A002
    """Return a digest of each attachment in the messages that the agent was given."""
    parts = [
        part
        for message in input.messages
        if message.role == "user" and not isinstance(message.content, str)
        for part in message.content
        if part.type != "text"
    ]
    return [sha256(part.source.value.encode()).hexdigest() for part in parts]


def _ids(input: RunAgentInput, context: UserExecutionContext) -> dict[str, str | None]:  # noqa: A002
    """Return by which ids the agent was told of its run, and what its context has beside them."""
    return {
        "thread": input.thread_id,
        "run": input.run_id,
        "parent": input.parent_run_id,
        "contextThread": context.agent_thread_id,
        "contextRun": context.agent_run_id,
    }


def _named(event: Any, input: RunAgentInput) -> Any:  # noqa: A002, ANN401
    """Return an event in which `$thread`, `$run` and `$parent` are the ids that the agent has."""
    text = json.dumps(event).replace("$thread", input.thread_id).replace("$run", input.run_id)
    return json.loads(text.replace("$parent", input.parent_run_id or ""))


async def raw(
    input: RunAgentInput,  # noqa: A002
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncIterator[object]:
    """Do the same as `script`, and be told of the run by the ids that its client chose."""
    async with aclosing(script(input, context, stop)) as values:
        async for value in values:
            yield value


raw.raw_ids = True  # type: ignore[attr-defined]  # how a function says it


async def _pass_gate(name: str, gate: str, stop: StopSignal) -> None:
    """Open a gate, or wait until it is open or the run is stopped."""
    folder = os.environ.get(GATES)
    sign = None if folder is None else Path(folder) / sha256(gate.encode()).hexdigest()
    if name == "open":
        _gates[gate].set()
        if sign is not None:
            sign.touch()
        return
    opened = _gates[gate].wait() if sign is None else _see(sign)
    waits = [asyncio.ensure_future(opened), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _see(sign: Path) -> None:
    """Return once another process has opened the gate."""
    while not sign.exists():  # noqa: ASYNC110, ASYNC240 - no other process has an event for us
        await asyncio.sleep(0.02)


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
