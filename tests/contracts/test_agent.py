"""What every agent promises, whatever made it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from tests.house import ask, context_of, open_house

from isolane.agents.loading import adapt
from isolane.agents.naming import Naming
from isolane.agents.threads import AgentThreads
from isolane.agents.translate import to_event
from isolane.context import RunIds
from isolane.contracts import Agent, StopSignal, ensure
from isolane.runs.stop import Stop

IDS = RunIds("thread", "r")
NAMING = Naming(IDS, IDS)


async def _talk(input: Any, context: object, stop: StopSignal) -> AsyncIterator[object]:  # noqa: A002, ANN401, ARG001
    yield "he"
    if "wait" in input.messages[-1].content:
        await stop.wait()
        return
    yield "llo"


def _function() -> object:
    return _talk


def _object() -> object:
    class Talker:
        async def run(self, input: Any, context: object, stop: StopSignal) -> AsyncIterator[object]:  # noqa: A002, ANN401
            async for value in _talk(input, context, stop):
                yield value

    return Talker()


def _pydantic_ai() -> object:
    from pydantic_ai import Agent as Model  # noqa: PLC0415 - an optional engine
    from pydantic_ai.models.function import AgentInfo, FunctionModel  # noqa: PLC0415

    async def stream(messages: list[Any], _info: AgentInfo) -> AsyncIterator[str]:
        yield "he"
        if "wait" in str(messages[-1].parts[-1].content):
            await asyncio.Event().wait()
        yield "llo"

    return Model(FunctionModel(stream_function=stream))


@pytest.fixture(params=[False, True], ids=["here", "on its own loop"])
def wrap(request: pytest.FixtureRequest) -> Iterator[Callable[[Agent], Agent]]:
    if not request.param:
        yield lambda agent: agent
        return
    threads = AgentThreads(1, watch=lambda _name: lambda: None)
    yield threads.wrap
    threads.close()


@pytest.fixture(
    params=[_function, _object, _pydantic_ai], ids=["function", "object", "pydantic-ai"]
)
def agent(request: pytest.FixtureRequest, wrap: Callable[[Agent], Agent]) -> Agent:
    make: Callable[[], object] = request.param
    return wrap(adapt(make(), name="agent"))


def delta(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(to_event(value, naming=NAMING).get("delta", ""))


def test_it_keeps_its_contract(agent: Agent) -> None:
    ensure(agent, Agent)


async def test_it_yields_what_can_be_logged(agent: Agent) -> None:
    context = context_of("r")
    said = [delta(one) async for one in agent.run(ask(context, "hi"), context, Stop())]
    assert "".join(said) == "hello"


async def test_its_runs_share_nothing(agent: Agent) -> None:
    async def run(number: int) -> str:
        context = context_of("r", user_id=f"user{number}")
        return "".join([delta(one) async for one in agent.run(ask(context, "hi"), context, Stop())])

    assert await asyncio.gather(*(run(number) for number in range(10))) == ["hello"] * 10


async def test_a_stop_ends_it(agent: Agent) -> None:
    context, stop = context_of("r"), Stop()
    stream = agent.run(ask(context, "wait"), context, stop)
    said = ""
    async with aclosing(stream) as values:
        async with asyncio.timeout(5):
            async for value in values:
                said += delta(value)
                if said == "he":
                    stop.set()
    assert said == "he"


async def test_a_whole_run_of_it_is_legal(agent: Agent) -> None:
    async with open_house({"default": agent}) as house:
        events = await house.run(context_of("r"), "hi")
        assert "".join(event.get("delta", "") for event in events) == "hello"
        assert events[-1]["outcome"] == {"type": "success"}
        messages = await house.ground.store.load_messages_before(context_of().thread_key, 100)
        assert [message["content"] for message in messages] == ["hi", "hello"]
