"""The one who writes a run: in order, legal, once, never too far ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from tests.house import START, House, context_of, draft_of, key_of, open_house, says, until

from isolane.context import EventId
from isolane.errors import AgentProtocol, NoActiveRun, Unavailable
from isolane.events import Event, decode_event, encode_event, run_finished, run_started
from isolane.service.writer import UNCOMMITTED_MAX, RunWriter

END = run_finished(thread_id="thread", run_id="r", outcome={"type": "success"})
BEGIN = run_started(thread_id="thread", run_id="r", messages=[], rewind_to=None)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house({"default": says()}) as opened:
        begun = await opened.ground.store.begin_run(context_of("r"), draft_of())
        opened.epoch = begun.after.epoch
        yield opened


def writer_of(house: House, *, event_max_bytes: int = 1 << 20) -> RunWriter:
    return RunWriter(
        house.feed,
        key_of(),
        "r",
        epoch=house.epoch,
        known_ids=[],
        event_max_bytes=event_max_bytes,
        tasks=house.tasks,
        clock=house.clock,
    )


async def finish(writer: RunWriter) -> None:
    await writer.finish(END, outcome="success", error_id=None)


async def written(house: House) -> list[Event]:
    records = await house.ground.log.read(key_of(), after=START, limit=10_000)
    assert [record.id.seq for record in records] == list(range(1, len(records) + 1))
    return [decode_event(record.payload) for record in records]


def custom(name: str) -> Event:
    return {"type": "CUSTOM", "name": name, "value": None}


def rename(old: str, new: str) -> Any:  # noqa: ANN401 - what the database takes
    return lambda connection: connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))


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
        with pytest.raises(AgentProtocol):
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
    with pytest.raises(AgentProtocol, match="after the run's end"):
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
            most = max(most, writer._uncommitted)

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


async def test_what_could_not_be_written_is_written_before_the_end(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._uncommitted)
    await house.ground.database.write(rename("events", "away"))
    await writer.write(custom("held back"))
    await until(lambda: writer._failure)
    with pytest.raises(Unavailable):
        await writer.write(custom("refused"))
    with pytest.raises(Unavailable):
        await finish(writer)
    await house.ground.database.write(rename("away", "events"))
    await finish(writer)
    assert [event.get("name") for event in await written(house)] == [None, "held back", None]


async def test_who_emits_while_nothing_can_be_written_is_told(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._uncommitted)
    await house.ground.database.write(rename("events", "away"))
    early = asyncio.create_task(writer.emit(custom("early")))
    await asyncio.sleep(0)
    during = asyncio.create_task(writer.emit(custom("during")))
    await until(lambda: writer._failure)
    late = asyncio.create_task(writer.emit(custom("late")))
    await house.ground.database.write(rename("away", "events"))
    await finish(writer)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(early, during, late, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable | EventId) for outcome in outcomes)


async def test_a_thread_that_is_deleted_takes_its_writer_along(house: House) -> None:
    writer = writer_of(house)
    await writer.start(BEGIN)
    await until(lambda: not writer._uncommitted)
    await house.feed.delete(key_of())
    await house.ground.store.begin_run(context_of("another"), draft_of())
    writer.disown()
    with pytest.raises(AgentProtocol, match="after the run's end"):
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
