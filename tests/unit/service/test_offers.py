"""Runs that a door offers without a RunAgentInput."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.house import ask, context_of, open_house, user_message

from isolane.contracts import Disposition
from isolane.errors import InvalidInput, UnknownAgent
from isolane.events import Event
from isolane.service.draft import make_offer, to_offer
from isolane.service.readers import OnDisconnect

TOOLS = [{"name": "lookup", "description": "Looks up", "parameters": {"type": "object"}}]
RESULT = {"id": "x", "role": "tool", "toolCallId": "call", "content": "42"}


class Listener:
    """An agent that keeps what it was given and who asked, and says so much."""

    def __init__(self, *values: object) -> None:
        self.inputs: list[Any] = []
        self.contexts: list[Any] = []
        self.values = values or ("heard",)

    async def run(self, input: Any, context: Any, stop: object) -> AsyncIterator[object]:  # noqa: A002, ANN401, ARG002
        self.inputs.append(input)
        self.contexts.append(context)
        for value in self.values:
            yield value


async def test_offer_starts_a_run_as_an_input_does() -> None:
    agent = Listener()
    async with open_house({"default": agent.run}) as house:
        own = context_of("1")
        offer = make_offer(
            agent="default",
            messages=[RESULT, user_message("q")],
            policy="interrupt",
            tools=TOOLS,
            context=[{"description": "page", "value": "7"}],
            state={"n": 1},
            forwarded_props={"openai": {"temperature": 0}},
            parent_run_id="0",
        )
        ticket = await house.service.start_offer(own, offer)
        assert ticket.disposition is Disposition.STARTED
        events = await house.events(own)
        shown: Event = events[0]["input"]
        assert shown["messages"] == [RESULT, user_message("q")]
        assert [tool["name"] for tool in shown["tools"]] == ["lookup"]
        (given,) = agent.inputs
        assert [message.id for message in given.messages] == ["x", "q"]
        assert given.tools[0].parameters == {"type": "object"}
        assert (given.context[0].value, given.state) == ("7", {"n": 1})
        assert given.forwarded_props == {"openai": {"temperature": 0}, "policy": "interrupt"}
        ticket = await house.service.start_offer(own, offer)
        assert ticket.disposition is Disposition.ATTACHED


async def test_offer_rewinds_and_answers() -> None:
    asks = {"type": "interrupt", "interrupts": [{"id": "i", "reason": "approval"}]}
    end = {"type": "RUN_FINISHED", "threadId": "thread", "runId": "1", "outcome": asks}
    agent = Listener({**end, "runId": "1"})
    async with open_house({"default": agent.run}) as house:
        await house.run(context_of("1"), "q")
        agent.values = ("done",)
        answer = [{"interruptId": "i", "status": "resolved", "payload": {"approved": True}}]
        second, third = context_of("2"), context_of("3")
        await house.service.start_offer(
            second, make_offer(agent="default", messages=[], resume=answer)
        )
        events = await house.events(second)
        assert events[0]["input"]["resume"] == answer
        assert agent.inputs[-1].resume[0].payload == {"approved": True}
        await house.service.start_offer(
            third, make_offer(agent="default", messages=[user_message("q")], rewind_to="q")
        )
        events = await house.events(third)
        assert events[0]["input"]["forwardedProps"] == {"rewindTo": "q"}
        assert [message.id for message in agent.inputs[-1].messages] == ["q"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_offer(agent="default", messages=[], policy="never"),
        lambda: make_offer(
            agent="default",
            messages=[user_message("a", message_id="q"), user_message("b", message_id="q")],
        ),
    ],
    ids=["policy", "two of one id"],
)
def test_offer_that_says_nothing_that_can_be_done_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidInput):
        make()


async def test_offer_to_an_unknown_agent_is_refused() -> None:
    async with open_house({"default": Listener().run}) as house:
        with pytest.raises(UnknownAgent):
            await house.service.start_offer(
                context_of("1"), make_offer(agent="other", messages=[user_message("q")])
            )


def test_offer_and_input_ask_the_same_question() -> None:
    own = context_of("1")
    offered = make_offer(
        agent="default", messages=[user_message("q")], on_disconnect=OnDisconnect.STOP
    )
    given = to_offer(ask(own, "q"), "default")
    assert offered.question is not None
    assert given.question is not None
    offered.question.check_same(given.question.message)
    assert offered.question.place == given.question.place
    assert (offered.policy, offered.on_disconnect) == (None, OnDisconnect.STOP)
