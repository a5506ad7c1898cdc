"""A large thread is deleted: gone at once, its rows later, whoever kills the server meanwhile."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.house import append_to, open_ground
from tests.live.server import Looks, Server
from tests.live.stage import SCRIPT, Lane, own_server, text_of

from isolane.context import UserExecutionContext
from isolane.contracts import RunDraft, RunEnd
from isolane.settings import DATABASE_NAME

EVENTS: Final = 200
EVENT_BYTES: Final = 100_000
"""20 MB in all: some eighty steps, which take half a second and more."""


async def write_log(data: Path, user: str) -> None:
    """Write a large log of a thread `t` into a data folder whose server doesn't run."""
    run = UserExecutionContext(user_id=user).for_thread("t").for_run("old")
    async with open_ground(f"sqlite:///{data / DATABASE_NAME}") as ground:
        await ground.begin_run(run, RunDraft("script", [], None, {}))
        payload = b'{"type":"CUSTOM","name":"old","value":"%b"}' % (b"x" * EVENT_BYTES)
        await append_to(ground.log, run.thread_key, "old", [payload] * EVENTS)
        end = RunEnd("old", "success", None, [], ground.clock())
        await append_to(ground.log, run.thread_key, "old", [b'{"type":"RUN_FINISHED"}'], end=end)


def old_rows(server: Server) -> int:
    """Return how many rows of the old log are on the disk."""
    with closing(sqlite3.connect(server.data / DATABASE_NAME)) as file:
        row = file.execute("SELECT count(*) FROM events WHERE length(payload) > 50000").fetchone()
    return int(row[0])


async def test_deletion_of_a_large_thread_goes_on_after_a_kill(tmp_path: Path) -> None:
    await write_log(tmp_path, "ann")
    async with own_server(tmp_path, SCRIPT) as server:
        ann, bob = Lane(server, "ann"), Lane(server, "bob")
        async with server.http(ann.token) as http:
            assert (await http.delete("/api/threads/t")).status_code == 204
            assert old_rows(server) > 0, "the whole deletion was one step"
            assert (await http.get("/api/threads/t")).status_code == 404
            assert (await http.get("/api/runs/old")).status_code == 404
            assert (await http.get("/api/threads")).json()["threads"] == []
        await server.kill()
        await server.start()
        # The thread and the run of these names are other ones, whatever is on the disk still.
        assert text_of(await ann.play("t", "old", "made anew")) == "made anew "
        assert text_of(await bob.play("t", "old", "beside it")) == "beside it "
        async for _ in Looks(10):
            if old_rows(server) == 0:
                break
        assert old_rows(server) == 0
        log = await ann.load_log("t")
        assert (log.text, log.envelopes[0]["id"].rpartition("-")[2]) == ("made anew ", "1")
        async with server.http(ann.token) as http:
            thread = (await http.get("/api/threads/t")).json()
        assert [one["content"] for one in thread["messages"]] == ["made anew", "made anew "]
