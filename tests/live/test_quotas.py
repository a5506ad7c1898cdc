"""Quotas of what a user keeps: who is above one is told so, may still tidy, and harms nobody."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.house import COUNT_KEPT
from tests.live.client import Frame, run_frame
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

THREADS: Final = 3
BYTES: Final = 200_000
QUOTAS: Final = {
    "ISOLANE_LIMIT_STORED_THREADS_PER_USER": str(THREADS),
    "ISOLANE_LIMIT_STORED_BYTES_PER_USER": str(BYTES),
}
FILL: Final = steps(["blobs", 1, BYTES])
MARK: Final = "a mark that stands nowhere else"
QUESTION: Final = "x" * 50_000 + MARK + "x" * 50_000

server = shared_server(SCRIPT, env=QUOTAS)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


def assert_full(error: Frame, limit: str, most: int) -> None:
    """Fail unless this refuses for a quota, names it, and says what helps."""
    said = error.get("message") or error["detail"]
    assert (error["code"], error["retryable"]) == ("limit_exceeded", False)
    assert "retryAfterMs" not in error
    assert said.startswith(f"{limit} is limited to {most}, and ")
    assert said.endswith("deleting threads makes room")


def assert_exact(server: Server) -> None:
    """Fail unless the narrow rows say what a count of everything finds."""
    with closing(sqlite3.connect(server.data / "isolane.db")) as connection:
        connection.execute("BEGIN")  # both of one moment
        rows = connection.execute("SELECT * FROM usage").fetchall()
        found = connection.execute(COUNT_KEPT).fetchall()
    noted = {user: kept for user, *kept in rows if any(kept)}
    there = {user: kept for user, *kept in found}
    totals = [sum(kept) for kept in zip(*there.values(), strict=True)]
    assert noted == ({**there, "": totals} if there else {})


async def test_threads_are_as_many_as_published_for_each_user_alone(lane: Lane) -> None:
    async with lane.server.http(lane.token) as http, lane.connect() as client:
        assert client.welcome is not None
        assert client.welcome["limits"]["storedThreadsPerUser"] == THREADS
        names = [f"t{number}" for number in range(3 * THREADS)]
        answers = await asyncio.gather(
            *(http.post("/api/threads", json={"threadId": name}) for name in names)
        )
        made = [name for name, answer in zip(names, answers, strict=True) if answer.is_success]
        assert len(made) == THREADS
        for answer in answers:
            if not answer.is_success:
                assert (answer.status_code, answer.headers.get("retry-after")) == (429, None)
                assert_full(answer.json(), "storedThreadsPerUser", THREADS)
        await client.run("new", "r-1", "hello")
        assert_full(await client.until_type("error"), "storedThreadsPerUser", THREADS)
        answer = await http.post("/agui", json=run_frame("new", "r-1", "hello"))
        assert_full(answer.json(), "storedThreadsPerUser", THREADS)
        assert (await http.get("/api/threads/new")).status_code == httpx.codes.NOT_FOUND
        # What is no new thread goes on, and a neighbour has quotas of their own.
        assert (await http.post("/api/threads", json={"threadId": made[0]})).is_success
        for user, thread_id, run_id in (
            (lane, made[0], "r-2"),
            (Lane(lane.server), "new", "r-1"),
        ):
            assert (await user.play(thread_id, run_id, "hello"))[-1]["type"] == "RUN_FINISHED"
        assert (await http.delete(f"/api/threads/{made[1]}")).is_success
        assert (await lane.play("new", "r-1", "hello"))[-1]["type"] == "RUN_FINISHED"


async def test_above_the_bytes_all_works_but_what_is_new(lane: Lane) -> None:
    async with lane.server.http(lane.token) as http, lane.connect() as client:
        seen = await client.subscribe("t")
        await client.run("t", "r-1", steps(["blobs", 1, BYTES], ["hold", "full"], ["say", "end"]))
        await client.until_true(lambda: "CUSTOM" in seen.types)
        # The run under way has passed the quota itself.
        for thread_id, run_id in (("t", "r-2"), ("u", "r-3")):
            await client.run(thread_id, run_id, "hello")
            assert_full(await client.until_type("error"), "storedBytesPerUser", BYTES)
        answer = await http.post("/api/threads", json={"threadId": "u"})
        assert_full(answer.json(), "storedBytesPerUser", BYTES)
        await client.send(
            run_frame("t", "r-1", steps(["blobs", 1, BYTES], ["hold", "full"], ["say", "end"]))
        )
        attached = await client.until_type("accepted")
        assert attached["disposition"] == "attached"
        await lane.open_gate("full")
        await client.until_end("r-1")
        assert (seen.types[-1], seen.text) == ("RUN_FINISHED", "end")
        assert (await http.post("/api/threads", json={"threadId": "t"})).is_success
        assert (await http.patch("/api/threads/t", json={"title": "kept"})).is_success
        assert (await http.get("/api/threads/t")).json()["messages"][-1]["content"] == "end"
        assert (await http.post("/api/runs/r-1/abort")).is_success
        assert (await Lane(lane.server).play("t", "r-1", "hello"))[-1]["type"] == "RUN_FINISHED"
        assert (await http.delete("/api/threads/t")).is_success
        await client.until(lambda frame: frame.get("deleted") is True)
    assert (await lane.play("t", "r-1", "hello"))[-1]["type"] == "RUN_FINISHED"
    assert_exact(lane.server)


async def test_run_that_waits_was_let_in_and_begins_above_the_quota(lane: Lane) -> None:
    async with lane.connect() as client:
        seen = await client.subscribe("t")
        await client.run("t", "r-1", steps(["hold", "line"], ["blobs", 1, BYTES]))
        await client.run("t", "r-2", "after it")
        await client.until(lambda frame: frame.get("disposition") == "queued")
        await lane.open_gate("line")
        await client.until_true(lambda: seen.has_ended("r-2"))
        assert seen.of_run("r-2")[-1]["type"] == "RUN_FINISHED"
        await client.run("t", "r-3", "hello")
        assert_full(await client.until_type("error"), "storedBytesPerUser", BYTES)


async def test_run_that_is_refused_takes_no_slot_and_stops_nobody(lane: Lane) -> None:
    """Policy `interrupt` would stop the run under way, if the new one were let in."""
    async with lane.connect() as client:
        seen = await client.subscribe("t")
        await client.run("t", "r-1", steps(["blobs", 1, BYTES], ["hold", "slot"], ["say", "end"]))
        await client.until_true(lambda: "CUSTOM" in seen.types)
        for number in range(8):  # more than a user's slots
            props = {"policy": "interrupt"}
            await client.run("t", f"new-{number}", "hello", forwardedProps=props)
            assert_full(await client.until_type("error"), "storedBytesPerUser", BYTES)
        await lane.open_gate("slot")
        await client.until_end("r-1")
        assert (seen.types[-1], seen.text) == ("RUN_FINISHED", "end")


async def test_count_is_exact_after_a_kill_retention_and_a_deletion(
    tmp_path: Path,
) -> None:
    few = {"ISOLANE_LOG_MAX_EVENTS": "40", "ISOLANE_LIMIT_RUN_EVENTS": "40"}
    async with own_server(tmp_path, SCRIPT, env=few) as server:
        ann, bob = Lane(server), Lane(server)
        for number in range(4):
            await ann.play("t", f"r-{number}", steps(["count", 25]))
        await bob.play("gone", "r", "hello")
        async with ann.connect() as client, bob.server.http(bob.token) as http:
            seen = await client.subscribe("u")
            await client.run("u", "lost", steps(["count", 20], ["hold", "never"]))
            await client.run("u", "waits", "after it")
            await client.until_true(lambda: "19 " in seen.text)
            assert (await http.delete("/api/threads/gone")).is_success
            await server.kill()
        assert_exact(server)
        await server.start()
        async with ann.connect() as client:
            again = await client.subscribe("u")
            await client.until_true(lambda: again.has_ended("waits"))
        await server.stop()
        assert_exact(server)


def count_marks(server: Server, folder: Path) -> int:
    """Return how often the file has the question, without pages that SQLite would use again."""
    copy = folder / "copy.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(server.data / "isolane.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy.read_bytes().count(MARK.encode())


async def test_question_stands_in_the_file_twice_and_once_while_it_waits(tmp_path: Path) -> None:
    def asked(run_id: str, gate: str) -> list[Frame]:
        said = {"m-" + run_id: QUESTION if run_id == "r-2" else "?", "s-" + run_id: gate}
        return [{"id": name, "role": "user", "content": text} for name, text in said.items()]

    async with own_server(tmp_path / "data", SCRIPT) as server, Lane(server).connect() as client:
        seen = await client.subscribe("t")
        await client.run("t", "r-1", "", messages=asked("r-1", steps(["hold", "first"])))
        await client.until_true(lambda: bool(seen.types))
        messages = asked("r-2", steps(["say", "1"], ["hold", "second"]))
        await client.run("t", "r-2", "", messages=messages)
        await client.until(lambda frame: frame.get("disposition") == "queued")
        assert count_marks(server, tmp_path) == 1
        await Lane(server).open_gate("first")
        await client.until_true(lambda: seen.text == "1")
        assert count_marks(server, tmp_path) == 2
        await Lane(server).open_gate("second")
        await client.until_true(lambda: seen.has_ended("r-2"))
        assert count_marks(server, tmp_path) == 2
