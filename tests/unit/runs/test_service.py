"""Runs: one end each whatever the agent does, one at a time on a thread, within limits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.house import (
    ALICE,
    House,
    ask,
    context_of,
    draft_of,
    key_of,
    open_house,
    refuse_writes,
    says,
    sqlite_url,
    until,
    user_message,
)

from isolane.agents.function import adapt_function
from isolane.agents.threads import AgentThreads
from isolane.context import EventId, RunKey, UserExecutionContext
from isolane.contracts import (
    AgentServiceProtocol,
    Disposition,
    RunLease,
    RunState,
    StoppedBy,
    ensure,
)
from isolane.errors import (
    InvalidContext,
    InvalidInput,
    LimitExceeded,
    NoActiveRun,
    NotFound,
    RunConflict,
    Unavailable,
    UnknownAgent,
)
from isolane.events.event import Event
from isolane.runs import agent_input, life
from isolane.runs.draft import to_draft

Agent = Callable[..., AsyncIterator[object]]


class UnspeakableError(Exception):
    """An error whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def raising(error: BaseException) -> Agent:
    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield "so far"
        raise error

    return agent


async def echo(input: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401
    yield f"you said {input.messages[-1].content}"


class Gate:
    """An agent that speaks, then waits until it is let go."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered: list[str] = []

    async def run(self, input: Any, context: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401, ARG002
        self.entered.append(context.run_id)
        yield "waiting"
        await self.opened.wait()
        yield "done"


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def texts(events: list[Event]) -> str:
    return "".join(event.get("delta", "") for event in events)


def outcome(events: list[Event]) -> str:
    last = events[-1]
    return str(last["code"] if last["type"] == "RUN_ERROR" else last["outcome"]["type"])


def assert_whole(events: list[Event]) -> None:
    """Say that a run begins and ends once, and is closed."""
    ends = [kind for kind in kinds(events) if kind in {"RUN_FINISHED", "RUN_ERROR"}]
    assert kinds(events)[0] == "RUN_STARTED"
    assert len(ends) == 1
    assert kinds(events)[-1] == ends[0]
    assert kinds(events).count("TEXT_MESSAGE_START") == kinds(events).count("TEXT_MESSAGE_END")


async def assert_quiet(house: House) -> None:
    """Say that nothing is left of any run."""
    await until(lambda: len(house.tasks) == 0)
    assert house.service.active_count == 0
    assert not house.service._live
    assert not house.limits._held
    assert not house.bell._listeners
    assert await house.ground.book.load_open_runs() == []


# --- one end, whatever the agent does ------------------------------------------------------------


async def test_text_becomes_one_message_between_start_and_end() -> None:
    async with open_house({"default": says("Hel", "", "lo")}) as house:
        events = await house.run(context_of("r"), "hi")
        assert kinds(events) == [
            "RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT",
            "TEXT_MESSAGE_END", "RUN_FINISHED",
        ]  # fmt: skip
        assert events[0]["input"]["messages"] == [user_message("hi")]
        assert (texts(events), outcome(events)) == ("Hello", "success")
        ensure(house.service, AgentServiceProtocol)
        await assert_quiet(house)


def _a_generator_that_ends_itself() -> Agent:
    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield "so far"
        raise GeneratorExit

    return agent


@pytest.mark.parametrize(
    "agent, code",
    [
        (raising(ValueError("hunter2")), "agent_error"),
        (raising(SystemExit(3)), "agent_error"),
        (raising(KeyboardInterrupt()), "agent_error"),
        (_a_generator_that_ends_itself(), "agent_error"),
        (raising(asyncio.CancelledError()), "agent_error"),
        (raising(UnspeakableError()), "agent_error"),
        (raising(StopAsyncIteration()), "agent_error"),
        (says(5), "agent_protocol"),
        (says(None), "agent_protocol"),
        (says(object()), "agent_protocol"),
        (says({}), "agent_protocol"),
        (says({"type": "CUSTOM", "name": "n", "value": float("nan")}), "agent_protocol"),
        (says({"type": "CUSTOM", "name": "n", "value": object()}), "agent_protocol"),
        (says({"type": "STEP_STARTED", "stepName": 5}), "agent_protocol"),
        (says({"type": "TEXT_MESSAGE_START", "messageId": "\ud800"}), "agent_protocol"),
        (says({"type": "TEXT_MESSAGE_END", "messageId": "m"}), "agent_protocol"),
        (says({"type": "CUSTOM", "name": "n", "value": "x" * 2000}), "agent_protocol"),
        (says({"type": "STATE_SNAPSHOT", "snapshot": "x" * 2000}), "agent_protocol"),
        (says({"type": "RUN_ERROR", "message": "hunter2", "code": "mine"}), "agent_error"),
        (says({"type": "RUN_STARTED", "threadId": "t", "runId": "r"}), "agent_protocol"),
    ],
    ids=["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError",
         "unspeakable", "StopAsyncIteration", "number", "None", "object", "empty", "NaN",
         "not JSON", "malformed", "half an id", "end without start", "too large", "large snapshot",
         "its own error",
         "another thread"],
)  # fmt: skip
async def test_a_bad_agent_ends_in_one_error_with_a_code_and_no_text(
    agent: Agent, code: str
) -> None:
    async with open_house({"default": agent}, limit_event_bytes=1024) as house:
        events = await house.run(context_of("r"), "hi")
        assert_whole(events)
        assert outcome(events) == code
        assert str(events[-1]["metadata"]["errorId"]).startswith("err_")
        assert "hunter2" not in str(events)
        assert "no text for you" not in str(events)
        stored = await house.ground.store.load_run(RunKey(ALICE, "r"))
        assert stored is not None
        assert (stored.state, stored.outcome) == (RunState.ENDED, code)
        assert stored.error_id == events[-1]["metadata"]["errorId"]
        await assert_quiet(house)


async def test_what_a_failed_run_said_before_stands() -> None:
    async with open_house({"default": raising(ValueError("x"))}) as house:
        await house.run(context_of("r"), "hi")
        messages = await house.ground.store.load_messages_before(key_of(), 100)
        assert [message["content"] for message in messages] == ["hi", "so far"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_agent_gets_a_history_of_any_length_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(agent_input, "HISTORY_STEP", 2)
    given: list[str] = []

    async def listener(input: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401
        given.extend(message.content for message in input.messages)
        yield "Done."

    texts = [f"question {number}" for number in range(count)]
    async with open_house({"default": listener}) as house:
        await house.service.start(context_of("1"), ask(context_of("1"), *texts))
        await house.events(context_of("1"))
    assert given == texts


async def test_an_agent_that_says_nothing_ends_well() -> None:
    async with open_house({"default": says()}) as house:
        events = await house.run(context_of("r"), "hi")
        assert kinds(events) == ["RUN_STARTED", "RUN_FINISHED"]


async def test_an_agent_may_say_its_own_start_and_end_and_they_are_replaced() -> None:
    agent = says(
        {"type": "RUN_STARTED", "threadId": "thread", "runId": "r"},
        {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "delta": "x"},
        {"type": "RUN_FINISHED", "threadId": "thread", "runId": "r", "result": {"a": None}},
    )
    async with open_house({"default": agent}) as house:
        events = await house.run(context_of("r"), "hi")
        assert_whole(events)
        assert events[0]["protocolVersion"] == "1.0"
        assert events[-1]["result"] == {"a": None}


async def test_what_comes_after_the_end_is_dropped() -> None:
    end = {"type": "RUN_FINISHED", "threadId": "thread", "runId": "r"}
    async with open_house({"default": says("x", end, "late", 5, end)}) as house:
        events = await house.run(context_of("r"), "hi")
        assert_whole(events)
        assert (texts(events), outcome(events)) == ("x", "success")


async def test_an_error_after_the_end_changes_nothing() -> None:
    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield {"type": "RUN_FINISHED", "threadId": "thread", "runId": "r"}
        raise ValueError

    async with open_house({"default": agent}) as house:
        assert outcome(await house.run(context_of("r"), "hi")) == "success"


async def test_an_agent_that_never_yields_ends_at_its_deadline() -> None:
    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        await asyncio.Event().wait()
        yield "never"

    async with open_house({"default": agent}, run_timeout_s=0.05) as house:
        events = await house.run(context_of("r"), "hi")
        assert_whole(events)
        assert outcome(events) == "agent_timeout"
        await assert_quiet(house)


async def test_an_agent_that_swallows_cancellation_is_abandoned_and_silenced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(life, "STOP_GRACE_S", 0.02)
    monkeypatch.setattr(life, "CANCEL_GRACE_S", 0.05)
    released = asyncio.Event()

    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield "before"
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        yield "after"

    async with open_house({"default": agent}) as house:
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        await until(lambda: house.feed.appended >= 3)
        await house.service.abort(context)
        events = await house.events(context)
        assert_whole(events)
        assert (texts(events), outcome(events)) == ("before", "cancelled")
        released.set()
        await assert_quiet(house)
        assert len(await house.records(context)) == len(events)


@pytest.mark.parametrize(
    "nothing",
    ["", {"type": "RUN_STARTED", "threadId": "thread", "runId": "r"}],
    ids=["empty text", "starts"],
)
async def test_an_agent_that_never_waits_does_not_stop_the_house(nothing: object) -> None:
    turns = 0
    seen: list[int] = []

    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        seen.append(turns)
        for _ in range(20_000):
            yield nothing
        seen.append(turns)

    async def neighbour() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with open_house({"default": agent}) as house:
        beside = asyncio.create_task(neighbour())
        await house.run(context_of("r"), "hi")
        beside.cancel()
        first, last = seen
        assert last - first > 10


# --- stop ----------------------------------------------------------------------------------------


async def test_an_agent_that_heeds_the_stop_ends_cancelled_and_keeps_its_words() -> None:
    async def agent(input: object, context: object, stop: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401, ARG001
        yield "before"
        await stop.wait()
        yield " and after"

    async with open_house({"default": agent}) as house:
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        await until(lambda: house.feed.appended >= 3)
        await house.service.abort(context)
        await house.service.abort(context)
        events = await house.events(context)
        assert_whole(events)
        assert (texts(events), outcome(events)) == ("before and after", "cancelled")
        await house.service.abort(context)  # ended: stays as it is
        assert len(await house.events(context)) == len(events)
        await assert_quiet(house)


async def test_a_stop_before_the_first_event_keeps_the_agent_from_starting() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        await house.service.abort(context)
        events = await house.events(context)
        assert kinds(events) == ["RUN_STARTED", "RUN_FINISHED"]
        assert outcome(events) == "cancelled"
        assert gate.entered == []
        await assert_quiet(house)


async def test_a_stop_that_overtook_its_run_waits_ten_seconds_for_it() -> None:
    async with open_house({"default": says("x")}) as house:
        for run_id in ("in time", "too late", "bobs"):
            await house.service.remember_abort(ALICE, run_id.replace(" ", "-"))
        bobs = context_of("bobs", user_id="bob")
        assert outcome(await house.run(bobs, "hi")) == "success"
        house.clock.now += 10_000
        assert outcome(await house.run(context_of("in-time"), "hi")) == "cancelled"
        house.clock.now += 1
        assert outcome(await house.run(context_of("too-late"), "ho")) == "success"


async def test_a_hundred_overtaking_stops_are_kept_for_each_user() -> None:
    async with open_house({"default": says("x")}) as house:
        for number in range(101):
            await house.service.remember_abort(ALICE, f"r{number}")
        assert outcome(await house.run(context_of("r0"), "hi")) == "success"
        assert outcome(await house.run(context_of("r1"), "ho")) == "cancelled"


async def test_a_queued_run_that_is_stopped_has_its_two_events_in_its_turn() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "a"))
        await house.service.start(second, ask(second, "b"))
        await house.service.abort(second)
        gate.opened.set()
        assert outcome(await house.events(first)) == "success"
        events = await house.events(second)
        assert kinds(events) == ["RUN_STARTED", "RUN_FINISHED"]
        assert gate.entered == ["1"]
        await assert_quiet(house)


async def deaf_to_the_stop(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
    yield "begun"
    await asyncio.Event().wait()


async def deaf_with_context(input: object, context: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
    yield "begun"
    await asyncio.Event().wait()


@pytest.mark.parametrize("agent", [deaf_to_the_stop, deaf_with_context])
@pytest.mark.parametrize("threads", [0, 1], ids=["the gateway's loop", "a loop of its own"])
async def test_an_agent_that_takes_no_stop_is_cancelled_at_once(
    monkeypatch: pytest.MonkeyPatch, agent: Agent, threads: int
) -> None:
    monkeypatch.setattr(life, "STOP_GRACE_S", 3600.0)
    places = AgentThreads(threads, watch=lambda _name: lambda: None)
    adapted = adapt_function(agent, name="default")
    served = places.wrap(adapted) if threads else adapted
    async with open_house({"default": served}) as house:
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        async for record in house.service.follow(context):
            if b"CONTENT" in record.payload:
                break
        await house.service.abort(context)
        async with asyncio.timeout(10):
            assert outcome(await house.events(context)) == "cancelled"
        stored = await house.service.load_run(context, "r")
        assert stored.stop is not None
        assert stored.stop.by is StoppedBy.CANCELLATION
    places.close()


# --- one at a time -------------------------------------------------------------------------------


async def test_runs_of_a_thread_wait_for_their_turn() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        contexts = [context_of(str(number)) for number in range(4)]
        tickets = [await house.service.start(one, ask(one, one.run_key.run_id)) for one in contexts]
        assert [(ticket.disposition, ticket.position) for ticket in tickets] == [
            (Disposition.STARTED, None), (Disposition.QUEUED, 1),
            (Disposition.QUEUED, 2), (Disposition.QUEUED, 3),
        ]  # fmt: skip
        assert house.service.active_count == 1
        gate.opened.set()
        runs = [await house.events(one) for one in contexts]
        assert all(outcome(events) == "success" for events in runs)
        assert gate.entered == ["0", "1", "2", "3"]
        records = [
            record.run_id
            for record in await house.ground.log.read(key_of(), after=EventId("0", 0), limit=1000)
        ]
        assert records == sorted(records)  # no run's events within another's
        await assert_quiet(house)


async def test_a_run_that_interrupts_is_next_in_line() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        runs = [context_of(str(number)) for number in range(4)]
        for one in runs[:3]:
            await house.service.start(one, ask(one, one.run_key.run_id))
        props = {"policy": "interrupt"}
        ticket = await house.service.start(runs[3], ask(runs[3], "3", forwardedProps=props))
        assert (ticket.disposition, ticket.position) == (Disposition.QUEUED, 1)
        assert outcome(await house.events(runs[0])) == "cancelled"
        gate.opened.set()
        for one in runs[1:]:
            assert outcome(await house.events(one)) == "success"
        assert gate.entered == ["0", "3", "1", "2"]
        await assert_quiet(house)


async def test_a_run_that_interrupts_is_next_after_a_restart_too(tmp_path: Path) -> None:
    url, gate = sqlite_url(tmp_path), Gate()
    runs = [context_of(str(number)) for number in range(3)]
    props = {"policy": "interrupt"}
    async with open_house({"default": gate.run}, url=url) as house:
        for one in runs[:2]:
            house.clock.now += 1
            await house.service.start(one, ask(one, one.run_key.run_id))
        house.draining.begin()  # as in a shutdown, in which nobody's turn comes
        house.clock.now += 1
        draft = to_draft(ask(runs[2], "2", forwardedProps=props), "default")
        await house.ground.admit(runs[2], draft, policy="interrupt")
    gate.entered.clear()
    gate.opened.set()
    async with open_house({"default": gate.run}, url=url) as house:
        await house.service.recover()
        for one in runs[1:]:
            assert outcome(await house.events(one)) == "success"
    assert gate.entered == ["2", "1"]


async def test_threads_and_users_do_not_wait_for_each_other() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        contexts = [
            context_of("r1", thread_id="one"), context_of("r2", thread_id="two"),
            context_of("r1", thread_id="one", user_id="bob"),
        ]  # fmt: skip
        for one in contexts:
            ticket = await house.service.start(one, ask(one, "hi"))
            assert ticket.disposition is Disposition.STARTED
        assert house.service.active_count == 3
        assert len(await house.service.load_active_runs(ALICE)) == 2
        gate.opened.set()
        for one in contexts:
            assert outcome(await house.events(one)) == "success"
        await assert_quiet(house)


async def test_a_full_queue_refuses_and_takes_nothing() -> None:
    gate = Gate()
    async with open_house(
        {"default": gate.run}, limit_queued_runs_per_thread=1, limit_runs_per_user=3
    ) as house:
        contexts = [context_of(str(number)) for number in range(2)]
        for one in contexts:
            await house.service.start(one, ask(one, one.run_key.run_id))
        for number in range(5):
            refused = context_of(f"refused{number}")
            with pytest.raises(LimitExceeded, match="queuedRunsPerThread is limited to 1"):
                await house.service.start(refused, ask(refused, "hi"))
        other = context_of("other", thread_id="other")
        await house.service.start(other, ask(other, "hi"))  # the third slot is free still
        with pytest.raises(LimitExceeded, match="runsPerUser is limited to 3"):
            await house.service.start(
                context_of("x", thread_id="x"), ask(context_of("x", thread_id="x"), "hi")
            )
        gate.opened.set()
        for one in (*contexts, other):
            await house.events(one)
        await assert_quiet(house)


async def test_without_room_new_runs_are_refused_and_those_taken_on_are_carried_out() -> None:
    gate, shortage = Gate(), list[Unavailable]()

    def check_room() -> None:
        for error in shortage:
            raise error

    async with open_house({"default": gate.run}, limit_runs_per_user=3) as house:
        house.service._admission._check_room = check_room
        active, queued, late = context_of("a"), context_of("q"), context_of("l")
        for one in (active, queued):
            await house.service.start(one, ask(one, one.run_key.run_id))
        shortage.append(Unavailable("short"))
        for thread in ("thread", "other"):
            for number in range(5):  # more than a user may have: a slot that is lost is missed
                refused = context_of(f"{thread}{number}", thread_id=thread)
                with pytest.raises(Unavailable, match="short"):
                    await house.service.start(refused, ask(refused, "hi"))
        again = await house.service.start(active, ask(active, "a"))
        assert again.disposition is Disposition.ATTACHED
        gate.opened.set()
        assert outcome(await house.events(active)) == "success"
        assert outcome(await house.events(queued)) == "success"
        shortage.clear()
        assert outcome(await house.run(late, "hi")) == "success"
        await assert_quiet(house)


async def test_policy_reject_refuses_a_busy_thread_and_may_be_tried_again() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}, policy="reject") as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "a"))
        with pytest.raises(RunConflict) as caught:
            await house.service.start(second, ask(second, "b"))
        assert caught.value.retryable
        gate.opened.set()
        await house.events(first)
        assert outcome(await house.run(second, "b")) == "success"
        await assert_quiet(house)


async def test_policy_interrupt_stops_the_first_then_runs() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "a"))
        await until(lambda: gate.entered)
        ticket = await house.service.start(
            second, ask(second, "b", forwardedProps={"policy": "interrupt"})
        )
        assert ticket.disposition is Disposition.QUEUED
        assert outcome(await house.events(first)) == "cancelled"
        gate.opened.set()
        assert outcome(await house.events(second)) == "success"
        await assert_quiet(house)


@pytest.mark.parametrize(
    "props, field",
    [({"policy": "drop"}, "forwardedProps.policy"), ({"policy": 5}, "forwardedProps.policy"),
     ({"rewindTo": 5}, "forwardedProps.rewindTo"),
     ({"rewindTo": "gone"}, "forwardedProps.rewindTo")],
    ids=["policy", "policy type", "rewind type", "rewind target"],
)  # fmt: skip
async def test_a_wrong_wish_is_named_and_takes_nothing(
    props: dict[str, object], field: str
) -> None:
    async with open_house({"default": echo}) as house:
        context = context_of("r")
        with pytest.raises(InvalidInput) as caught:
            await house.service.start(context, ask(context, "hi", forwardedProps=props))
        assert caught.value.field == field
        await assert_quiet(house)


async def test_an_unknown_agent_is_not_found() -> None:
    async with open_house({"default": echo, "other": says("other")}) as house:
        context = context_of("r")
        with pytest.raises(UnknownAgent):
            await house.service.start(context, ask(context, "hi"), agent="missing")
        await house.service.start(context, ask(context, "hi"), agent="other")
        assert texts(await house.events(context)) == "other"


# --- the same run twice --------------------------------------------------------------------------


async def test_the_same_run_id_attaches_and_never_runs_twice() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        context = context_of("r")
        tickets = await asyncio.gather(
            *(house.service.start(context, ask(context, "hi")) for _ in range(10))
        )
        dispositions = sorted(ticket.disposition for ticket in tickets)
        assert dispositions == [Disposition.ATTACHED] * 9 + [Disposition.STARTED]
        gate.opened.set()
        events = await house.events(context)
        again = await house.service.start(context, ask(context, "hi"))
        assert again.disposition is Disposition.ATTACHED
        assert (await house.events(context, after=again.after)) == events
        assert gate.entered == ["r"]
        await assert_quiet(house)


async def test_an_empty_list_of_messages_only_asks_to_attach() -> None:
    async with open_house({"default": echo}) as house:
        context = context_of("r")
        await house.run(context, "hi")
        ticket = await house.service.start(context, ask(context))
        assert ticket.disposition is Disposition.ATTACHED


async def test_a_client_that_sends_its_whole_history_again_attaches() -> None:
    async with open_house({"default": echo}) as house:
        await house.run(context_of("1"), "a")
        await house.run(context_of("2"), "a", "b")
        ticket = await house.service.start(context_of("2"), ask(context_of("2"), "a", "b"))
        assert ticket.disposition is Disposition.ATTACHED


@pytest.mark.parametrize(
    "context, messages",
    [
        (context_of("r", thread_id="other"), [user_message("hi")]),
        (context_of("r"), [user_message("ho")]),
        (context_of("r"), [user_message("hi"), user_message("ho")]),
        (context_of("r"), [user_message("changed", message_id="hi")]),
    ],
    ids=["thread", "message", "one more", "text"],
)
async def test_the_same_run_id_with_other_content_is_a_conflict(
    context: UserExecutionContext, messages: list[dict[str, object]]
) -> None:
    async with open_house({"default": echo}) as house:
        await house.run(context_of("r"), "hi")
        with pytest.raises(RunConflict) as caught:
            await house.service.start(context, ask(context, messages=messages))
        assert not caught.value.retryable
        bobs = context_of("r", user_id="bob")
        assert outcome(await house.run(bobs, "ho")) == "success"
        await assert_quiet(house)


# --- history -------------------------------------------------------------------------------------


async def test_the_agent_gets_the_stored_history_and_not_the_clients() -> None:
    seen: list[list[tuple[str, object]]] = []

    async def agent(input: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401
        seen.append([(message.role, message.content) for message in input.messages])
        yield f"answer {len(seen)}"

    async with open_house({"default": agent}) as house:
        await house.run(context_of("1"), "a")
        await house.run(context_of("2"), "a", "b")
        assert seen == [
            [("user", "a")],
            [("user", "a"), ("assistant", "answer 1"), ("user", "b")],
        ]


async def test_a_rewind_drops_the_message_and_what_follows_it() -> None:
    seen: list[list[object]] = []

    async def agent(input: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401
        seen.append([message.content for message in input.messages])
        yield f"answer {len(seen)}"

    async with open_house({"default": agent}) as house:
        await house.run(context_of("1"), "a")
        await house.run(context_of("2"), "b")
        events = await house.run(context_of("3"), "c", forwardedProps={"rewindTo": "b"})
        assert seen[-1] == ["a", "answer 1", "c"]
        assert events[0]["input"]["forwardedProps"] == {"rewindTo": "b"}


async def test_a_rewind_works_where_an_agent_used_a_message_id_twice() -> None:
    chunk = {"type": "TEXT_MESSAGE_CHUNK", "messageId": "always-the-same", "delta": "x"}
    async with open_house({"default": says(chunk)}) as house:
        await house.run(context_of("1"), "a")
        await house.run(context_of("2"), "b")
        props = {"rewindTo": "always-the-same"}
        events = await house.run(context_of("3"), "c", forwardedProps=props)
        assert outcome(events) == "success"


async def test_a_finished_runs_messages_are_readable_before_its_end_is_heard() -> None:
    async with open_house({"default": echo}) as house:
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        async for record in house.service.follow(context):
            if record.is_end:
                messages = await house.ground.store.load_messages_before(
                    key_of(), record.id.seq + 1
                )
                assert [message["content"] for message in messages] == ["hi", "you said hi"]
                break
        else:
            pytest.fail("the run has no end")


# --- following -----------------------------------------------------------------------------------


async def test_an_unknown_and_a_foreign_run_are_the_same_to_a_follower() -> None:
    async with open_house({"default": echo}) as house:
        await house.run(context_of("r"), "hi")
        errors = []
        for context in (context_of("unknown"), context_of("r", user_id="bob")):
            with pytest.raises(NotFound) as caught:
                await house.events(context)
            errors.append(caught.value.message)
        assert errors[0] == errors[1]


async def test_rejoining_a_finished_run_at_its_end_ends() -> None:
    async with open_house({"default": echo}) as house:
        context = context_of("r")
        await house.run(context, "hi")
        last = (await house.records(context))[-1].id
        async with asyncio.timeout(3):
            assert await house.records(context, after=last) == []


async def test_who_attaches_to_a_queued_run_misses_none_of_its_events() -> None:
    gate = Gate()

    class SlowStore:
        """The house's own store, in which one look-up takes as long as a test wants."""

        def __init__(self, store: object) -> None:
            self._store = store
            self.reached, self.go_on = asyncio.Event(), asyncio.Event()

        def __getattr__(self, name: str) -> object:
            return getattr(self._store, name)

        async def load_known_ids(self, key: object) -> object:
            self.reached.set()
            await self.go_on.wait()
            return await self._store.load_known_ids(key)  # type: ignore[attr-defined]

    stores: list[SlowStore] = []

    def wrap(store: Any) -> Any:  # noqa: ANN401 - one store for another
        stores.append(SlowStore(store))
        return stores[0]

    async with open_house({"default": gate.run}, wrap_store=wrap) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "a"))
        await house.service.start(second, ask(second, "b"))
        attaching = asyncio.create_task(house.service.start(second, ask(second, "b")))
        await stores[0].reached.wait()
        gate.opened.set()
        events = await house.events(second)  # its whole life, while the other waits
        stores[0].go_on.set()
        ticket = await attaching
        async with asyncio.timeout(3):
            assert await house.events(second, after=ticket.after) == events


