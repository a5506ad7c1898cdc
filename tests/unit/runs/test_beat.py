"""Answers of the database that get lost: what was done all the same begins or ends within beats."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.house import House, ask, context_of, draft_of, open_house, says, sqlite_url, until
from tests.unit.runs.test_service import Gate, kinds, outcome

from isolane.contracts import RunBook, RunState, Terms
from isolane.errors import DatabaseFailed, Unavailable
from isolane.runs.beat import UNKNOWN_MS

FIRST, SECOND = context_of("1"), context_of("2")


class Lossy:
    """The house's own book. It does what it is asked for, and some of its answers get lost."""

    def __init__(self, book: object) -> None:
        self._book = book
        self.losing: list[str] = []
        """Methods whose next answer is lost, once for each time that they are here."""
        self.lost = asyncio.Event()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any of the book's methods
        method = getattr(self._book, name)

        async def call(*given: object, **named: object) -> object:
            answer = await method(*given, **named)
            if name in self.losing:
                self.losing.remove(name)
                self.lost.set()
                raise Unavailable("the answer was lost")
            return answer

        return call


class Books(list[Lossy]):
    """Keeps the book that a house is given."""

    def wrap(self, book: RunBook) -> Any:  # noqa: ANN401 - one book for another
        self.append(Lossy(book))
        return self[0]


async def beat(house: House, *, times: int = 2) -> None:
    """Let so many beats pass, a second apart."""
    for _ in range(times):
        await house.service.beat()
        house.clock.now += UNKNOWN_MS


async def assert_nothing_is_left(house: House) -> None:
    await until(lambda: not house.tasks)
    assert not house.service._live
    assert await house.ground.book.load_open_runs() == []


@pytest.mark.parametrize("waits", [False, True], ids=["begins", "waits"])
async def test_a_run_whose_admission_was_not_answered_runs(*, waits: bool) -> None:
    gate, books = Gate(), Books()
    async with open_house({"default": gate.run}, wrap_book=books.wrap) as house:
        if waits:
            await house.service.start(FIRST, ask(FIRST, "a"))
        books[0].losing = ["admit"]
        with pytest.raises(Unavailable):
            await house.service.start(SECOND, ask(SECOND, "b"))
        assert SECOND.run_key not in house.service._live
        gate.opened.set()
        if waits:
            await house.events(FIRST)
        await beat(house, times=3)
        async with asyncio.timeout(5):
            events = await house.events(SECOND)
        assert (events[0]["input"]["messages"], outcome(events)) == ([{**ask_of("b")}], "success")
        assert gate.entered.count("2") <= 1
        await assert_nothing_is_left(house)


def ask_of(text: str) -> dict[str, str]:
    return {"id": text, "role": "user", "content": text}


@pytest.mark.parametrize("method", ["claim", "begin"])
async def test_a_run_whose_turn_was_not_answered_runs(method: str) -> None:
    books = Books()
    gate = Gate()
    async with open_house({"default": gate.run}, wrap_book=books.wrap) as house:
        await house.service.start(FIRST, ask(FIRST, "a"))
        await house.service.start(SECOND, ask(SECOND, "b"))
        books[0].losing = [method]
        gate.opened.set()
        await house.events(FIRST)
        await books[0].lost.wait()
        await beat(house, times=3)
        async with asyncio.timeout(5):
            events = await house.events(SECOND)
        assert kinds(events).count("RUN_STARTED") == 1
        assert outcome(events) == "success"
        await assert_nothing_is_left(house)


async def test_a_run_with_events_that_nobody_drives_ends() -> None:
    async with open_house({"default": says("word")}) as house:
        terms = Terms(node_id=house.service._beat._node.id)
        admitted: Any = await house.ground.book.admit(FIRST, draft_of("a"), terms)
        lease = admitted.begun.lease
        await house.ground.log.append(lease, [b'{"type":"RUN_STARTED"}'], batch=1)
        await beat(house)
        events = await house.events(FIRST)
        assert kinds(events) == ["RUN_STARTED", "RUN_ERROR"]
        assert outcome(events) == "agent_lost"
        await assert_nothing_is_left(house)


async def test_an_end_that_the_database_cannot_take_now_is_tried_at_the_next_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_house({"default": says("word")}) as house:
        terms = Terms(node_id=house.service._beat._node.id)
        admitted: Any = await house.ground.book.admit(FIRST, draft_of("a"), terms)
        await house.ground.log.append(admitted.begun.lease, [b'{"type":"RUN_STARTED"}'], batch=1)
        await beat(house, times=1)

        async def refuse(_key: object) -> object:
            raise Unavailable("the database is busy")

        monkeypatch.setattr(house.ground.store, "load_run", refuse)
        with pytest.raises(Unavailable):
            await house.service.beat()
        monkeypatch.undo()
        await house.service.beat()
        async with asyncio.timeout(5):
            assert outcome(await house.events(FIRST)) == "agent_lost"


