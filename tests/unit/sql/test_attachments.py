"""Attachments are kept once for each thread, come out whole, and go with what refers to them."""

from __future__ import annotations

import base64
import random
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from sqlalchemy import Connection, create_engine
from tests.house import (
    ALICE,
    COUNT_KEPT,
    START,
    Ground,
    append_to,
    ask,
    context_of,
    count_attachments,
    count_lines,
    draft_of,
    key_of,
    open_ground,
    open_house,
    open_older,
    sqlite_url,
    user_message,
)

from isolane.context import RunKey, ThreadKey
from isolane.contracts import RunDraft, RunEnd
from isolane.errors import DatabaseFailed, QuotaExceeded, TooLarge
from isolane.events.event import encode_event, run_started
from isolane.events.packing import references_of
from isolane.events.transcript import Message
from isolane.sql.address import StoredThread
from isolane.sql.attachments import keep, load_whole
from isolane.sql.database import Database
from isolane.sql.deletion import load_removal, remove_some
from isolane.sql.steps import BYTES_AT_ONCE, ROWS_AT_ONCE
from isolane.sql.threads import renumber
from isolane.sql.usage import ROW_BYTES, Quotas, Usage, load

KEY: Final = key_of()


def data_of(number: int, size: int = 20_000) -> str:
    """Return the data of a picture, which is another one for each number."""
    drawn = random.Random(number).randbytes(size * 3 // 4)  # noqa: S311 - no secret
    return base64.b64encode(drawn).decode()


PICTURE: Final = data_of(0)
OTHER: Final = data_of(1)


def shows(message_id: str, *pictures: str, text: str = "what is it?") -> Message:
    """Return a user's message with pictures."""
    sources = [{"type": "data", "value": one, "mimeType": "image/png"} for one in pictures]
    parts = [{"type": "image", "source": source} for source in sources]
    return {"id": message_id, "role": "user", "content": [{"type": "text", "text": text}, *parts]}


def draft(*messages: Message, rewind_to: str | None = None, **request: object) -> RunDraft:
    return RunDraft("default", messages, rewind_to, request)


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with open_ground(sqlite_url(tmp_path)) as opened:
        yield opened
        await assert_exact(opened.database)


async def assert_exact(database: Database) -> None:
    """Fail unless each thread has what its rows refer to, with the right count, and no more."""

    def count_bytes(connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
        there = {user: size for user, _, size in connection.exec_driver_sql(COUNT_KEPT)}
        return there, {user: load(connection, user).bytes for user in there}

    referred, kept = await database.read(count_attachments)
    assert kept == referred
    there, noted = await database.read(count_bytes)
    assert noted == there


def count_in(folder: Path, data: str = PICTURE) -> int:
    """Return how often the file has a picture, without pages that SQLite would use again."""
    copy = folder / "copy.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(folder / "isolane.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    # What is large is spread over pages, so an early piece that is in one page stands for it.
    return copy.read_bytes().count(data[:300].encode())


async def begin(ground: Ground, run_id: str, asked: RunDraft, **more: str) -> Sequence[Message]:
    """Begin a run, write its start as the gateway does, and return what its agent is given."""
    context = context_of(run_id, **more)
    begun = await ground.begin_run(context, asked)
    event = run_started(
        thread_id=KEY.thread_id, run_id=run_id, messages=begun.added, rewind_to=asked.rewind_to
    )
    await append_to(ground.log, context.thread_key, run_id, [encode_event(event, max_bytes=10**8)])
    return begun.history


async def end(ground: Ground, run_id: str, *messages: Message, **more: Any) -> None:  # noqa: ANN401
    """End a run that leaves messages."""
    key = key_of(user_id=more.pop("user_id", ALICE))
    ending = RunEnd(run_id, "success", None, messages, ground.clock(), **more)
    await append_to(ground.log, key, run_id, [b'{"type":"RUN_FINISHED"}'], end=ending)


async def stored(ground: Ground, key: ThreadKey = KEY) -> list[Message]:
    """Return the messages of the thread's page."""
    snapshot = await ground.store.load_snapshot(key)
    assert snapshot is not None
    return [msgspec.json.decode(message) for message in snapshot.messages]


async def test_question_is_kept_once_and_read_whole_everywhere(
    ground: Ground, tmp_path: Path
) -> None:
    question = shows("q", PICTURE, OTHER, PICTURE)
    assert await begin(ground, "r", draft(question)) == [question]
    (running,) = await ground.book.load_open_runs()
    assert running.draft.messages == [question]
    await end(ground, "r")
    assert [count_in(tmp_path, each) for each in (PICTURE, OTHER)] == [1, 1]
    assert await stored(ground) == [question]
    assert await ground.store.load_messages_before(KEY, 100) == [question]
    known = await ground.store.load_known(KEY, "q")
    assert known is not None
    assert known.message == question
    records = await ground.log.read(KEY, after=START, limit=10)
    event = run_started(thread_id="thread", run_id="r", messages=[question], rewind_to=None)
    assert records[0].payload == encode_event(event, max_bytes=10**8)


@pytest.mark.parametrize("way", ["again", "edit", "anew"])
async def test_what_is_sent_again_is_not_kept_again(
    ground: Ground, tmp_path: Path, way: str
) -> None:
    await begin(ground, "r-0", draft(shows("q-0", PICTURE)))
    await end(ground, "r-0", {"id": "a-0", "role": "assistant", "content": "a cat"})
    before = (tmp_path / "copy.db", count_in(tmp_path))[0].stat().st_size
    for number in range(1, 6):
        asked = draft(shows(f"q-{number}", PICTURE, text="and now?"))
        if way == "again":
            again = draft(shows("q-0", PICTURE), rewind_to="q-0")
            asked = replace(again, asks_again=True)
        elif way == "edit":
            asked = replace(asked, rewind_to=f"q-{number - 1}")
        await begin(ground, f"r-{number}", asked)
        answer = {"id": f"a-{number}", "role": "assistant", "content": "a cat"}
        await end(ground, f"r-{number}", answer)
        await assert_exact(ground.database)
    assert count_in(tmp_path) == 1
    assert (tmp_path / "copy.db").stat().st_size - before < len(PICTURE)


async def test_run_that_waits_refers_to_it_too(ground: Ground, tmp_path: Path) -> None:
    question = shows("q", PICTURE)
    asked = draft(question, state={"seen": [shows("s", PICTURE)["content"]]})
    await begin(ground, "r-0", draft(shows("q-0", PICTURE)))
    await ground.add_run(context_of("r"), asked)
    assert count_in(tmp_path) == 1
    await assert_exact(ground.database)
    await ground.book.request_stop(RunKey(ALICE, "r"), asked_at=5)
    await assert_exact(ground.database)
    waiting = {run.run_id: run.draft for run in await ground.book.load_open_runs()}["r"]
    assert waiting == replace(asked, messages=[question])
    await end(ground, "r-0")
    begun = await ground.take_turn(context_of("r"))
    assert list(begun.added) == [question]
    assert begun.state == asked.request["state"]
    await assert_exact(ground.database)
    (running,) = await ground.book.load_open_runs()
    assert running.draft.request == asked.request
    await end(ground, "r")
    assert count_in(tmp_path) == 1


async def test_alone_in_line_it_is_kept_until_the_run_has_begun(
    ground: Ground, tmp_path: Path
) -> None:
    await begin(ground, "r-0", draft_of("first"))
    await ground.add_run(context_of("r"), draft(shows("q", PICTURE)))
    assert count_in(tmp_path) == 1
    await end(ground, "r-0")
    await ground.take_turn(context_of("r"))
    await assert_exact(ground.database)
    assert count_in(tmp_path) == 1
    assert await stored(ground) == [user_message("first")]  # the run is under way


async def test_agents_snapshots_results_and_states_refer_to_it(
    ground: Ground, tmp_path: Path
) -> None:
    await begin(ground, "r-0", draft(shows("q", PICTURE)))
    snapshot = {"type": "MESSAGES_SNAPSHOT", "messages": [shows("q", PICTURE), shows("p", OTHER)]}
    state = msgspec.json.encode({"seen": shows("q", PICTURE)["content"]})
    payload = encode_event(snapshot, max_bytes=10**8)
    await append_to(ground.log, KEY, "r-0", [payload, b'{"snapshot":%s}' % state])
    await end(ground, "r-0", shows("p", OTHER), state=state)
    assert [count_in(tmp_path, each) for each in (PICTURE, OTHER)] == [1, 1]
    assert await ground.store.load_state(KEY) == state
    records = await ground.log.read(KEY, after=START, limit=10)
    assert records[1].payload == payload
    await begin(ground, "r-1", draft(shows("q-1", OTHER), rewind_to="q"))
    assert await ground.store.load_state(KEY) is None
    await end(ground, "r-1", state=state)
    await begin(ground, "r-2", draft_of("again", rewind_to="q-1"))
    await end(ground, "r-2")
    await assert_exact(ground.database)


async def test_it_goes_with_the_last_row_that_refers_to_it(ground: Ground, tmp_path: Path) -> None:
    await begin(ground, "r-0", draft(shows("q", PICTURE)))
    await end(ground, "r-0", shows("a", OTHER))
    await begin(ground, "r-1", draft(shows("p", OTHER), rewind_to="q"))
    await end(ground, "r-1")
    assert [count_in(tmp_path, each) for each in (PICTURE, OTHER)] == [1, 1]
    await ground.log.trim(older_than=ground.clock() + 1)
    await assert_exact(ground.database)
    # The question that stands keeps what it has; what was taken back is let go with the log.
    assert [count_in(tmp_path, each) for each in (PICTURE, OTHER)] == [0, 1]
    assert await stored(ground) == [shows("p", OTHER)]
    await ground.log.delete(KEY)
    assert [count_in(tmp_path, each) for each in (PICTURE, OTHER)] == [0, 0]
    assert (await Usage(ground.database).load(ALICE)).bytes == 0


async def test_sweep_goes_in_steps_that_are_bounded(tmp_path: Path) -> None:
    """Rows that are small may take large attachments along: these count for the step, too."""
    async with open_ground(sqlite_url(tmp_path)) as ground:
        size = 100_000
        await begin(ground, "r-0", draft(*(shows(f"q-{n}", data_of(n, size)) for n in range(12))))
        await end(ground, "r-0")
        await begin(ground, "r-1", draft_of("edited", rewind_to="q-0"))
        for number in range(12):
            event = {"type": "X", "messages": [shows("m", data_of(100 + number, size))]}
            await append_to(ground.log, KEY, "r-1", [encode_event(event, max_bytes=10**8)])
        await end(ground, "r-1")
        await ground.log._sweeping.acquire()
        left = [(await ground.database.read(count_left))]
        write = ground.database.write

        async def write_and_count(work: Any, **more: Any) -> Any:  # noqa: ANN401 - as it is
            done = await write(work, **more)
            left.append(await ground.database.read(count_left))
            return done

        ground.database.write = write_and_count  # type: ignore[method-assign]
        ground.log._sweeping.release()
        await ground.log.trim(older_than=ground.clock() + 1)
        steps = [before - after for before, after in pairwise(left)]
        assert sum(steps) >= 23  # the start of the first run refers to twelve at once
        assert max(steps) <= 12
        assert sorted(steps)[-2] <= BYTES_AT_ONCE // size + 1
        await assert_exact(ground.database)


def count_left(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM attachments").scalar_one())


async def test_deletion_goes_in_steps_that_are_bounded(tmp_path: Path) -> None:
    async with open_ground(sqlite_url(tmp_path)) as ground:
        await ground.log._sweeping.acquire()
        for number in range(30):
            await begin(ground, f"r-{number}", draft(shows(f"q-{number}", data_of(number, 60_000))))
            await end(ground, f"r-{number}")
        await ground.log.delete(KEY)
        left = await ground.database.read(count_left)
        assert left == 30
        while (removal := await ground.database.read(load_removal)) is not None:
            await ground.database.write(partial(remove_some, removal))
            now = await ground.database.read(count_left)
            assert left - now <= min(ROWS_AT_ONCE, BYTES_AT_ONCE // 60_000 + 1)
            left = now
        assert left == 0
        assert (await Usage(ground.database).load(ALICE)).bytes == 0


async def test_two_users_with_one_picture_have_one_each(ground: Ground, tmp_path: Path) -> None:
    for user in (ALICE, "bob"):
        await begin(ground, "r", draft(shows("q", PICTURE)), user_id=user)
        await end(ground, "r", user_id=user)
    assert count_in(tmp_path) == 2
    usage = Usage(ground.database)
    assert await usage.load(ALICE) == await usage.load("bob")
    await ground.log.delete(KEY)
    assert count_in(tmp_path) == 1
    assert await stored(ground, key_of(user_id="bob")) == [shows("q", PICTURE)]


async def test_thread_that_is_made_anew_has_its_own(ground: Ground, tmp_path: Path) -> None:
    await ground.log._sweeping.acquire()
    for number in range(2):
        await begin(ground, f"r-{number}", draft(shows("q", PICTURE)))
        await end(ground, f"r-{number}")
        await ground.log.delete(KEY)
    await begin(ground, "r", draft(shows("q", PICTURE)))
    await end(ground, "r")
    assert count_in(tmp_path) == 3
    ground.log._sweeping.release()
    await ground.log.sweep()
    assert count_in(tmp_path) == 1
    assert await stored(ground) == [shows("q", PICTURE)]
    await ground.database.write(renumber)
    assert await stored(ground) == [shows("q", PICTURE)]


async def test_reference_in_a_text_is_text(ground: Ground) -> None:
    await begin(ground, "r-0", draft(shows("q-0", PICTURE)))
    await end(ground, "r-0")
    query = "SELECT payload FROM messages"
    packed = await ground.database.read(lambda one: one.exec_driver_sql(query).scalar_one())
    texts = [packed.decode("latin-1"), references_of(packed)[0].digest.hex(), "\0\0\0\0\1"]
    forged = [shows(f"f-{number}", text, text=text) for number, text in enumerate(texts)]
    assert (await begin(ground, "r-1", draft(*forged)))[1:] == forged
    await end(ground, "r-1")
    assert (await stored(ground))[1:] == forged


async def test_quota_counts_it_once_to_the_byte(tmp_path: Path) -> None:
    async def kept_of(folder: str, quota: int | None, *runs: RunDraft) -> int:
        quotas = None if quota is None else Quotas(size=quota)
        async with open_ground(sqlite_url(tmp_path / folder), quotas=quotas) as ground:
            for number, asked in enumerate(runs):
                await begin(ground, f"r-{number}", asked)
                await end(ground, f"r-{number}")
            await assert_exact(ground.database)
            return (await Usage(ground.database).load(ALICE)).bytes

    small = "A" * 10
    first, second = (draft(shows(name, PICTURE)) for name in ("q", "p"))
    once = await kept_of("once", None, first)
    without = await kept_of("without", None, draft(shows("q", small)))
    assert 0 < once - (without + len(PICTURE) + ROW_BYTES) < 2 * 100
    both = await kept_of("both", None, first, second)
    assert both - once < 2 * 1000
    async with open_ground(sqlite_url(tmp_path / "full"), quotas=Quotas(size=once)) as ground:
        await begin(ground, "r-0", first)
        await end(ground, "r-0")
        with pytest.raises(QuotaExceeded):
            await begin(ground, "r-1", second)
        await assert_exact(ground.database)


async def test_limits_are_of_whole_messages(ground: Ground) -> None:
    for number in range(3):
        await begin(ground, f"r-{number}", draft(shows(f"q-{number}", PICTURE)))
        await end(ground, f"r-{number}")
    with pytest.raises(TooLarge):
        await ground.store.load_messages_before(KEY, 100, max_bytes=3 * len(PICTURE))
    page = await ground.store.load_snapshot(KEY, max_bytes=2 * len(PICTURE))
    assert page is not None
    assert len(page.messages) == 1
    records = await ground.log.read(KEY, after=START, limit=10, max_bytes=len(PICTURE))
    assert len(records) == 1


async def test_what_was_kept_before_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite_url(tmp_path)
    older = await open_older(url, "0011", monkeypatch)
    whole = msgspec.json.encode(shows("q", PICTURE))

    def fill(connection: Connection) -> None:
        rows: Mapping[str, tuple[object, ...]] = {
            "threads (user_id, thread_id, epoch, trimmed_seq, title, created_at, updated_at) "
            "VALUES (?, ?, 'e', 0, '', 0, 0)": (*KEY,),
            "messages (user_id, thread_id, message_id, run_id, payload, since_seq) "
            "VALUES (?, ?, 'q', 'r', ?, 1)": (*KEY, whole),
            "events VALUES (?, ?, 1, 'r', ?)": (*KEY, whole),
            "runs (user_id, run_id, thread_id, state, draft, created_at) "
            "VALUES (?, 'r', ?, 'ended', x'', 0)": (*KEY,),
            "usage VALUES (?, 1, ?)": (ALICE, 400 + 2 * len(whole)),
        }
        for statement, given in rows.items():
            connection.exec_driver_sql(f"INSERT INTO {statement}", given)

    await older.write(fill)
    await older.close()
    async with open_ground(url) as ground:
        assert await stored(ground) == [shows("q", PICTURE)]
        assert (await ground.log.read(KEY, after=START, limit=9))[0].payload == whole
        assert count_in(tmp_path) == 2
        await begin(ground, "r-1", draft(shows("p", PICTURE)))
        await end(ground, "r-1")
        assert count_in(tmp_path) == 3
        await assert_exact(ground.database)


async def test_missing_attachment_harms_its_own_rows_only() -> None:
    async with open_ground() as ground:
        await begin(ground, "r-0", draft(shows("q", PICTURE)))
        await ground.add_run(context_of("r-1"), draft(shows("p", OTHER)))
        await ground.begin_run(context_of("r-2", thread_id="other"), draft_of("hello"))

        def damage(connection: Connection) -> None:
            for table in ("attachments", "attachment_bytes"):
                connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - named above

        await ground.database.write(damage)
        with pytest.raises(DatabaseFailed, match="missing"):
            await ground.store.load_messages_before(KEY, 100)
        agents = {run.run_id: run.draft.agent for run in await ground.book.load_open_runs()}
        assert agents == {"r-0": "", "r-1": "", "r-2": "default"}
        await end(ground, "r-0")
        await ground.log.delete(KEY)
        await ground.log.sweep()


def test_small_events_cost_one_look_at_their_length() -> None:
    small = b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"a word"}'
    stored = StoredThread(ALICE, 1)
    with create_engine("sqlite://").connect() as connection:
        assert count_lines(lambda: keep(connection, stored, small)) <= 4
        assert count_lines(lambda: load_whole(connection, stored, small)) <= 5


async def test_whole_house_gives_agents_and_readers_what_was_sent() -> None:
    seen: list[object] = []

    async def agent(input: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401 - AG-UI's own
        seen.append([m.content[1].source.value for m in input.messages if m.role == "user"])
        yield "a cat"

    async with open_house({"default": agent}) as house:
        for number in range(2):
            asked = ask(context_of(f"r-{number}"), messages=[shows(f"q-{number}", PICTURE)])
            await house.service.start(context_of(f"r-{number}"), asked)
            events = await house.events(context_of(f"r-{number}"))
            told = [content_of(message) for message in events[0]["input"]["messages"]]
            assert told == [PICTURE]
        assert seen == [[PICTURE], [PICTURE, PICTURE]]
        await assert_exact(house.ground.database)


def content_of(message: Message) -> str:
    return str(message["content"][1]["source"]["value"])
