"""An agent that does what it is asked, at the test's pace.

Served as `--agent paced:paced`. `until NAME` in a question makes it wait, half-way, until the test
opens that gate: a file `<user>.NAME` in the folder that `ISOLANE_TEST_GATES` names.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal

PACE_S: Final = 0.01
LOOK_S: Final = 0.02
FLOOD_AT_ONCE: Final = 50
FLOOD_PACE_S: Final = 0.02
ARGUMENTS: Final = json.dumps({"from": "the old mill", "hours": 3, "dog": True})
RESULT: Final = json.dumps({"km": 11.4, "via": ["the weir", "Long Wood", "the chapel"]})
THOUGHTS: Final = ("A walk ", "is wanted, ", "with a dog. ", "The map ", "knows the ways.")
WALK: Final = """\
Three hours are enough for **the weir and back** through Long Wood, `11.4 km` in all:

1. Follow the river up to *the weir*.
2. Turn into Long Wood at the second gate.
3. Come down by the chapel.

| part | km | dog |
|---|--:|:-:|
| river | 4.2 | free |
| wood | 5.1 | on the lead |
| chapel | 2.1 | free |

```text
mill -> weir -> wood -> chapel -> mill
```

> After rain take the upper path, the lower one is under water.
"""


async def paced(
    input: RunAgentInput,  # noqa: A002  # AG-UI's name for it
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncIterator[object]:
    """Count, say, walk, write, ask back or fail, as the last question asks.

    What begins with a heading is said as it is.
    """
    if input.resume:
        yield f"You said: {input.resume[0].payload}."
        return
    question = next(str(m.content) for m in reversed(input.messages) if m.role == "user")
    if question == "Ask me":
        yield _ask_back(input)
        return
    if question.startswith("#"):
        yield question
        return
    async for value in _answer(question, context.user_id, stop):
        if stop.is_set():
            return
        yield value


def _ask_back(input: RunAgentInput) -> dict[str, object]:  # noqa: A002
    """Return an end that wants to know something first."""
    asked = {"id": uuid4().hex, "reason": "approval", "message": "May I book the ferry?"}
    outcome = {"type": "interrupt", "interrupts": [asked]}
    ids = {"threadId": input.thread_id, "runId": input.run_id}
    return {"type": "RUN_FINISHED", **ids, "outcome": outcome}


async def _answer(question: str, user_id: str, stop: StopSignal) -> AsyncIterator[object]:
    task, _, gate = question.partition(" until ")
    match task.lower().split():
        case ["count", "to", number, *rest]:
            for n in range(1, int(number) + 1):
                yield f"{n} "
                await asyncio.sleep(PACE_S)
                if rest and n == int(rest[-1]):
                    await _pass(gate, user_id, stop)
        case ["say", *_]:
            yield f"{user_id} says {task[4:]}, "
            await _pass(gate, user_id, stop)
            yield f"and {user_id} says it again: {task[4:]}."
        case ["write", number, "words"]:
            for n in range(int(number)):
                yield _word(n)
                if n % FLOOD_AT_ONCE == 0:
                    await asyncio.sleep(FLOOD_PACE_S)
        case ["fail"]:
            yield "It begins well, but "
            raise ValueError("what must not leave the process")
        case _:
            async for value in _walk(gate, user_id, stop):
                yield value


async def _walk(gate: str, user_id: str, stop: StopSignal) -> AsyncIterator[object]:
    thought, call, message = uuid4().hex, uuid4().hex, uuid4().hex
    yield {"type": "REASONING_START", "messageId": thought}
    yield {"type": "REASONING_MESSAGE_START", "messageId": thought, "role": "reasoning"}
    for word in THOUGHTS:
        yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": thought, "delta": word}
    yield {"type": "REASONING_MESSAGE_END", "messageId": thought}
    yield {"type": "REASONING_END", "messageId": thought}
    yield {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": "read_map"}
    for start in range(0, len(ARGUMENTS), 8):
        piece = ARGUMENTS[start : start + 8]
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": piece}
        await asyncio.sleep(PACE_S)
    yield {"type": "TOOL_CALL_END", "toolCallId": call}
    await _pass(gate, user_id, stop)
    result = {"type": "TOOL_CALL_RESULT", "messageId": message, "toolCallId": call}
    yield {**result, "content": RESULT}
    for piece in re.findall(r"\S+\s*", WALK):
        yield piece
        await asyncio.sleep(PACE_S)


async def _pass(gate: str, user_id: str, stop: StopSignal) -> None:
    """Wait until the gate is open or the run is stopped."""
    if not gate:
        return
    door = Path(os.environ["ISOLANE_TEST_GATES"]) / f"{user_id}.{gate}"
    while not (door.exists() or stop.is_set()):  # noqa: ASYNC110  # another process makes the file
        await asyncio.sleep(LOOK_S)


def _word(number: int) -> str:
    if number % 25:
        return f"word{number} "
    return f"\n\n## Part {number}\n\n- **one** `{number}`\n- two\n\n"