async def test_what_is_being_taken_on_is_not_unknown() -> None:
    books = Books()
    async with open_house({"default": says("word")}, wrap_book=books.wrap) as house:
        admit, reached, go_on = house.ground.book.admit, asyncio.Event(), asyncio.Event()

        async def admit_slowly(*given: Any) -> object:  # noqa: ANN401
            admitted = await admit(*given)
            reached.set()
            await go_on.wait()
            return admitted

        house.ground.book.admit = admit_slowly  # type: ignore[method-assign,assignment]
        starting = asyncio.create_task(house.service.start(FIRST, ask(FIRST, "a")))
        await reached.wait()
        await beat(house, times=5)
        (run,) = await house.ground.book.load_open_runs()
        assert run.state is RunState.RUNNING
        go_on.set()
        await starting
        assert outcome(await house.events(FIRST)) == "success"
        await assert_nothing_is_left(house)


async def test_a_claim_that_is_answered_late_does_no_harm() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        claim, reached, go_on = house.ground.book.claim, asyncio.Event(), asyncio.Event()

        async def claim_slowly(node_id: str, *, room: int, agents: None = None) -> object:
            claimed = await claim(node_id, room=room, agents=agents)
            if claimed and not go_on.is_set():
                reached.set()
                await go_on.wait()
            return claimed

        house.ground.book.claim = claim_slowly  # type: ignore[method-assign,assignment]
        await house.service.start(FIRST, ask(FIRST, "a"))
        await house.service.start(SECOND, ask(SECOND, "b"))
        gate.opened.set()
        await house.events(FIRST)
        await reached.wait()
        await beat(house, times=3)  # the claim is given back while its answer is on its way
        go_on.set()
        await until(lambda: not house.tasks)
        await beat(house, times=3)
        async with asyncio.timeout(5):
            events = await house.events(SECOND)
        assert (kinds(events).count("RUN_STARTED"), outcome(events)) == (1, "success")
        await assert_nothing_is_left(house)


@pytest.mark.parametrize("method", ["give_back", "load_run"])
async def test_a_run_whose_row_is_damaged_is_tried_once_and_keeps_no_other(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house({"default": says("word")}) as house:
        node_id = house.service._beat._node.id
        for run_id in ("1", "2"):
            context = context_of(run_id, thread_id=run_id)
            admitted: Any = await house.ground.book.admit(
                context, draft_of("a"), Terms(node_id=node_id)
            )
            if method == "load_run":
                lease = admitted.begun.lease
                await house.ground.log.append(lease, [b'{"type":"RUN_STARTED"}'], batch=1)
        part: Any = house.ground.book if method == "give_back" else house.ground.store
        whole, tried = getattr(part, method), list[str]()

        async def refuse_first(address: Any) -> object:  # noqa: ANN401
            tried.append(address.run_id)
            if address.run_id == "1":
                raise DatabaseFailed("the row is damaged")
            return await whole(address)

        monkeypatch.setattr(part, method, refuse_first)
        with capture_logs() as logs:
            await beat(house, times=5)
        assert tried.count("1") == 1
        assert [log["event"] for log in logs].count("unknown_run_kept") == 1
        monkeypatch.undo()
        assert await house.events(context_of("2", thread_id="2"))


async def test_beats_of_a_busy_house_change_nothing() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        for context in (FIRST, SECOND):
            await house.service.start(context, ask(context, context.run_key.run_id))
        await until(lambda: gate.entered)
        with capture_logs() as logs:
            await beat(house, times=5)
        assert logs == []
        gate.opened.set()
        for context in (FIRST, SECOND):
            assert outcome(await house.events(context)) == "success"
        await beat(house)
        await assert_nothing_is_left(house)


# --- the drain -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["claim", "begin"])
async def test_a_drain_gives_back_what_was_claimed_and_has_not_begun(
    tmp_path: Path, step: str
) -> None:
    gate, url = Gate(), sqlite_url(tmp_path)
    async with open_house({"default": gate.run}, url=url) as house:
        book: Any = house.ground.book
        whole, reached, go_on = getattr(book, step), asyncio.Event(), asyncio.Event()

        async def act_slowly(*given: object, **named: object) -> object:
            if step == "begin":
                reached.set()
                await go_on.wait()
                raise Unavailable("the disk is busy")
            claimed = await whole(*given, **named)
            reached.set()
            await go_on.wait()
            return claimed

        setattr(book, step, act_slowly)
        await house.ground.book.admit(FIRST, draft_of("a"), Terms(node_id="other"))
        await house.service.start(SECOND, ask(SECOND, "b"))
        await house.ground.end_run(FIRST)
        beating = asyncio.create_task(house.service.beat())
        await reached.wait()
        draining = asyncio.create_task(house.service.drain(timeout_s=5))
        await until(lambda: house.draining.has_begun)
        go_on.set()
        await asyncio.gather(draining, beating)
        assert await house.ground.book.load_held(house.service._beat._node.id) == []
        (waiting,) = await house.ground.book.load_open_runs()
        assert waiting.state is RunState.QUEUED
        await until(lambda: not house.tasks)
    gate.opened.set()
    async with open_house({"default": gate.run}, url=url) as house:
        await house.service.beat()  # any node claims it, and doesn't wait for a start
        assert outcome(await house.events(SECOND)) == "success"
