"""The agent that does what the check says, and who may ask it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ag_ui.core import RunAgentInput
from tests.house import ask, context_of
from tests.interleaving import explorer
from tests.interleaving.scheduler import ShuffledLoop

from isolane.agents import check
from isolane.app import create_app
from isolane.errors import AgentRefused
from isolane.runs.stop import Stop
from isolane.settings import Settings

CONTEXT = context_of("r")


async def play(*steps: object, is_stopped: bool = False) -> list[object]:
    """Return what the agent yields for these steps."""
    stop = Stop(lambda: 0)
    if is_stopped:
        stop.set()
    question = ask(CONTEXT, json.dumps(steps))
    return [value async for value in check.agent(question, CONTEXT, stop)]


async def test_it_says_what_it_is_told() -> None:
    assert await play(["say", "a"], ["count", 2, 0], ["say", "b"]) == ["a", "0 ", "1 ", "b"]


async def test_it_calls_a_tool() -> None:
    *events, result = await play(["tool", "add", {"a": 1}, "2"])
    assert isinstance(result, dict)
    assert [event["type"] for event in events if isinstance(event, dict)] == [
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
    ]
    assert result["content"] == "2"


@pytest.mark.parametrize("step", [["wait"], ["count", 1000, 1000]])
def test_a_stop_ends_what_waits_and_what_comes_after(step: list[object]) -> None:
    async def scenario(loop: ShuffledLoop) -> None:
        assert "late" not in await play(step, ["say", "late"], is_stopped=True)
        assert loop.time() == 0

    explorer.play(scenario, 0)


async def remember(agent: check.CheckAgent, thread_id: str, *steps: object) -> list[object]:
    """Return what an agent yields that is told of a thread by this id."""
    question = ask(context_of("r", thread_id=thread_id), json.dumps(steps))
    return [value async for value in agent.run(question, CONTEXT, Stop(lambda: 0))]


async def test_it_remembers_by_the_thread_that_it_is_told_of() -> None:
    agent = check.CheckAgent()
    for thread_id, text in (("a", "one"), ("b", "two"), ("a", "three")):
        assert await remember(agent, thread_id, ["remember", text]) == []
    assert await remember(agent, "a", ["recall"]) == ["one three"]
    assert await remember(agent, "b", ["recall"]) == ["two"]
    assert await remember(agent, "c", ["recall"]) == [""]


async def test_its_memory_has_bounds() -> None:
    agent = check.CheckAgent()
    for number in range(check.REMEMBERED_TEXTS_MAX + 1):
        await remember(agent, "old", ["remember", f"{number}"])
    (said,) = await remember(agent, "old", ["recall"])
    assert str(said).split() == [str(n + 1) for n in range(check.REMEMBERED_TEXTS_MAX)]
    for number in range(check.REMEMBERED_THREADS_MAX):
        await remember(agent, f"t-{number}", ["recall"])
    assert await remember(agent, "old", ["recall"]) == [""]
    with pytest.raises(ValueError, match="none that this agent knows"):
        await remember(agent, "t", ["remember", "x" * (check.REMEMBERED_MAX_CHARACTERS + 1)])


@pytest.mark.parametrize(
    "step",
    [
        ["sing"],
        "say",
        ["say"],
        ["say", 1],
        ["count", 10**9, 0],
        ["count", 1, -1],
        ["remember", 1],
        {},
    ],
)
async def test_a_step_that_is_none_raises_without_its_text(step: object) -> None:
    with pytest.raises(ValueError, match="r-0") as caught:
        await play(step)
    assert "sing" not in str(caught.value)


@pytest.mark.parametrize("text", ["hello", "{}", "[" * 100_000, json.dumps([["say", ""]] * 21)])
async def test_a_message_that_is_no_script_raises(text: str) -> None:
    stream = check.agent(ask(CONTEXT, text), CONTEXT, Stop(lambda: 0))
    with pytest.raises(ValueError, match="JSON list"):
        await anext(stream)


async def other(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002 - AG-UI's name for it
    yield input.run_id


def test_its_name_is_taken(tmp_path: Path) -> None:
    with pytest.raises(AgentRefused, match=r"agent check: .*built-in"):
        create_app(Settings(data=tmp_path), {"default": other, "check": other})
