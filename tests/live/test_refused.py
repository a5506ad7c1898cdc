"""What the database refuses for good: it is told once, retried by nobody, and ends what it hits.

Triggers in the server's own file refuse single rows, as a damaged page or a broken rule would.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import pytest
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, steps

REFUSED: Final = "refused by a rule"
ANSWER: Final = """CAST(NEW.payload AS TEXT) LIKE '%"assistant"%'"""


async def execute(server: Server, *statements: str) -> None:
    """Run statements in the server's file, beside the server."""

    def run() -> None:
        with closing(sqlite3.connect(server.data / "isolane.db", timeout=30)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    await asyncio.to_thread(run)


def refusing(event: str, *, when: str = "1") -> str:
    """Return the statement that lets SQLite refuse what `event` says, `when` it is so."""
    name = f"refuse_{abs(hash((event, when)))}"
    rule = f"SELECT RAISE(ABORT, '{REFUSED}')"
    return f"CREATE TRIGGER {name} BEFORE {event} WHEN {when} BEGIN {rule}; END"


def logged(server: Server, needle: str) -> list[str]:
    return [line for line in server.lines if needle in line and REFUSED in line]


async def assert_ready(server: Server) -> None:
    async with server.http() as http:
        assert (await http.get("/readyz")).status_code == httpx.codes.OK


async def test_start_that_breaks_a_constraint_is_internal_once(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        await execute(server, refusing("INSERT ON runs", when="NEW.run_id = 'r-1'"))
        async with lane.connect() as client:
            await client.run("t", "r-1", "hello")
            error = await client.until_type("error")
            assert error["code"] == "internal"
        await assert_ready(server)
        async with lane.connect() as client:
            for number in range(2, 10):  # more than a user's slots: the refused one holds none
                end = await lane.finish(client, "t", f"r-{number}", "hello")
                assert end["chunk"]["type"] == "RUN_FINISHED"
        (line,) = logged(server, error["errorId"])
        assert "DatabaseFailed" in line
        assert "IntegrityError" in line
        assert "hello" not in line  # what users write is in no log


async def test_messages_that_cannot_be_stored_end_their_run_without_them(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        await execute(server, refusing("INSERT ON messages", when=ANSWER))
        async with lane.connect() as client:
            seen = await client.subscribe("t")
            end = await lane.finish(client, "t", "r-1", steps(["say", "hello"]))
            assert (end["chunk"]["type"], end["chunk"]["code"]) == ("RUN_ERROR", "internal")
            assert seen.types[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
            await assert_ready(server)
            await execute(server, "DROP TRIGGER " + (await trigger_names(server))[0])
            assert (await lane.finish(client, "t", "r-2", "more"))["chunk"]["type"] == (
                "RUN_FINISHED"
            )
        assert len(logged(server, end["chunk"]["metadata"]["errorId"])) == 1


async def trigger_names(server: Server) -> list[str]:
    """Return the names of the triggers in the server's file."""

    def read() -> list[str]:
        with closing(sqlite3.connect(server.data / "isolane.db", timeout=30)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            return [name for (name,) in found]

    return await asyncio.to_thread(read)


async def test_queued_run_that_can_never_begin_ends_and_the_next_one_begins(
    tmp_path: Path,
) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        rule = "NEW.state = 'running' AND NEW.run_id = 'r-2'"
        await execute(server, refusing("UPDATE ON runs", when=rule))
        async with lane.connect() as client:
            seen = await client.subscribe("t")
            await client.run("t", "r-1", steps(["hold", "gate"]))
            await client.until_true(lambda: bool(seen.types))
            for run_id in ("r-2", "r-3"):
                await client.run("t", run_id, "hello")
                await client.until(lambda frame: frame.get("type") == "accepted")
            await lane.open_gate("gate")
            await client.until_true(lambda: seen.has_ended("r-3"))
        assert [each["type"] for each in seen.of_run("r-2")] == ["RUN_STARTED", "RUN_ERROR"]
        assert seen.of_run("r-2")[-1]["code"] == "internal"
        assert seen.of_run("r-3")[-1]["type"] == "RUN_FINISHED"


FIRST: Final = "run_no = (SELECT run_no FROM runs WHERE run_id = 'r-1')"
DAMAGES: Final = {
    "nothing": "UPDATE messages SET message_id = message_id",
    "log entry": f"UPDATE events SET payload = x'00' WHERE {FIRST} AND seq > 1",  # noqa: S608 - no user's words
    "draft": "UPDATE runs SET draft = x'00' WHERE run_id IN ('r-1', 'r-2')",
    "end": refusing("INSERT ON events", when=f"NEW.{FIRST}"),
    "end's row": refusing("UPDATE ON runs", when="NEW.run_id = 'r-1'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_no_lost_run_stands_before_the_port(tmp_path: Path, damage: str) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            seen = await client.subscribe("t")
            await client.run("t", "r-1", steps(["say", "half"], ["hold", "never"]))
            await client.until_true(lambda: bool(seen.text))
            await client.run("t", "r-2", "after it")
            await client.until(lambda frame: frame.get("runId") == "r-2")
        await server.kill()
        await execute(server, DAMAGES[damage])
        await server.start()
        await assert_ready(server)
        assert (await lane.play("u", "r-3", "more"))[-1]["type"] == "RUN_FINISHED"
        assert (await lane.play("t", "r-4", "more"))[-1]["type"] == "RUN_FINISHED"
        async with server.http(lane.token) as http:
            for thread_id in ("t", "u"):
                answer = await http.get(f"/api/threads/{thread_id}")
                assert answer.status_code == httpx.codes.OK