# --- beside a run --------------------------------------------------------------------------------


async def test_an_event_may_be_put_into_the_run_under_way_and_only_there() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        with pytest.raises(NoActiveRun):
            await house.service.emit(key_of(), "note", {})
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        await until(lambda: gate.entered)
        event_id = await house.service.emit(key_of(), "note", {"a": 1})
        with pytest.raises(NoActiveRun):
            await house.service.emit(key_of(user_id="bob"), "note", {})
        gate.opened.set()
        events = await house.events(context)
        assert events[event_id.seq - 1] == {"type": "CUSTOM", "name": "note", "value": {"a": 1}}
        assert_whole(events)
        with pytest.raises(NoActiveRun):
            await house.service.emit(key_of(), "note", {})


async def test_sockets_hear_that_a_thread_is_busy_and_free_again() -> None:
    async with open_house({"default": echo}) as house:
        await house.run(context_of("r"), "what is this?")
        await assert_quiet(house)
        frames = [
            (frame["threadId"], frame["title"], frame["activeRunId"]) for frame in house.notices
        ]
        assert frames[-1] == ("thread", "what is this?", None)
        assert ("thread", "what is this?", "r") in frames


async def test_deleting_a_thread_ends_its_runs_without_another_event() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "a"))
        await house.service.start(second, ask(second, "b"))
        await until(lambda: house.feed.appended >= 3)
        await house.service.delete_thread(context_of())
        await assert_quiet(house)
        assert gate.entered == ["1"]
        assert house.notices[-1]["deleted"] is True
        with pytest.raises(NotFound):
            await house.service.delete_thread(context_of())
        gate.opened.set()
        assert outcome(await house.run(first, "other words")) == "success"  # the id is free again
        await assert_quiet(house)


