"""The agent behind `isolane check`.

It does exactly what its message says, so no real agent is asked.

A message is a JSON list of steps. Only tokens with the scope `check` may run it.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

from ag_ui.core import RunAgentInput

from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal

NAME: Final = "check"
"""Name of the agent in addresses and run frames."""
SCOPE: Final = "check"
"""Scope that a token needs to run the agent."""
STEPS_MAX: Final = 20
"""Maximum number of steps of one message."""
COUNT_MAX: Final = 1000
"""Maximum of the step `count`."""
PAUSE_MAX_MS: Final = 1000
"""Longest pause between two numbers, in milliseconds."""
REMEMBERED_THREADS_MAX: Final = 1000
"""Threads whose texts are remembered; above that the least recently used is forgotten."""
REMEMBERED_TEXTS_MAX: Final = 20
"""Texts that are remembered per thread."""
REMEMBERED_MAX_CHARACTERS: Final = 200
"""Characters that are kept of a remembered text."""


Texts = deque[str]
"""The texts that are remembered in one thread, at most 20. The oldest is dropped first."""


class Memory:
    """Texts by the thread id that the agent is given.

    Agent frameworks keep their memory in the same way. So users who share a thread id there would
    share one here, and the check would find it.
    """

    def __init__(self) -> None:
        """Begin without texts."""
        self._threads: OrderedDict[str, Texts] = OrderedDict()

    def of(self, thread_id: str) -> Texts:
        """Return the texts of a thread.

        Above the bound, the least recently used thread is forgotten.
        """
        texts = self._threads.setdefault(thread_id, deque(maxlen=REMEMBERED_TEXTS_MAX))
        self._threads.move_to_end(thread_id)
        if len(self._threads) > REMEMBERED_THREADS_MAX:
            self._threads.popitem(last=False)
        return texts


class CheckAgent:
    """Does the steps of the last message in order, until it is told to stop.

    The steps are `["say", text]`, `["count", numbers, pauseMs]`, `["tool", name, arguments,
    result]`, `["wait"]`, `["remember", text]` and `["recall"]`. The last one says every text that
    was remembered in this thread.
    """

    def __init__(self) -> None:
        """Begin with an empty memory."""
        self._memory = Memory()

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield the events of the steps."""
        texts = self._memory.of(input.thread_id)
        for place, step in enumerate(_read_steps(input)):
            async with aclosing(_do(step, f"{context.run_id}-{place}", stop, texts)) as values:
                async for value in values:
                    yield value
            if stop.is_set():
                return


agent: Final = CheckAgent().run
"""One agent per process, as the agents of users are."""


def _read_steps(run_input: RunAgentInput) -> list[object]:
    content = next((m.content for m in reversed(run_input.messages) if m.role == "user"), None)
    with suppress(ValueError, RecursionError):
        steps = json.loads(content) if isinstance(content, str) else None
        if isinstance(steps, list) and len(steps) <= STEPS_MAX:
            return steps
    raise ValueError(f"the message is no JSON list of at most {STEPS_MAX} steps")


async def _do(
    step: object, name: str, stop: StopSignal, texts: Texts
) -> AsyncGenerator[object, None]:
    match step:
        case ["say", str(text)]:
            yield text
        case ["wait"]:
            await stop.wait()
        case ["count", int(numbers), int(pause_ms)] if _is_bounded(numbers, pause_ms):
            for number in range(numbers):
                yield f"{number} "
                if await _is_stopped_within(stop, pause_ms / 1000):
                    return
        case ["remember", str(text)] if len(text) <= REMEMBERED_MAX_CHARACTERS:
            texts.append(text)
        case ["recall"]:
            yield " ".join(texts)
        case ["tool", str(tool), arguments, str(result)]:
            for event in _tool_events(name, tool, json.dumps(arguments), result):
                yield event
        case _:  # no log may have a user's text, so the error doesn't repeat it
            raise ValueError(f"step {name} is none that this agent knows")


def _is_bounded(numbers: int, pause_ms: int) -> bool:
    return 0 <= numbers <= COUNT_MAX and 0 <= pause_ms <= PAUSE_MAX_MS


async def _is_stopped_within(stop: StopSignal, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # the wait between two numbers
            await stop.wait()
    return stop.is_set()


def _tool_events(call: str, tool: str, arguments: str, result: str) -> list[dict[str, str]]:
    return [
        {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": tool},
        {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": arguments},
        {"type": "TOOL_CALL_END", "toolCallId": call},
        {
            "type": "TOOL_CALL_RESULT",
            "messageId": f"{call}-result",
            "toolCallId": call,
            "content": result,
            "role": "tool",
        },
    ]
