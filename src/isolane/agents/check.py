"""The agent behind `isolane check`: it does what it is told, so that no other need be asked.

A message is a JSON list of steps. Whoever may run it has a token with the scope `check`.
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
SCOPE: Final = "check"
STEPS_MAX: Final = 20
COUNT_MAX: Final = 1000
PAUSE_MAX_MS: Final = 1000
REMEMBERED_THREADS_MAX: Final = 1000
REMEMBERED_TEXTS_MAX: Final = 20
REMEMBERED_MAX_CHARACTERS: Final = 200


Texts = deque[str]
"""The texts that are remembered in one thread. Beyond the bound the oldest is forgotten."""


class Memory:
    """Remembers texts by the id of a thread that the agent is given.

    Agent frameworks do the same, so users who meet in their memories would meet in this one.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._threads: OrderedDict[str, Texts] = OrderedDict()

    def of(self, thread_id: str) -> Texts:
        """Return the texts of a thread; the thread that was asked for longest ago is forgotten."""
        texts = self._threads.setdefault(thread_id, deque(maxlen=REMEMBERED_TEXTS_MAX))
        self._threads.move_to_end(thread_id)
        if len(self._threads) > REMEMBERED_THREADS_MAX:
            self._threads.popitem(last=False)
        return texts


class CheckAgent:
    """Does the steps of the last message, one after the other, until told to stop.

    `["say", text]`, `["count", numbers, pauseMs]`, `["tool", name, arguments, result]`, `["wait"]`,
    `["remember", text]`, and `["recall"]`, which says all that was remembered in this thread.
    """

    def __init__(self) -> None:
        """Begin with an empty memory."""
        self._memory = Memory()

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the field's word for it
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield what the steps say."""
        texts = self._memory.of(input.thread_id)
        for place, step in enumerate(_read_steps(input)):
            async with aclosing(_do(step, f"{context.run_id}-{place}", stop, texts)) as values:
                async for value in values:
                    yield value
            if stop.is_set():
                return


agent: Final = CheckAgent().run
"""One for the process, as the agents are that users bring."""


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
        case _:  # its text is a message's: no log may have it
            raise ValueError(f"step {name} is none that this agent knows")


def _is_bounded(numbers: int, pause_ms: int) -> bool:
    return 0 <= numbers <= COUNT_MAX and 0 <= pause_ms <= PAUSE_MAX_MS


async def _is_stopped_within(stop: StopSignal, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # the pace
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