async def test_a_thread_deleted_as_its_next_run_begins_stays_deleted() -> None:
    opened, hold = asyncio.Event(), threading.Event()
    entered: list[str] = []

    async def agent(input: Any, context: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401, ARG001
        entered.append(context.run_id)
        yield "waiting"
        await opened.wait()

    async with open_house({"default": agent}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "a"))
        await house.service.start(second, ask(second, "b"))
        await until(lambda: house.feed.appended == 3)
        run = house.service._live[first.run_key]
        # What is written now waits in line: the first run's end, then the deletion.
        busy = asyncio.create_task(house.ground.database.write(lambda _: hold.wait(10)))
        opened.set()
        await until(lambda: run.writer and run.writer._is_ended)
        await until(lambda: house.ground.log._commits.is_busy)
        deleting = asyncio.create_task(house.service.delete_thread(context_of()))
        await asyncio.sleep(0)
        hold.set()
        await asyncio.gather(busy, deleting)
        await assert_quiet(house)
        assert await house.ground.store.load_thread(key_of()) is None
        assert entered == ["1"]


# --- trouble below -------------------------------------------------------------------------------


async def test_a_start_that_cannot_be_stored_takes_nothing() -> None:
    async with open_house({"default": echo}) as house:
        await refuse_writes(house.ground.database)
        for number in range(7):
            context = context_of(f"r{number}")
            with pytest.raises(Unavailable):
                await house.service.start(context, ask(context, "hi"))
        await refuse_writes(house.ground.database, while_refused=False)
        assert outcome(await house.run(context_of("r"), "hi")) == "success"
        await assert_quiet(house)


