"""How such agents are tested: run `pytest` in this folder."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import pytest
from ag_ui.core import RunAgentInput, UserMessage
from weather import Almanac, Forecast, Polite, Weather

from isolane import UserExecutionContext
from isolane.contracts import Agent
from isolane.testing import ScriptedAgent, UntilStopped, assert_conforms
from isolane.testing.servers import Servers

CONTEXT = UserExecutionContext(user_id="ada").for_thread("t1").for_run("r1")


def question(city: str) -> RunAgentInput:
    """Return the input of a run."""
    return RunAgentInput(
        thread_id="t1",
        run_id="r1",
        state={},
        messages=[UserMessage(id="m1", content=city)],
        tools=[],
        context=[],
        forwarded_props={},
    )


async def answer(agent: Agent, city: str, stop: asyncio.Event | None = None) -> list[object]:
    """Return all that an agent says."""
    return [value async for value in agent.run(question(city), CONTEXT, stop or asyncio.Event())]


def test_everything_keeps_its_contract() -> None:
    """What no type checker sees, such as a mock that is no longer like the real thing."""
    assert_conforms(Almanac(), Forecast)
    assert_conforms(Weather(Almanac()), Agent)
    assert_conforms(Polite(ScriptedAgent()), Agent)


def test_who_breaks_a_contract_is_named() -> None:
    """A plain method for an async one is what a hand-made fake often has."""

    class Fake:
        def load_tomorrow(self, city: str) -> str:
            return city

    with pytest.raises(AssertionError, match=r"wants an async def.*Fake\.load_tomorrow"):
        assert_conforms(Fake(), Forecast)


async def test_a_city_is_answered_with_its_weather() -> None:
    """The agent on its own."""
    assert await answer(Weather(Almanac()), "Bergen") == ["Tomorrow in Bergen: ", "rain"]


async def test_another_agents_answer_stands_between_the_manners() -> None:
    """What is around an agent, with one that says what the test tells it."""
    scripted = ScriptedAgent("So be it.", {"type": "STEP_STARTED", "stepName": "think"})
    told = await answer(Polite(scripted), "Oslo")
    assert told[:2] == ["Hello ada. ", "So be it."]
    assert told[-1] == " Goodbye."
    assert scripted.inputs == [question("Oslo")]
    assert scripted.contexts == [CONTEXT]


async def test_who_is_stopped_takes_no_leave() -> None:
    """A stop, without a clock."""
    stop = asyncio.Event()
    answering = asyncio.create_task(answer(Polite(ScriptedAgent(UntilStopped())), "Oslo", stop))
    stop.set()
    assert await answering == ["Hello ada. "]


async def test_a_user_gets_the_answer_from_a_real_server(isolane_server: Servers) -> None:
    """The whole way: a process, a token, a run, the events as a client gets them."""
    message = {"id": str(uuid4()), "role": "user", "content": "Bergen"}
    body = {"threadId": "t1", "runId": str(uuid4()), "messages": [message]}
    async with isolane_server("weather:agent") as server:
        async with server.http(await server.token("ada")) as http:
            stream = (await http.post("/agui", json=body)).text
        lines = [line.removeprefix("data: ") for line in stream.splitlines() if "data: " in line]
        said = "".join(json.loads(line).get("delta", "") for line in lines)
        assert said == "Hello ada. Tomorrow in Bergen: rain Goodbye."
