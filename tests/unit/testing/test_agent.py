"""An agent that does what it is told: on its own, and in a house that stops and cancels it."""

from __future__ import annotations

import asyncio

import pytest
from tests.house import ask, context_of, open_house, until

from isolane.agents.function import adapt_function
from isolane.contracts import Agent
from isolane.testing import Gate, ScriptedAgent, UntilStopped, assert_conforms

CONTEXT = context_of("run")


async def answer(agent: ScriptedAgent, stop: asyncio.Event | None = None) -> list[object]:
    stream = agent.run(ask(CONTEXT, "Hello?"), CONTEXT, stop or asyncio.Event())
    return [value async for value in stream]


def test_it_is_an_agent_for_contract_and_gateway_alike() -> None:
    assert_conforms(ScriptedAgent(), Agent)
    assert_conforms(adapt_function(ScriptedAgent(), name="scripted"), Agent)


async def test_it_yields_what_it_is_told_in_every_run_and_keeps_who_asked_what() -> None:
    step = {"type": "STEP_STARTED", "stepName": "think"}
    agent = ScriptedAgent("Hello ", step, "world.", 7, None)
    for _ in range(2):
        assert await answer(agent) == ["Hello ", step, "world.", 7, None]
    assert [asked.messages[-1].content for asked in agent.inputs] == ["Hello?", "Hello?"]
    assert agent.contexts == [CONTEXT, CONTEXT]


async def test_it_raises_what_it_is_told() -> None:
    agent = ScriptedAgent("almost", KeyError("gone"), "never")
    with pytest.raises(KeyError, match="gone"):
        await answer(agent)


async def test_it_waits_at_a_gate_until_that_one_is_opened() -> None:
    agent = ScriptedAgent("a", Gate("first"), "b", Gate("second"), "c")
    answering = asyncio.create_task(answer(agent))
    await agent.arrived("first")
    agent.open("first")
    await agent.arrived("second")
    assert not answering.done()
    agent.open("second")
    assert await answering == ["a", "b", "c"]


async def test_nobody_is_waited_for_for_ever() -> None:
    with pytest.raises(TimeoutError):
        await ScriptedAgent().arrived("nowhere", within_s=0.01)


async def test_it_waits_for_the_stop_where_it_is_told_to() -> None:
    stop = asyncio.Event()
    answering = asyncio.create_task(answer(ScriptedAgent("a", UntilStopped(), "b"), stop))
    await asyncio.sleep(0)  # lets it come there
    assert not answering.done()
    stop.set()
    assert await answering == ["a", "b"]


async def test_it_ignores_the_stop_elsewhere() -> None:
    stop = asyncio.Event()
    agent = ScriptedAgent("a", Gate("held"), "b")
    answering = asyncio.create_task(answer(agent, stop))
    await agent.arrived("held")
    stop.set()
    await asyncio.sleep(0)  # would let it go on
    assert not answering.done()
    agent.open("held")
    assert await answering == ["a", "b"]


async def test_a_cancelled_run_leaves_a_gate_unless_that_holds_against_it() -> None:
    agent = ScriptedAgent(Gate("usual"))
    answering = asyncio.create_task(answer(agent))
    await agent.arrived("usual")
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    agent = ScriptedAgent(Gate("stubborn", holds_against_cancel=True), "all the same")
    answering = asyncio.create_task(answer(agent))
    await agent.arrived("stubborn")
    for _ in range(3):
        answering.cancel()
        await asyncio.sleep(0)  # is when it hears of it
    assert not answering.done()
    agent.open("stubborn")
    assert await answering == ["all the same"]


@pytest.mark.parametrize("holds", [False, True])
async def test_a_house_ends_the_run_of_an_agent_that_ignores_its_stop(
    holds: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    agent = ScriptedAgent("said ", Gate("held", holds_against_cancel=holds), "unsaid")
    async with open_house({"default": agent}) as house:
        await house.service.start(CONTEXT, ask(CONTEXT, "Hello?"))
        await agent.arrived("held")
        await house.service.abort(CONTEXT)
        events = await house.events(CONTEXT)
        agent.open("held")
        await until(lambda: len(house.tasks) == 0)  # the one that was abandoned has ended too
    assert [event["delta"] for event in events if "delta" in event] == ["said "]
    assert events[-1]["outcome"] == {"type": "cancelled"}