async def test_a_run_whose_log_fails_ends_once_the_log_is_back() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        await until(lambda: house.feed.appended >= 3)
        await refuse_writes(house.ground.database)
        gate.opened.set()
        run = house.service._live[context.run_key]
        await until(lambda: run.writer and run.writer._is_ended)
        await refuse_writes(house.ground.database, while_refused=False)
        events = await house.events(context)
        assert_whole(events)
        await assert_quiet(house)


# --- after a restart -----------------------------------------------------------------------------


async def test_recovery_ends_what_another_life_left_open(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    async with open_house({"default": Gate().run}, url=url) as house:
        for run_id, thread_id in (("1", "one"), ("2", "two")):
            context = context_of(run_id, thread_id=thread_id)
            await house.service.start(context, ask(context, "hi"))
        await until(lambda: house.feed.appended >= 6)
    async with open_house({"default": echo}, url=url) as house:
        assert await house.service.recover() == 2
        for run_id, thread_id in (("1", "one"), ("2", "two")):
            context = context_of(run_id, thread_id=thread_id)
            events = await house.events(context)
            assert_whole(events)
            assert (texts(events), outcome(events)) == ("waiting", "agent_lost")
            assert outcome(
                await house.run(context_of(f"{run_id}b", thread_id=thread_id), "ho")
            ) == ("success")
        assert await house.service.recover() == 0
        await assert_quiet(house)


async def test_recovery_ends_each_of_two_lost_runs_of_a_thread() -> None:
    async with open_house({"default": says("x")}) as house:
        await house.ground.begin_run(context_of("r-1"), draft_of("r-1"))
        await house.ground.book.give_up(context_of("r-1").run_key)  # its end was refused
        await house.ground.begin_run(context_of("r-2"), draft_of("r-2"))
        for _ in range(2):  # one with each start, for each has the thread's turn until it ends
            assert await house.service.recover() == 1
            await until(lambda: not house.service._live)
        for run_id in ("r-1", "r-2"):
            events = await house.events(context_of(run_id))
            assert [event["type"] for event in events] == ["RUN_STARTED", "RUN_ERROR"]
        assert await house.ground.book.load_open_runs() == []


async def test_run_that_somebody_else_took_over_ends_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    go_on = asyncio.Event()

    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield "before"
        await go_on.wait()
        yield "after"

    async with open_house({"default": agent}) as house:
        context = context_of("r")
        await house.service.start(context, ask(context, "hi"))
        await until(lambda: house.feed.appended >= 3)
        lease = await house.feed.take_over(context.thread_key, "r")
        appended = house.feed.appended
        go_on.set()
        await until(lambda: not house.service.active_count)
        assert house.feed.appended == appended
        head = (await house.feed.load_bounds(context.thread_key)).head
        assert head.seq == appended
        (end,) = await house.feed.append(lease, [b'{"type":"RUN_FINISHED"}'], batch=1)
        assert end.id.seq == appended + 1
    assert "run_failed" not in capsys.readouterr().out


async def test_recovery_ends_a_run_that_died_before_its_first_event() -> None:
    async with open_house({"default": echo}) as house:
        await house.ground.begin_run(context_of("r"), draft_of("hi"))
        assert await house.service.recover() == 1
        events = await house.events(context_of("r"))
        assert kinds(events) == ["RUN_STARTED", "RUN_ERROR"]
        assert events[0]["input"]["messages"] == [user_message("hi")]
        await assert_quiet(house)


async def test_recovery_takes_queued_runs_on_again_in_their_order() -> None:
    gate = Gate()
    gate.opened.set()
    async with open_house({"default": gate.run}) as house:
        await house.ground.begin_run(context_of("0"), draft_of("a"))
        for run_id in ("2", "1", "3"):
            await house.ground.add_run(context_of(run_id), draft_of(run_id))
        assert await house.service.recover() == 1
        for run_id in ("2", "1", "3"):
            assert outcome(await house.events(context_of(run_id))) == "success"
        assert gate.entered == ["2", "1", "3"]
        await assert_quiet(house)


async def test_recovery_takes_queued_runs_on_though_the_limits_have_shrunk() -> None:
    async with open_house(
        {"default": echo}, limit_runs_per_user=1, limit_queued_runs_per_thread=0
    ) as house:
        await house.ground.begin_run(context_of("0"), draft_of("0"))
        for run_id in ("1", "2", "3"):
            await house.ground.add_run(context_of(run_id), draft_of(run_id))
        await house.service.recover()
        for run_id in ("1", "2", "3"):
            assert outcome(await house.events(context_of(run_id))) == "success"
        await assert_quiet(house)


async def test_recovery_keeps_a_history_that_the_lost_run_had_repeated(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    snapshot = {"type": "MESSAGES_SNAPSHOT", "messages": [user_message("a"), user_message("b")]}

    async def agent(input: Any, context: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401, ARG001
        if context.run_id == "2":
            yield snapshot
            await asyncio.Event().wait()
        yield "answer"

    async with open_house({"default": agent}, url=url) as house:
        await house.run(context_of("1"), "a")
        second = context_of("2")
        before = house.feed.appended
        await house.service.start(second, ask(second, "b"))
        await until(lambda: house.feed.appended >= before + 2)
    async with open_house({"default": echo}, url=url) as house:
        await house.service.recover()
        messages = await house.ground.store.load_messages_before(key_of(), 1000)
        ids = [message["id"] for message in messages]
        assert sorted(ids) == sorted(set(ids))


# --- going away ----------------------------------------------------------------------------------


async def test_a_drain_lets_runs_end_and_then_ends_them() -> None:
    gate, patient = Gate(), Gate()
    async with open_house({"default": gate.run, "patient": patient.run}) as house:
        quick, slow = context_of("q", thread_id="q"), context_of("s", thread_id="s")
        queued = context_of("w", thread_id="s")
        await house.service.start(quick, ask(quick, "hi"))
        await house.service.start(slow, ask(slow, "hi"), agent="patient")
        await house.service.start(queued, ask(queued, "ho"), agent="patient")
        await until(lambda: gate.entered and patient.entered)
        draining = asyncio.create_task(house.service.drain(timeout_s=0.1))
        await asyncio.sleep(0)
        gate.opened.set()
        with pytest.raises(Unavailable):
            await house.service.start(context_of("late"), ask(context_of("late"), "hi"))
        await draining
        assert outcome(await house.events(quick)) == "success"
        assert outcome(await house.events(slow)) == "going_away"
        (waiting,) = await house.ground.book.load_open_runs()
        assert (waiting.key.run_id, waiting.state) == ("w", RunState.QUEUED)


async def test_a_run_belongs_to_the_thread_that_is_on_record() -> None:
    gate = asyncio.Event()

    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield "begun"
        await gate.wait()

    async with open_house({"default": agent}) as house:
        own = context_of("r")
        await house.service.start(own, ask(own, "go"))
        elsewhere = context_of("r", thread_id="elsewhere")
        with pytest.raises(InvalidContext, match="runId: must name a run of the context's own"):
            await house.service.abort(elsewhere)
        with pytest.raises(InvalidContext, match="runId"):
            _ = [record async for record in house.service.follow(elsewhere)]
        with pytest.raises(RunConflict):
            await house.service.start(elsewhere, ask(elsewhere, "go"))
        gate.set()
        events = await house.events(own)
        assert events[-1]["outcome"] == {"type": "success"}  # nobody has stopped it
        assert house.feed.readers == 0


async def test_a_run_that_cannot_begin_holds_up_no_other_of_its_thread() -> None:
    gate = Gate()

    class FaultyBook:
        """The house's own book, in which the second run can't begin."""

        def __init__(self, book: object) -> None:
            self._book = book

        def __getattr__(self, name: str) -> object:
            return getattr(self._book, name)

        async def begin(
            self, context: UserExecutionContext, lease: RunLease, *, is_restartable: bool
        ) -> object:
            if context.run_id == "2":
                raise ValueError("what nobody foresaw")
            return await self._book.begin(context, lease, is_restartable=is_restartable)  # type: ignore[attr-defined]

    def wrap(book: Any) -> Any:  # noqa: ANN401 - one book for another
        return FaultyBook(book)

    async with open_house({"default": gate.run}, wrap_book=wrap) as house:
        runs = [context_of(str(number)) for number in (1, 2, 3)]
        for run in runs:
            await house.service.start(run, ask(run, "hi"))
        gate.opened.set()
        async with asyncio.timeout(5):
            assert outcome(await house.events(runs[2])) == "success"
        await until(lambda: len(house.tasks) == 0)
        assert not house.service._live
        assert not house.limits._held  # on record it waits still, for the next start
