"""A question that the thread knows: joined while it is answered, and asked again after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.house import House, ask, context_of, open_house, sqlite_url, until, user_message

from isolane.context import RunKey
from isolane.contracts import Disposition, RunDraft, RunState
from isolane.errors import LimitExceeded, RunConflict
from isolane.events.event import Event
from isolane.runs import life
from isolane.sql.usage import Quotas


class Talker:
    """An agent whose runs wait until they are let go or stopped, and that knows what it was given.

    Its `deaf` runs hear no stop. It knows its runs by the ids that the tests give them.
    """

    raw_ids = True

    def __init__(self, *deaf: str) -> None:
        self.deaf = deaf
        self.given: dict[str, list[str]] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def run(self, input: Any, context: object, stop: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401, ARG002
        self.given[input.run_id] = [message.id for message in input.messages]
        gate = self.gates.setdefault(input.run_id, asyncio.Event())
        yield f"answer of {input.run_id}"
        signal = gate if input.run_id in self.deaf else stop
        waits = [asyncio.ensure_future(gate.wait()), asyncio.ensure_future(signal.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def until_begun(self, run_id: str) -> None:
        await until(lambda: run_id in self.gates)

    def let_go(self, *run_ids: str) -> None:
        for run_id in run_ids:
            self.gates.setdefault(run_id, asyncio.Event()).set()


def outcome(events: list[Event]) -> str:
    last = events[-1]
    return str(last["code"] if last["type"] == "RUN_ERROR" else last["outcome"]["type"])


async def contents(house: House) -> list[str]:
    messages = await house.ground.store.load_messages_before(context_of().thread_key, 10**6)
    return [str(message["content"]) for message in messages]


async def test_run_under_way_is_joined_and_one_that_was_stopped_is_not() -> None:
    talker = Talker()
    async with open_house({"default": talker.run}) as house:
        first, second, third = (context_of(run_id) for run_id in "123")
        await house.service.start(first, ask(first, "q"))
        ticket = await house.service.start(second, ask(second, "q"))
        assert (ticket.context.run_id, ticket.disposition) == ("1", Disposition.ATTACHED)
        assert house.service.active_count == 1
        await talker.until_begun("1")
        await house.service.abort(second)
        talker.let_go("3")
        ticket = await house.service.start(third, ask(third, "q"))
        assert ticket.context.run_id == "3"
        assert outcome(await house.events(first)) == "cancelled"
        events = await house.events(third)
        assert events[0]["input"]["forwardedProps"] == {"rewindTo": "q"}
        assert await house.events(second) == await house.events(first)
        assert await contents(house) == ["q", "answer of 3"]
        assert talker.given["3"] == ["q"]


async def test_edit_of_a_question_under_its_id_does_not_join_the_run_that_answers_it() -> None:
    talker = Talker()
    async with open_house({"default": talker.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "q"))
        await talker.until_begun("1")
        talker.let_go("2")
        props = {"rewindTo": "q", "policy": "interrupt"}
        edited = [user_message("in other words", message_id="q")]
        await house.service.start(second, ask(second, messages=edited, forwardedProps=props))
        assert outcome(await house.events(second)) == "success"
        assert await contents(house) == ["in other words", "answer of 2"]


async def test_new_question_before_a_known_one_is_asked_as_any_other() -> None:
    talker = Talker()
    async with open_house({"default": talker.run}) as house:
        talker.let_go("1", "2", "3")
        await house.run(context_of("1"), "a", "q")
        await house.run(context_of("2"), "new", "q")
        assert await contents(house) == ["a", "q", "answer of 1", "new", "answer of 2"]
        await house.run(context_of("3"), "a", "q", "new")
        assert await contents(house) == ["a", "q", "answer of 1", "new", "answer of 3"]


async def test_question_to_another_agent_does_not_join_the_run_of_the_first() -> None:
    talker, other = Talker(), Talker()
    async with open_house({"default": talker.run, "other": other.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "q"))
        await talker.until_begun("1")
        other.let_go("2")
        ticket = await house.service.start(second, ask(second, "q"), agent="other")
        assert ticket.context.run_id == "2"
        assert outcome(await house.events(second)) == "success"
        assert other.given == {"2": ["q"]}
        assert await contents(house) == ["q", "answer of 2"]


async def test_abort_that_overtook_a_frame_that_joins_stops_the_run() -> None:
    talker = Talker()
    async with open_house({"default": talker.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "q"))
        await talker.until_begun("1")
        await house.service.remember_abort("alice", "2")
        await house.service.start(second, ask(second, "q"))
        assert outcome(await house.events(first)) == "cancelled"


@pytest.mark.parametrize("named, default", [(None, "queue"), (None, "reject"), ("queue", "queue")])
async def test_asking_again_interrupts_whatever_answers_nothing(
    named: str | None, default: str
) -> None:
    talker = Talker()
    async with open_house({"default": talker.run}, policy=default) as house:
        talker.let_go("1", "3")
        await house.run(context_of("1"), "q")
        second, third = context_of("2"), context_of("3")
        await house.service.start(second, ask(second))  # goes on without a question of its own
        await talker.until_begun("2")
        props = {} if named is None else {"policy": named}
        await house.service.start(third, ask(third, "q", forwardedProps=props))
        assert outcome(await house.events(second)) == "cancelled"
        assert outcome(await house.events(third)) == "success"
        assert await contents(house) == ["q", "answer of 3"]


async def test_asking_again_is_next_and_takes_no_question_that_waits_away() -> None:
    talker = Talker()
    async with open_house({"default": talker.run}) as house:
        talker.let_go("1", "3", "4")
        await house.run(context_of("1"), "q")
        for run_id, texts in (("2", ()), ("3", ("waits",)), ("4", ("q",))):
            own = context_of(run_id)
            await house.service.start(own, ask(own, *texts))
        for run_id, end in (("2", "cancelled"), ("4", "success"), ("3", "success")):
            assert outcome(await house.events(context_of(run_id))) == end
        assert list(talker.given) == ["1", "2", "4", "3"]
        assert await contents(house) == ["q", "answer of 4", "waits", "answer of 3"]


async def test_asking_again_is_refused_on_a_busy_thread_where_the_frame_says_so() -> None:
    talker = Talker()
    async with open_house({"default": talker.run}) as house:
        talker.let_go("1")
        await house.run(context_of("1"), "q")
        second, third = context_of("2"), context_of("3")
        await house.service.start(second, ask(second))
        frame = ask(third, "q", forwardedProps={"policy": "reject"})
        with pytest.raises(RunConflict) as caught:
            await house.service.start(third, frame)
        assert caught.value.retryable
        talker.let_go("2", "3")
        assert outcome(await house.events(second)) == "success"


async def test_question_before_one_that_is_about_to_begin_is_not_asked_again() -> None:
    """Of a run whose turn has come the store has no question yet, and it must not be lost."""
    talker, books = Talker(), []

    class SlowBook:
        """The house's own book, in which a turn comes as slowly as a test wants."""

        def __init__(self, book: object) -> None:
            self._book = book
            self.reached, self.go_on = asyncio.Event(), asyncio.Event()
            books.append(self)

        def __getattr__(self, name: str) -> object:
            return getattr(self._book, name)

        async def begin(self, *given: object, is_restartable: bool) -> object:
            self.reached.set()
            await self.go_on.wait()
            return await self._book.begin(*given, is_restartable=is_restartable)  # type: ignore[attr-defined]

    def wrap(book: Any) -> Any:  # noqa: ANN401 - one book for another
        return SlowBook(book)

    async with open_house({"default": talker.run}, wrap_book=wrap) as house:
        first, second, third = (context_of(run_id) for run_id in "123")
        await house.service.start(first, ask(first, "q"))
        await house.service.start(second, ask(second, "later"))
        talker.let_go("1", "2")
        await books[0].reached.wait()
        with pytest.raises(RunConflict, match="rewindTo"):
            await house.service.start(third, ask(third, "q"))
        books[0].go_on.set()
        assert outcome(await house.events(second)) == "success"
        assert await contents(house) == ["q", "answer of 1", "later", "answer of 2"]


