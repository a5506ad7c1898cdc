"""An agent of chats with tools: `--agent helper=chat_agents:helper`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

Event = dict[str, Any]


async def helper(input: RunAgentInput) -> AsyncIterator[object]:  # noqa: A002
    """Look the weather up by a tool of the page's, and delete things once somebody agrees.

    Asked for `weather` it calls a tool and ends; with the tool's result it says that. Asked to
    `delete` it calls a tool of its own, and asks first. Asked for an `age` it asks for that. Asked
    to `search` it calls a tool of its own and says what that found. Asked for the `time` it calls a
    tool of the page's, each time by the same id, as models do that count their calls anew.
    """
    last = input.messages[-1]
    if input.resume:
        payload = input.resume[0].payload
        yield f"You said {json.dumps(payload)}."
        return
    if last.role == "tool":
        yield f"It is {last.content}."
        return
    asked = str(last.content)
    call_id = "call-1" if asked == "time" else f"call-{last.id}"
    if asked in {"weather", "delete", "search", "time"}:
        yield f"Let me {asked}. "
        for event in _call(call_id, asked):
            yield event
    if asked == "search":
        content = json.dumps({"found": 1})
        yield {"type": "TOOL_CALL_RESULT", "messageId": "r", "toolCallId": call_id,
               "content": content}  # fmt: skip
        yield "Found."
    if asked in {"delete", "age"}:
        about = {"toolCallId": call_id} if asked == "delete" else {}
        question = {"id": f"ask-{last.id}", "reason": asked, "message": "May I?", **about}
        yield {"type": "RUN_FINISHED", "threadId": input.thread_id, "runId": input.run_id,
               "outcome": {"type": "interrupt", "interrupts": [question]}}  # fmt: skip


def _call(call_id: str, name: str) -> list[Event]:
    return [
        {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name},
        {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": '{"city": "Bonn"}'},
        {"type": "TOOL_CALL_END", "toolCallId": call_id},
    ]
