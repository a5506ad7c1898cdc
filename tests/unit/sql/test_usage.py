"""What users keep: the narrow rows agree with a count of everything, and the quotas are exact."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from tests.house import (
    ALICE,
    COUNT_KEPT,
    Ground,
    Pen,
    append_to,
    context_of,
    count_attachments,
    draft_of,
    key_of,
    open_ground,
    open_house,
    open_older,
    says,
    sqlite_url,
    until,
    user_message,
)

from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import RunDraft, RunEnd
from isolane.errors import LimitExceeded
from isolane.events.packing import LEAST_BYTES
from isolane.sql.threads import renumber
from isolane.sql.usage import EVERYBODY, Kept, Quotas, Usage

OLDER: Final = (
    "INSERT INTO threads VALUES (?, 't', 'e', 0, '', 0, 0, 0)",
    "INSERT INTO events VALUES (?, 't', 1, 'r', x'0102')",
    """INSERT INTO runs (user_id, run_id, thread_id, state, draft, created_at)
    VALUES (?, 'r', 't', 'ended', x'01', 0)""",
    """INSERT INTO messages (user_id, thread_id, message_id, run_id, payload, since_seq)
    VALUES (?, 't', 'm', 'r', x'010203', 1)""",
)
"""What one user kept before there was a count."""
USERS: Final = ("ann", "bob", "émile")
STEPS: Final = 250
LARGE: Final = "x" * 100_000


def count_all(connection: sa.Connection) -> dict[str, Kept]:
    """Return what each user keeps, and all together, by a walk over everything."""
    found = {user: Kept(*kept) for user, *kept in connection.exec_driver_sql(COUNT_KEPT)}
    threads, sizes = zip(*found.values(), strict=True) if found else ((), ())
    return {**found, EVERYBODY: Kept(sum(threads), sum(sizes))}


def load_all(connection: sa.Connection) -> dict[str, Kept]:
    """Return what the narrow rows say; users who keep nothing any more are left out."""
    rows = connection.exec_driver_sql("SELECT user_id, threads, bytes FROM usage")
    return {user: Kept(*kept) for user, *kept in rows if user == EVERYBODY or any(kept)}


async def assert_exact(ground: Ground) -> dict[str, Kept]:
    """Fail unless the narrow rows say what there is, and return it."""
    noted, there = await ground.database.read(lambda one: (load_all(one), count_all(one)))
    assert noted == there
    referred, kept = await ground.database.read(count_attachments)
    assert kept == referred
    return there


@dataclass
class Users:
    """Users who do anything at any time; each thread has one run under way, and others wait."""

    ground: Ground
    chance: random.Random
    running: dict[ThreadKey, UserExecutionContext] = field(default_factory=dict)
    waiting: dict[ThreadKey, list[UserExecutionContext]] = field(default_factory=dict)
    numbers: count[int] = field(default_factory=count)
    refused: int = 0

    async def step(self) -> None:
        """Let one user do one thing."""
        user, thread = self.chance.choice(USERS), f"t{self.chance.randrange(4)}"
        deeds = (self.ask, self.ask, self.speak, self.speak, self.end, self.end, self.tidy)
        self.ground.clock.now += 1
        try:
            await self.chance.choice(deeds)(ThreadKey(user, thread))
        except LimitExceeded:
            self.refused += 1

    async def ask(self, key: ThreadKey) -> None:
        """Ask something new, or edit what was asked."""
        number = next(self.numbers)
        context = context_of(f"r{number}", thread_id=key.thread_id, user_id=key.user_id)
        texts = [f"{number}.{n}" + "?" * self.chance.randrange(3000) for n in range(3)]
        first = await self.ground.store.load_messages_before(key, 10**6)
        rewind_to = first[0]["id"] if first and self.chance.random() < 0.3 else None
        draft = draft_of(*texts, rewind_to=rewind_to)
        draft = replace(draft, request={"state": "s" * self.chance.randrange(500)})
        if self.chance.random() < 0.4:
            draft = replace(draft, messages=[*draft.messages, self.picture(f"{number}.p")])
        if key in self.running and self.chance.random() < 0.2:
            running = self.running[key].run_key.run_id
            await self.ground.book.attach(context, run_id=running, asked=draft.messages)
        elif key in self.running:
            await self.ground.add_run(context, draft)
            self.waiting.setdefault(key, []).append(context)
        else:
            await self.ground.begin_run(context, draft)
            self.running[key] = context

    def picture(self, message_id: str) -> dict[str, object]:
        """Return a message with one of three pictures."""
        source = {"type": "data", "value": self.chance.choice("abc") * LEAST_BYTES}
        parts = [{"type": "image", "source": source}]
        return {"id": message_id, "role": "user", "content": parts}

    def event(self) -> bytes:
        """Return an event, which has a picture at times."""
        if self.chance.random() < 0.2:
            return msgspec.json.encode(self.picture("m"))
        return b"\xc3\xa9" * self.chance.randrange(99)

    async def speak(self, _key: ThreadKey) -> None:
        """Let the run under way say something, at once with others."""
        log = self.ground.log
        pens = [
            Pen(log, await log.take_over(own, context.run_key.run_id))
            for own, context in self.running.items()
        ]
        said = [pen.append(self.event()) for pen in pens for _ in range(self.chance.randrange(3))]
        await asyncio.gather(*said)

    async def end(self, key: ThreadKey) -> None:
        """End the run under way, and begin the next one in line."""
        context = self.running.pop(key, None)
        if context is None:
            return
        run_id = context.run_key.run_id
        messages = [user_message("!" * self.chance.randrange(500), message_id=f"m-{run_id}")]
        interrupts = [{"id": run_id, "reason": "why"}] if self.chance.random() < 0.5 else []
        states = (None, b"s" * self.chance.randrange(300), msgspec.json.encode(self.picture("s")))
        state = self.chance.choice(states)
        now = self.ground.clock()
        end = RunEnd(run_id, "success", None, messages, now, None, interrupts, state)
        await append_to(self.ground.log, key, run_id, [b"over"], end=end)
        if self.waiting.get(key):
            following = self.waiting[key].pop(0)
            await self.ground.take_turn(following)
            self.running[key] = following

    async def tidy(self, key: ThreadKey) -> None:
        """Delete, name or make a thread, or let go of what is old."""
        deed = self.chance.randrange(4)
        if deed == 0 and await self.ground.store.load_thread(key) is not None:
            await self.ground.log.delete(key)
            self.running.pop(key, None)
            self.waiting.pop(key, None)
        elif deed == 1:
            await self.ground.store.add_thread(key, title="new")
            await self.ground.store.set_title(key, "renamed")
        elif deed == 2:
            await self.ground.log.trim(older_than=self.ground.clock() - 20)
        else:
            await self.ground.database.write(renumber)


@pytest.mark.parametrize("seed", range(3))
async def test_rows_agree_with_a_count_of_everything_after_any_deeds(
    tmp_path: Path, seed: int
) -> None:
    quotas = Quotas(threads=3, size=90_000)
    async with open_ground(sqlite_url(tmp_path), max_events=20, quotas=quotas) as ground:
        users = Users(ground, random.Random(seed))  # noqa: S311 - chance that can be repeated, no secrets
        for number in range(STEPS):
            await users.step()
            if number % 20 == 0:
                await assert_exact(ground)
        await until(lambda: not len(ground.tasks))
        await assert_exact(ground)
        assert users.refused > 5
        for key in [ThreadKey(user, f"t{n}") for user in USERS for n in range(4)]:
            if await ground.store.load_thread(key) is not None:
                await ground.log.delete(key)
        await ground.log.sweep()
        assert await assert_exact(ground) == {EVERYBODY: Kept(0, 0)}


async def test_older_data_is_counted_by_the_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite_url(tmp_path)
    await (await open_older(url, "0005", monkeypatch)).close()
    with closing(sqlite3.connect(tmp_path / "isolane.db")) as connection:
        for user in ("ann", "bob"):
            for statement in OLDER:
                connection.execute(statement, (user,))
        connection.commit()
    async with open_ground(url) as ground:
        kept = Kept(1, 406)
        both = {"ann": kept, "bob": kept, EVERYBODY: Kept(2, 812)}
        assert await assert_exact(ground) == both
        await ground.log.delete(key_of("t", user_id="ann"))
        assert await assert_exact(ground) == {"bob": kept, EVERYBODY: kept}


async def test_text_of_an_agents_error_counts_to_the_byte() -> None:
    error = {"type": "RUN_ERROR", "message": "é" * 10, "code": "x", "metadata": {"public": True}}
    async with open_house({"default": says(error)}) as house:
        await house.run(context_of("r"), "hi")
        stored = await house.ground.store.load_run(context_of("r").run_key)
        assert stored is not None
        assert (stored.agent_code, stored.agent_message) == ("x", "é" * 10)
        await assert_exact(house.ground)
        await house.ground.log.delete(key_of())
        assert await assert_exact(house.ground) == {EVERYBODY: Kept(0, 0)}


# --- the quotas ----------------------------------------------------------------------------------


async def kept_by(ground: Ground, user_id: str = ALICE) -> Kept:
    return await Usage(ground.database).load(user_id)


async def size_of_run(tmp_path: Path, draft: RunDraft) -> int:
    """Return what a first run on a thread adds."""
    async with open_ground(sqlite_url(tmp_path / "measured")) as ground:
        await ground.begin_run(context_of("r"), draft)
        return (await kept_by(ground)).bytes


@pytest.mark.parametrize("way", ["begin_run", "add_run"])
async def test_run_fits_to_the_byte(tmp_path: Path, way: str) -> None:
    draft = draft_of("hello")

    async def prepare(ground: Ground) -> Kept:
        """Let another run have the turn, if the run is to wait; return what is kept then."""
        if way == "add_run":
            await ground.begin_run(context_of("ahead"), draft_of())
        return await kept_by(ground)

    async with open_ground(sqlite_url(tmp_path / "measured")) as ground:
        await prepare(ground)
        await getattr(ground, way)(context_of("r"), draft)
        size = (await kept_by(ground)).bytes
    for spare in (0, -1):
        url = sqlite_url(tmp_path / f"spare{spare}")
        async with open_ground(url, quotas=Quotas(size=size + spare)) as ground:
            before = await prepare(ground)
            start = getattr(ground, way)
            if spare == 0:
                await start(context_of("r"), draft)
                assert await kept_by(ground) == Kept(1, size)
            else:
                with pytest.raises(LimitExceeded, match="storedBytesPerUser"):
                    await start(context_of("r"), draft)
                assert await kept_by(ground) == before
                assert await ground.store.load_run(context_of("r").run_key) is None
            await assert_exact(ground)


async def test_of_two_runs_at_once_at_the_border_one_is_let_in(tmp_path: Path) -> None:
    size = await size_of_run(tmp_path, draft_of("hello"))
    async with open_ground(sqlite_url(tmp_path), quotas=Quotas(size=2 * size - 1)) as ground:
        answers = await asyncio.gather(
            *(
                ground.begin_run(context_of(f"{n}", thread_id=f"t{n}"), draft_of("hello"))
                for n in range(2)
            ),
            ground.begin_run(context_of("r", user_id="bob"), draft_of("hello")),
            return_exceptions=True,
        )
        refused = [type(answer).__name__ for answer in answers if isinstance(answer, Exception)]
        assert refused == ["QuotaExceeded"]
        assert not isinstance(answers[2], Exception)
        await assert_exact(ground)


async def test_threads_are_as_many_as_allowed_and_one_that_goes_makes_room(
    tmp_path: Path,
) -> None:
    async with open_ground(sqlite_url(tmp_path), quotas=Quotas(threads=2)) as ground:
        store = ground.store
        await store.add_thread(key_of("one"), title="")
        await ground.begin_run(context_of("r-1", thread_id="two"), draft_of("hello"))
        for refused in (
            store.add_thread(key_of("three"), title=""),
            ground.begin_run(context_of("r-2", thread_id="three"), draft_of("hello")),
        ):
            with pytest.raises(LimitExceeded, match="storedThreadsPerUser is limited to 2, and 2"):
                await refused
        await store.add_thread(key_of("one"), title="")
        await ground.add_run(context_of("r-3", thread_id="two"), draft_of("more"))
        await store.add_thread(key_of("three", user_id="bob"), title="")
        await ground.log.delete(key_of("one"))
        await store.add_thread(key_of("three"), title="")
        assert await kept_by(ground) == (await assert_exact(ground))[ALICE]


async def test_run_that_was_let_in_goes_on_past_the_quota(tmp_path: Path) -> None:
    size = await size_of_run(tmp_path, draft_of("hello"))
    quotas = Quotas(size=3 * size)
    async with open_ground(sqlite_url(tmp_path), quotas=quotas) as ground:
        store, key = ground.store, key_of()
        await ground.begin_run(context_of("r-1"), draft_of("hello"))
        await ground.add_run(context_of("r-2"), draft_of("more"))
        answer = [user_message(LARGE, message_id="answer")]
        end = RunEnd("r-1", "success", None, answer, ground.clock())
        await append_to(ground.log, key, "r-1", [b"x" * quotas.size, b"over"], end=end)
        await ground.take_turn(context_of("r-2"))
        assert (await kept_by(ground)).bytes > quotas.size
        with pytest.raises(LimitExceeded) as refused:
            await ground.add_run(context_of("r-3"), draft_of("even more"))
        kept = (await kept_by(ground)).bytes
        assert str(refused.value) == (
            f"storedBytesPerUser is limited to {quotas.size}, and {kept} bytes are kept: "
            "what is new doesn't fit; deleting threads makes room"
        )
        assert (refused.value.retryable, refused.value.retry_after_ms) == (False, None)
        assert (await store.set_title(key, "renamed")).title == "renamed"
        await ground.log.delete(key)
        await ground.begin_run(context_of("r-3"), draft_of("even more"))


async def test_retention_makes_room(tmp_path: Path) -> None:
    async with open_ground(sqlite_url(tmp_path), quotas=Quotas(size=20_000)) as ground:
        await ground.begin_run(context_of("r-1"), draft_of("hello"))
        end = RunEnd("r-1", "success", None, [], ground.clock())
        await append_to(ground.log, key_of(), "r-1", [b"x" * 30_000], end=end)
        with pytest.raises(LimitExceeded):
            await ground.begin_run(context_of("r-2"), draft_of("more"))
        await ground.log.trim(older_than=ground.clock() + 1)
        await ground.begin_run(context_of("r-2"), draft_of("more"))
        await assert_exact(ground)


async def test_quota_is_one_look_however_much_is_kept(tmp_path: Path) -> None:
    """SQLite's own steps for a new thread are the same beside ten threads and ten thousand."""
    async with open_ground(sqlite_url(tmp_path)) as ground:
        database: Any = ground.database
        raw: Any = database._writing.connection.driver_connection
        taken: list[int] = []
        for most in (10, 10_000):
            await ground.database.write(partial(fill_up, most))
            await ground.store.add_thread(key_of(f"first-{most}"), title="")  # it is of caches
            steps = count()
            raw.set_progress_handler(lambda each=steps: next(each) < 0, 10)
            await ground.store.add_thread(key_of(f"new-{most}"), title="")
            raw.set_progress_handler(None, 0)
            taken.append(next(steps))
        assert taken[1] <= taken[0] + 3


def fill_up(most: int, connection: sa.Connection) -> None:
    """Give Alice so many threads with an entry each."""
    for number in range(most):
        thread_no = most + number
        for statement, row in (
            ("threads VALUES (?, ?, ?, 'e', '', 0, 0, NULL, 'chat')", (ALICE, f"t{thread_no}")),
            ("heads (thread_no, head_seq) VALUES (?, 1)", ()),
            ("events VALUES (?, 1, 1, x'00')", ()),
        ):
            connection.exec_driver_sql(f"INSERT INTO {statement}", (thread_no, *row))
