"""What the tests of OpenAI's APIs share: the package's own client for a user, and scripts."""

from __future__ import annotations

from typing import Any, Final

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam
from tests.live.stage import Lane

CHAT_TOOLS: Final[Any] = [
    {"type": "function", "function": {"name": "mine", "parameters": {"type": "object"}}}
]
TOOLS: Final[Any] = [
    {"type": "function", "name": "mine", "parameters": {"type": "object"}, "strict": False}
]


def openai_of(lane: Lane, **more: object) -> AsyncOpenAI:
    """Return the package's client for a user; it doesn't try again by itself."""
    own = {"api_key": lane.token, "base_url": f"{lane.server.url}/v1", "max_retries": 0}
    options: dict[str, Any] = {**own, **more}
    return AsyncOpenAI(**options)


def user(text: str) -> ChatCompletionUserMessageParam:
    """Return what a user says."""
    return {"role": "user", "content": text}


def event(kind: str, **fields: object) -> list[object]:
    """Return the step that yields an event."""
    return ["event", {"type": kind, **fields}]


def calling(call_id: str, name: str, arguments: str) -> list[list[object]]:
    """Return the steps that call a tool."""
    about = {"toolCallId": call_id}
    return [
        event("TOOL_CALL_START", toolCallName=name, **about),
        event("TOOL_CALL_ARGS", delta=arguments, **about),
        event("TOOL_CALL_END", **about),
    ]


def finishing(**fields: object) -> list[object]:
    """Return the step that ends a run."""
    finished = {"type": "RUN_FINISHED", "threadId": "$thread", "runId": "$run"}
    return ["named", {**finished, **fields}]


def asking(*interrupts: dict[str, object]) -> list[object]:
    """Return the step that ends a run with questions."""
    return finishing(outcome={"type": "interrupt", "interrupts": list(interrupts)})


def held(lane: Lane) -> list[list[object]]:
    """Return steps that say `a `, wait for the user's gate, and say `b `."""
    return [["say", "a "], ["hold", f"{lane.user} go"], ["say", "b "]]


async def open_gate(lane: Lane) -> None:
    """Let a user's `held` runs go on."""
    await lane.open_gate(f"{lane.user} go")