async def test_waiting_answer_ends_in_a_conflict_when_its_question_is_no_longer_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(life, "STOP_GRACE_S", 30.0)
    talker = Talker("2")
    async with open_house({"default": talker.run}) as house:
        talker.let_go("1", "3", "4")
        await house.run(context_of("1"), "q")
        second, third, fourth = (context_of(run_id) for run_id in "234")
        await house.service.start(second, ask(second))
        await talker.until_begun("2")
        await house.service.start(third, ask(third, "q"))  # waits until the one before has ended
        props = {"policy": "interrupt", "rewindTo": "q"}
        await house.service.start(fourth, ask(fourth, "edited", forwardedProps=props))
        talker.let_go("2")
        assert outcome(await house.events(fourth)) == "success"
        events = await house.events(third)
        assert outcome(events) == "run_conflict"
        # What it would have changed it must not tell: nothing was taken back.
        assert events[0]["input"]["messages"] == []
        assert events[0]["input"]["forwardedProps"] == {}
        assert await contents(house) == ["edited", "answer of 4"]


async def test_waiting_answer_is_next_after_a_restart(tmp_path: Path) -> None:
    url, talker = sqlite_url(tmp_path), Talker()
    async with open_house({"default": talker.run}, url=url) as house:
        talker.let_go("1")
        await house.run(context_of("1"), "q")
        for run_id, texts in (("2", ()), ("3", ("waits",))):
            house.clock.now += 1
            own = context_of(run_id)
            await house.service.start(own, ask(own, *texts))
        await talker.until_begun("2")
        house.draining.begin()  # as in a shutdown, in which nobody's turn comes
        house.clock.now += 1
        again = RunDraft("default", [user_message("q")], "q", {}, asks_again=True)
        await house.ground.admit(context_of("4"), again, policy="interrupt")
    talker.let_go("3", "4")
    async with open_house({"default": talker.run}, url=url) as house:
        await house.service.recover()
        for run_id in "34":
            assert outcome(await house.events(context_of(run_id))) == "success"
        assert list(talker.given)[-2:] == ["4", "3"]
        assert await contents(house) == ["q", "answer of 4", "waits", "answer of 3"]


