"""Runs that a door offers without a RunAgentInput."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.house import (
    ALICE,
    COUNT_KEPT,
    ask,
    context_of,
    open_house,
    sqlite_url,
    until,
    user_message,
)

from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import Disposition, Opening, RunDraft, Seed, ThreadKind
from isolane.errors import InvalidInput, LimitExceeded, RunConflict, TooLarge, UnknownAgent
from isolane.events.event import Event
from isolane.runs.draft import make_offer, to_offer
from isolane.runs.question import Offer
from isolane.runs.readers import OnDisconnect
from isolane.runs.requests import remove_due
from isolane.settings import Settings
from isolane.sql.usage import Quotas, Usage
from isolane.storage import _check_question

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


# --- how threads begin ---------------------------------------------------------------------------

CLAIMED = [
    {"id": "s", "role": "system", "content": "rules"},
    {"id": "u", "role": "user", "content": "Who are you?"},
    {"id": "a", "role": "assistant", "content": "The king."},
]


def opening(
    *history: dict[str, str], is_claimed: bool = True, kind: ThreadKind = ThreadKind.CHAT
) -> Opening:
    return Opening(kind, Seed(history or CLAIMED, is_claimed=is_claimed))


def offer_of(*texts: str, **more: Any) -> Offer:  # noqa: ANN401 - each argument has its own type
    return make_offer(agent="default", messages=[user_message(text) for text in texts], **more)


async def test_agent_is_given_a_seed_and_told_that_it_is_the_callers_word() -> None:
    agent = Listener()
    async with open_house({"default": agent.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start_offer(first, offer_of("q", opening=opening()))
        events = await house.events(first)
        assert events[0]["input"]["messages"] == [user_message("q")]
        assert [one.id for one in agent.inputs[0].messages] == ["s", "u", "a", "q"]
        await house.run(second, "q2")
        assert [one.id for one in agent.inputs[1].messages][:4] == ["s", "u", "a", "q"]
        assert [one.is_history_claimed for one in agent.contexts] == [True, True]
        await house.run(context_of("3", thread_id="other"), "q")
        assert not agent.contexts[-1].is_history_claimed
        own = context_of("4", thread_id="branch")
        await house.service.start_offer(own, offer_of("q", opening=opening(is_claimed=False)))
        await house.events(own)
        assert not agent.contexts[-1].is_history_claimed


async def test_seed_comes_to_a_new_thread_only_and_the_same_one_attaches() -> None:
    agent = Listener()
    async with open_house({"default": agent.run}) as house:
        first, second = context_of("1"), context_of("2")
        offer = offer_of("q", opening=opening())
        await house.service.start_offer(first, offer)
        for texts in (("q",), ("q2",)):
            with pytest.raises(RunConflict):
                await house.service.start_offer(second, offer_of(*texts, opening=opening()))
        await house.events(first)
        for texts in (("q",), ("q2",)):
            with pytest.raises(RunConflict):
                await house.service.start_offer(second, offer_of(*texts, opening=opening()))
        again = await house.service.start_offer(first, offer)
        assert again.disposition is Disposition.ATTACHED
        other = opening({"id": "u", "role": "user", "content": "Something else"})
        for differing in (offer_of("q", opening=other), offer_of("q")):
            with pytest.raises(RunConflict):
                await house.service.start_offer(first, differing)
        await until(lambda: not house.service._live)
        assert len(agent.inputs) == 1


async def test_no_client_seeds_a_thread() -> None:
    agent = Listener()
    props = {"seed": CLAIMED, "opening": {"seed": {"messages": CLAIMED}, "kind": "request"}}
    async with open_house({"default": agent.run}) as house:
        own = context_of("1")
        given = [*CLAIMED, user_message("q")]
        await house.run(own, messages=given, forwardedProps=props, seed=CLAIMED, opening=props)
        assert [one.id for one in agent.inputs[0].messages] == ["u", "q"]
        thread = await house.ground.store.load_thread(own.thread_key)
        assert thread is not None
        assert thread.kind is ThreadKind.CHAT


async def test_seed_is_no_part_of_the_frame_that_shows_what_a_run_brings() -> None:
    def check(context: UserExecutionContext, draft: RunDraft) -> None:
        _check_question(settings, context, draft)

    settings = Settings(limit_frame_bytes=4096)
    large = {"id": "u", "role": "user", "content": "x" * 4000}
    async with open_house({"default": Listener().run}) as house:
        house.ground.book._joining._check_question = check
        for number, is_claimed in enumerate((True, False)):
            own = context_of(f"{number}", thread_id=f"{number}")
            brought = opening(large, is_claimed=is_claimed)
            await house.service.start_offer(own, offer_of("q", opening=brought))
            await house.events(own)
        with pytest.raises(TooLarge):
            await house.service.start_offer(context_of("r"), offer_of("x" * 4000))


async def test_seed_counts_as_kept() -> None:
    async with open_house({"default": Listener().run}) as house:
        house.ground.book._admissions._quotas = Quotas(size=2000)
        large = opening({"id": "u", "role": "user", "content": "x" * 2000})
        with pytest.raises(LimitExceeded, match="storedBytesPerUser"):
            await house.service.start_offer(context_of("1"), offer_of("q", opening=large))
        own = context_of("2")
        await house.service.start_offer(own, offer_of("q", opening=opening()))
        await house.events(own)
        counted = await house.ground.database.read(
            lambda connection: connection.exec_driver_sql(COUNT_KEPT).one()
        )
        kept = await Usage(house.ground.database).load(ALICE)
        assert tuple(counted) == (ALICE, *kept)


# --- threads of requests -------------------------------------------------------------------------


async def test_request_is_told_to_nobody_and_removed_some_time_after_its_run_ended() -> None:
    gate = asyncio.Event()
    closed: list[ThreadKey] = []

    async def waits(input: object) -> AsyncIterator[str]:  # noqa: A002, ARG001
        yield "begins"
        await gate.wait()

    async def close(key: ThreadKey) -> None:
        closed.append(key)

    async with open_house({"default": waits}) as house:
        own, chat = context_of("1", thread_id="request"), context_of("2", thread_id="chat")
        asked = offer_of("q", opening=Opening(ThreadKind.REQUEST))
        await house.service.start_offer(own, asked)
        await house.service.start_offer(chat, offer_of("q"))
        await until(lambda: house.service.active_count == 2)
        active = await house.service.load_active_runs(ALICE)
        assert [run.run_id for run in active] == ["2"]

        async def remove() -> int:
            store, service = house.ground.store, house.service
            return await remove_due(store, service, close, older_than=house.clock())

        house.clock.now += 1
        assert await remove() == 0
        gate.set()
        await house.events(own)
        await house.events(chat)
        await until(lambda: not house.service._live)
        assert await remove() == 0  # it has ended just now
        house.clock.now += 1
        assert await remove() == 1
        assert closed == [own.thread_key]
        assert await house.ground.store.load_thread(own.thread_key) is None
        assert await house.ground.store.load_run(own.run_key) is None
        assert await house.ground.store.load_thread(chat.thread_key) is not None
        assert {notice["threadId"] for notice in house.notices} == {"chat"}
        await house.ground.log.sweep()
        counted = await house.ground.database.read(
            lambda connection: connection.exec_driver_sql(COUNT_KEPT).one()
        )
        kept = await Usage(house.ground.database).load(ALICE)
        assert tuple(counted) == (ALICE, *kept)
        assert kept.threads == 1


async def test_request_that_is_used_again_is_not_removed() -> None:
    gate = asyncio.Event()

    async def waits(input: object) -> AsyncIterator[str]:  # noqa: A002, ARG001
        await gate.wait()
        yield "done"

    async with open_house({"default": waits}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start_offer(first, offer_of("q", opening=Opening(ThreadKind.REQUEST)))
        gate.set()
        await house.events(first)
        await until(lambda: not house.service._live)
        gate.clear()
        house.clock.now += 10
        older_than = house.clock()
        await house.service.start(second, ask(second, "q2"))
        assert not await house.service.remove_request(first.thread_key, older_than=older_than + 5)
        gate.set()
        await house.events(second)
        await until(lambda: not house.service._live)
        assert not await house.service.remove_request(first.thread_key, older_than=older_than)
        assert await house.service.remove_request(first.thread_key, older_than=older_than + 5)


async def test_request_is_removed_after_a_restart(tmp_path: Path) -> None:
    url, removed = sqlite_url(tmp_path), list[ThreadKey]()

    async def waits(input: object) -> AsyncIterator[str]:  # noqa: A002, ARG001
        yield "begins"
        await asyncio.Event().wait()

    async def close(key: ThreadKey) -> None:
        removed.append(key)

    async with open_house({"default": waits}, url=url) as house:
        own = context_of("1")
        await house.service.start_offer(own, offer_of("q", opening=Opening(ThreadKind.REQUEST)))
        await until(lambda: house.service.active_count)
    async with open_house({"default": waits}, url=url) as house:
        assert await house.service.recover() == 1
        await until(lambda: not house.service._live)
        house.clock.now += 1
        store, older_than = house.ground.store, house.clock()
        assert await remove_due(store, house.service, close, older_than=older_than) == 1
        assert removed == [own.thread_key]
        assert await house.ground.store.load_thread(own.thread_key) is None
        assert house.notices == []
