"""Changes of a user's threads, whoever makes them, are told to the user's sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.house import ALICE, House, context_of, draft_of, open_house, until

from isolane.sockets import user_news
from isolane.sockets.user_news import UserNews


@dataclass
class Desk:
    """News of a house, and what was posted."""

    house: House
    news: UserNews
    posted: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    async def settle(self) -> None:
        """Ring, and return once that was looked into."""
        self.house.feed.ring_user(ALICE)
        await until(lambda: not len(self.house.ground.tasks))

    def take(self) -> list[tuple[str, str | None, bool]]:
        """Return what was posted since the last call: thread, run, and whether it is deleted."""
        frames = [frame for user_id, frame in self.posted if user_id == ALICE]
        assert len(frames) == len(self.posted)
        self.posted.clear()
        return [(one["threadId"], one["activeRunId"], one["deleted"]) for one in frames]


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    posted: list[tuple[str, Mapping[str, Any]]] = []
    async with open_house({}) as house:
        news = UserNews(
            house.ground.store,
            house.feed,
            lambda user_id, frame: posted.append((user_id, frame)),
            tasks=house.ground.tasks,
            clock=house.clock,
        )
        yield Desk(house, news, posted)


async def test_what_is_new_changed_or_gone_is_told_once() -> None:
    async with open_desk() as desk:
        ground = desk.house.ground
        await ground.begin_run(context_of("1", thread_id="old"), draft_of("a"))
        desk.news.watch(ALICE)
        await desk.settle()
        assert desk.take() == []  # what was there before
        await ground.begin_run(context_of("2", thread_id="new"), draft_of("b"))
        await desk.settle()
        assert desk.take() == [("new", "2", False)]
        await ground.end_run(context_of("2", thread_id="new"))
        await desk.settle()
        assert desk.take() == [("new", None, False)]
        await ground.log.delete(context_of("1", thread_id="old").thread_key)
        await desk.settle()
        assert desk.take() == [("old", None, True)]
        await desk.settle()
        assert desk.take() == []


async def test_a_thread_that_others_push_off_the_page_is_not_deleted(monkeypatch: Any) -> None:  # noqa: ANN401
    monkeypatch.setattr(user_news, "NEWEST", 2)
    async with open_desk() as desk:
        ground = desk.house.ground
        for number in range(2):
            desk.house.clock.now += 1
            await ground.begin_run(context_of(f"{number}", thread_id=f"t{number}"), draft_of("a"))
        desk.news.watch(ALICE)
        await desk.settle()
        desk.house.clock.now += 1
        await ground.begin_run(context_of("2", thread_id="t2"), draft_of("a"))
        await desk.settle()
        assert desk.take() == [("t2", "2", False)]


async def test_who_has_left_is_told_nothing_and_nothing_listens() -> None:
    async with open_desk() as desk:
        desk.news.watch(ALICE)
        desk.news.leave(ALICE)  # before the first look
        desk.news.watch(ALICE)
        await desk.settle()
        desk.news.leave(ALICE)
        desk.news.leave(ALICE)
        await desk.house.ground.begin_run(context_of("1"), draft_of("a"))
        await desk.settle()
        assert desk.take() == []
        assert not desk.house.feed._bell._listeners  # type: ignore[attr-defined]


async def test_a_look_that_breaks_is_made_up_for_by_the_next_ring(monkeypatch: Any) -> None:  # noqa: ANN401
    async with open_desk() as desk:
        desk.news.watch(ALICE)
        await desk.settle()
        await desk.house.ground.begin_run(context_of("1"), draft_of("a"))
        with monkeypatch.context() as patch:
            patch.setattr(desk.house.ground.store, "load_threads", None)
            await desk.settle()
        assert desk.take() == []
        await desk.settle()
        assert desk.take() == [("thread", "1", False)]