async def test_lost_run_is_not_joined_but_asked_again(tmp_path: Path) -> None:
    url, talker = sqlite_url(tmp_path), Talker()
    async with open_house({"default": talker.run}, url=url) as house:
        own = context_of("1")
        await house.service.start(own, ask(own, "q"))
        await talker.until_begun("1")
    async with open_house({"default": talker.run}, url=url) as house:
        talker.let_go("2")
        recovery = asyncio.create_task(house.service.recover())
        await until(lambda: house.service._live)
        second = context_of("2")
        ticket = await house.service.start(second, ask(second, "q"))
        await recovery
        assert ticket.context.run_id == "2"
        assert outcome(await house.events(context_of("1"))) == "agent_lost"
        assert outcome(await house.events(second)) == "success"
        assert await contents(house) == ["q", "answer of 2"]


async def test_run_that_joins_counts_as_kept_and_is_refused_above_the_quota() -> None:
    talker = Talker()
    async with open_house({"default": talker.run}) as house:
        own, other = context_of("1"), context_of("2")
        await house.service.start(own, ask(own, "q"))
        house.ground.book._admissions._quotas = Quotas(size=1)
        with pytest.raises(LimitExceeded, match="storedBytesPerUser"):
            await house.service.start(other, ask(other, "q"))
        assert await house.ground.store.load_run(RunKey("alice", "2")) is None
        await house.service.start(own, ask(own, "q"))  # the same id needs no room
        stored = await house.ground.store.load_run(own.run_key)
        assert stored is not None
        assert stored.state is RunState.RUNNING
        talker.let_go("1")
        await house.events(own)


async def test_unfinished_run_is_found_by_a_message_that_it_adds(tmp_path: Path) -> None:
    talker, url = Talker(), sqlite_url(tmp_path)
    async with open_house({"default": talker.run}, url=url) as house:
        first, second = context_of("1"), context_of("2")

        def find(message_id: str, **of: str) -> str | None:
            return house.service.find_run_of(context_of(**of), message_id)

        assert find("q") is None
        await house.service.start(first, ask(first, "q"))
        await house.service.start(second, ask(second, "q2", "q3"))
        assert [find(one) for one in ("q", "q2", "q3", "q4")] == ["1", "2", "2", None]
        assert find("q", user_id="bob") is None
        assert find("q", thread_id="other") is None
        await talker.until_begun("1")
        talker.let_go("1")
        await house.events(first)
        await until(lambda: find("q") is None)  # the end is told before the run is let go
        await talker.until_begun("2")
        third = context_of("3")
        await house.service.start(third, ask(third, "q5"))
        await house.service.drain(timeout_s=0)
    async with open_house({"default": talker.run}, url=url) as house:
        await house.service.recover()
        assert house.service.find_run_of(third, "q5") == "3"
        talker.let_go("3")
        await house.events(third)
        await until(lambda: house.service.find_run_of(third, "q5") is None)


async def test_of_two_runs_that_ask_a_message_the_one_that_goes_on_is_found() -> None:
    talker = Talker("1")
    async with open_house({"default": talker.run}) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "q"))
        await talker.until_begun("1")
        await house.service.abort(first)
        assert house.service.find_run_of(first, "q") == "1"
        edit = ask(second, "q", forwardedProps={"rewindTo": "q"})
        await house.service.start(second, edit)
        assert house.service.find_run_of(first, "q") == "2"
        talker.let_go("1", "2")
        await house.events(second)
