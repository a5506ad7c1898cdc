"""A question stands in the database twice at most: as a message, and in its log entry."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from tests.house import (
    append_to,
    context_of,
    draft_of,
    key_of,
    open_ground,
    sqlite_url,
    user_message,
)

from isolane.contracts import RunEnd

MARK: Final = "a mark that stands nowhere else"
LARGE: Final = "x" * 50_000 + MARK + "x" * 50_000


async def places_of(folder: Path) -> int:
    """Return how often the file has the words, without pages that SQLite would use again."""
    copy = folder / "copy.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(folder / "isolane.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy.read_bytes().count(MARK.encode())


@pytest.mark.parametrize("waits", [False, True])
async def test_question_is_kept_as_a_message_and_in_the_log_alone(
    tmp_path: Path, *, waits: bool
) -> None:
    draft = replace(draft_of(LARGE), request={"state": {"a": [None, 1.5]}})
    draft = replace(draft, messages=[user_message("before"), user_message(LARGE, message_id="m")])
    context = context_of("r")
    async with open_ground(sqlite_url(tmp_path)) as ground:
        if waits:
            ahead = context_of("ahead")
            await ground.begin_run(ahead, draft_of())
            await ground.add_run(context, draft)
            assert await places_of(tmp_path) == 1
            await ground.end_run(ahead)
            begun = await ground.take_turn(context)
        else:
            begun = await ground.begin_run(context, draft)
        assert list(begun.added) == draft.messages
        assert await places_of(tmp_path) == 1
        await append_to(ground.log, key_of(), "r", [b'{"input":"%s"}' % LARGE.encode()])
        assert await places_of(tmp_path) == 2
        (stored,) = await ground.book.load_open_runs()
        assert stored.draft == draft
        end = RunEnd("r", "success", None, [], ground.clock())
        await append_to(ground.log, key_of(), "r", [b"over"], end=end)
        assert await places_of(tmp_path) == 2
        await ground.log.trim(older_than=ground.clock() + 1)
        assert await places_of(tmp_path) == 1
        await ground.log.delete(key_of())
        assert await places_of(tmp_path) == 0


async def test_run_under_way_finds_its_own_messages_among_others(tmp_path: Path) -> None:
    async with open_ground(sqlite_url(tmp_path)) as ground:
        for run_id, thread_id, user in (("a", "t", "ann"), ("b", "t", "bob"), ("c", "u", "ann")):
            context = context_of(run_id, thread_id=thread_id, user_id=user)
            await ground.begin_run(context, draft_of(f"{run_id}1", f"{run_id}2"))
        nothing = context_of("d", thread_id="v", user_id="ann")
        await ground.begin_run(nothing, draft_of())
        found = {run.key.run_id: run.draft for run in await ground.book.load_open_runs()}
        assert found == {
            **{run_id: draft_of(f"{run_id}1", f"{run_id}2") for run_id in "abc"},
            "d": draft_of(),
        }
