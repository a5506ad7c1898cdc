"""The one who writes a run: in order, legal, once, never too far ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.house import (
    START,
    House,
    context_of,
    draft_of,
    key_of,
    losing_answers,
    open_house,
    refuse_writes,
    says,
    until,
)

from isolane.context import EventId
from isolane.errors import (
    AgentProtocolError,
    EventTooLarge,
    Fenced,
    NoActiveRun,
    NotFound,
    RunTooLarge,
    Unavailable,
)
from isolane.events.event import Event, decode_event, encode_event, run_finished, run_started
from isolane.events.shared_state import SharedState, decode_state
from isolane.runs.appender import UNCOMMITTED_MAX
from isolane.runs.writer import STEPS_AT_ONCE, RunWriter

END = run_finished(thread_id="thread", run_id="r", outcome={"type": "success"})
BEGIN = run_started(thread_id="thread", run_id="r", messages=[], rewind_to=None)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house({"default": says()}) as opened:
        begun = await opened.ground.begin_run(context_of("r"), draft_of())
        opened.lease = begun.lease
        yield opened


def writer_of(house: House, *, event_max_bytes: int = 1 << 20, **more: Any) -> RunWriter:  # noqa: ANN401
    return RunWriter(
        house.feed,
        key_of(),
        "r",
        lease=house.lease,
        known_ids=[],
        event_max_bytes=event_max_bytes,
        tasks=house.tasks,
        clock=house.clock,
        **more,
    )


async def finish(writer: RunWriter) -> None:
    await writer.finish(END, outcome="success", error_id=None)


async def written(house: House) -> list[Event]:
    records = await house.ground.log.read(key_of(), after=START, limit=10_000)
    assert [record.id.seq for record in records] == list(range(1, len(records) + 1))
    return [decode_event(record.payload) for record in records]


def custom(name: str) -> Event:
    return {"type": "CUSTOM", "name": name, "value": None}


async def test_events_are_written_in_order_from_start_to_end(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    for number in range(200):
        await writer.write(custom(str(number)))
    await finish(writer)
    events = await written(house)
    assert [event["type"] for event in (events[0], events[-1])] == ["RUN_STARTED", "RUN_FINISHED"]
    assert [event["name"] for event in events[1:-1]] == [str(number) for number in range(200)]
    assert len(house.tasks) == 0


async def test_what_is_open_is_closed_before_the_end(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await writer.write({"type": "STEP_STARTED", "stepName": "s"})
    await writer.write({"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "delta": "x"})
    await finish(writer)
    assert [event["type"] for event in await written(house)] == [
        "RUN_STARTED", "STEP_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END", "STEP_FINISHED", "RUN_FINISHED",
    ]  # fmt: skip
    stored = await house.ground.store.load_run(context_of("r").run_key)
    assert stored is not None
    assert (stored.state, stored.last_seq, stored.outcome) == ("ended", 7, "success")
    messages = await house.ground.store.load_messages_before(key_of(), 8)
    assert [message["content"] for message in messages] == ["x"]


async def test_an_illegal_event_is_refused_and_the_run_goes_on(house: House) -> None:
    writer = writer_of(house, event_max_bytes=1024)
    await writer.start(BEGIN)
    for wrong in (
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "RUN_FINISHED"},
        {"type": "CUSTOM", "name": "n", "value": float("nan")},
        {"type": "CUSTOM", "name": "n", "value": "x" * 1024},
    ):
        with pytest.raises(AgentProtocolError):
            await writer.write(wrong)
    await writer.write(custom("fine"))
    await finish(writer)
    assert [event["type"] for event in await written(house)] == [
        "RUN_STARTED", "CUSTOM", "RUN_FINISHED",
    ]  # fmt: skip


async def test_nothing_comes_after_the_end(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await finish(writer)
    with pytest.raises(AgentProtocolError, match="after the run's end"):
        await writer.write(custom("late"))
    with pytest.raises(NoActiveRun):
        await writer.emit(custom("late"))
    assert len(await written(house)) == 2


async def test_a_flood_waits_for_its_commits(house: House) -> None:
    writer = writer_of(house)
    most = 0

    async def flood() -> None:
        nonlocal most
        for number in range(20 * UNCOMMITTED_MAX):
            await writer.write(custom(str(number)))
            most = max(most, writer._appender.uncommitted)

    await flood()
    await finish(writer)
    assert most == UNCOMMITTED_MAX
    assert len(await written(house)) == 20 * UNCOMMITTED_MAX + 1


async def test_an_event_from_beside_gets_its_id_once_it_is_committed(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    ids = await asyncio.gather(*(writer.emit(custom(str(number))) for number in range(10)))
    assert [event_id.seq for event_id in ids] == list(range(2, 12))
    assert [event["name"] for event in (await written(house))[1:]] == [str(n) for n in range(10)]
    await finish(writer)


def state_delta(count: int = 1, size: int = 1) -> Event:
    steps = [{"op": "add", "path": f"/{n}", "value": "x" * size} for n in range(count)]
    return {"type": "STATE_DELTA", "delta": steps}


@pytest.mark.parametrize("steps", [1, STEPS_AT_ONCE + 1], ids=["on the loop", "beside it"])
async def test_delta_is_written_behind_the_state_that_its_client_does_not_know(
    house: House, steps: int
) -> None:
    kept = {"kept": True}
    writer = writer_of(house, state=SharedState.of({}, kept=kept))
    await writer.start(BEGIN)
    await writer.write(state_delta(steps))
    await writer.write(state_delta(steps))
    await finish(writer)
    types = [event["type"] for event in await written(house)]
    assert types[1:-1] == ["STATE_SNAPSHOT", "STATE_DELTA", "STATE_DELTA"]
    payload = await house.ground.store.load_state(key_of())
    assert payload is not None
    assert decode_state(payload) == {**kept, **{str(n): "x" for n in range(steps)}}


async def test_state_that_deltas_make_too_large_ends_the_run_with_the_one_before(
    house: House,
) -> None:
    writer = writer_of(house, event_max_bytes=500)
    await writer.start(BEGIN)
    await writer.write(state_delta(size=400))
    with pytest.raises(EventTooLarge, match="at most 500 are allowed"):
        await writer.write(
            {"type": "STATE_DELTA", "delta": [{"op": "copy", "path": "/1", "from": "/0"}]}
        )
    await finish(writer)
    assert [event["type"] for event in await written(house)].count("STATE_DELTA") == 1
    payload = await house.ground.store.load_state(key_of())
    assert payload is not None
    assert decode_state(payload) == {"0": "x" * 400}


async def test_what_could_not_be_written_is_written_before_the_end(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._appender.uncommitted)
    await refuse_writes(house.ground.database)
    await writer.write(custom("held back"))
    await until(lambda: writer._appender.failure)
    with pytest.raises(Unavailable):
        await writer.write(custom("refused"))
    with pytest.raises(Unavailable):
        await finish(writer)
    await refuse_writes(house.ground.database, while_refused=False)
    await finish(writer)
    assert [event.get("name") for event in await written(house)] == [None, "held back", None]


async def test_what_was_written_although_its_answer_got_lost_is_there_once(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._appender.uncommitted)
    with losing_answers(house.ground.database):
        await writer.write(custom("held back"))
        await until(lambda: writer._appender.failure)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await finish(writer)
    await finish(writer)
    assert [event.get("name") for event in await written(house)] == [None, "held back", None]


async def test_end_whose_answer_got_lost_is_there_once(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._appender.uncommitted)
    with losing_answers(house.ground.database), pytest.raises(Unavailable):
        await finish(writer)
    await finish(writer)
    assert [event["type"] for event in await written(house)] == ["RUN_STARTED", "RUN_FINISHED"]


async def test_writer_without_a_lease_takes_its_run_over(house: House) -> None:
    old = writer_of(house)
    await old.start(BEGIN)
    await until(lambda: not old._appender.uncommitted)
    house.lease = None
    new = writer_of(house)
    await new.write(custom("new"))
    await until(lambda: not new._appender.uncommitted)
    await old.write(custom("old"))
    await until(lambda: old._appender.failure)
    with pytest.raises(Fenced):
        await finish(old)
    await finish(new)
    assert [event.get("name") for event in await written(house)] == [None, "new", None]


async def test_who_emits_while_nothing_can_be_written_is_told(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._appender.uncommitted)
    await refuse_writes(house.ground.database)
    early = asyncio.create_task(writer.emit(custom("early")))
    await asyncio.sleep(0)
    during = asyncio.create_task(writer.emit(custom("during")))
    await until(lambda: writer._appender.failure)
    late = asyncio.create_task(writer.emit(custom("late")))
    await refuse_writes(house.ground.database, while_refused=False)
    await finish(writer)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(early, during, late, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable | EventId) for outcome in outcomes)


async def test_a_thread_that_is_deleted_takes_its_writer_along(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._appender.uncommitted)
    await house.feed.delete(key_of())
    await house.ground.begin_run(context_of("another"), draft_of())
    writer.disown()
    with pytest.raises(AgentProtocolError, match="after the run's end"):
        await writer.write(custom("late"))
    assert await house.ground.log.read(key_of(), after=START, limit=10) == []


async def test_an_end_of_the_gateways_own_may_be_larger_than_its_start(house: House) -> None:
    start: Event = {"type": "STEP_STARTED", "stepName": "x" * 100}
    writer = writer_of(house, event_max_bytes=len(encode_event(start, max_bytes=1000)))
    await writer.write(start)
    await finish(writer)
    assert [event["type"] for event in await written(house)] == [
        "STEP_STARTED", "STEP_FINISHED", "RUN_FINISHED",
    ]  # fmt: skip


async def emit(writer: RunWriter, *, after_passes: int = 0) -> EventId:
    for _ in range(after_passes):
        await asyncio.sleep(0)
    return await writer.emit(custom("beside"))


@pytest.mark.parametrize("passes", range(12))
async def test_who_emits_into_a_thread_that_is_deleted_is_told_at_once(
    house: House, passes: int
) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    waiting = [asyncio.create_task(emit(writer, after_passes=late)) for late in range(12)]
    deletion = asyncio.create_task(house.feed.delete(key_of()))
    for _ in range(passes):
        await asyncio.sleep(0)
    writer.disown()
    await deletion
    async with asyncio.timeout(5):
        told = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, NotFound | EventId) for answer in told), told
    with pytest.raises(NotFound):
        await writer.emit(custom("late"))
    with pytest.raises(NotFound):
        await finish(writer)


async def test_nobody_waits_for_an_event_of_a_run_that_is_over(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await refuse_writes(house.ground.database)
    waiting = asyncio.create_task(emit(writer))
    await asyncio.sleep(0)
    writer.close()
    async with asyncio.timeout(5):
        with pytest.raises((NoActiveRun, Unavailable)):
            await waiting
    await refuse_writes(house.ground.database, while_refused=False)
    await finish(writer)


@pytest.mark.parametrize("limit", ["runBytes", "runEvents"])
async def test_a_run_adds_no_more_than_its_bounds(house: House, limit: str) -> None:
    size = len(encode_event(custom("0"), max_bytes=1000))
    start = len(encode_event(BEGIN, max_bytes=1000))
    bounds = {"runBytes": {"run_max_bytes": start + 3 * size}, "runEvents": {"run_max_events": 4}}
    writer = writer_of(house, **bounds[limit])
    await writer.start(BEGIN)
    await writer.write(custom("0"))
    await writer.emit(custom("1"))  # what comes from beside the agent counts, too
    await writer.write(custom("2"))
    (most,) = bounds[limit].values()
    for write in (writer.write, writer.emit):
        with pytest.raises(RunTooLarge, match=f"{limit}, which are {most}"):
            await write(custom("3"))
    await finish(writer)  # the gateway's own end always has room
    assert [event.get("name") for event in await written(house)] == [None, "0", "1", "2", None]
