"""A backup that is put back: what clients remember of the time since matches nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.live.client import is_terminal, parse_id
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, envelopes, own_server, read_to_close, text_of
from tests.live.test_operations import Ended, isolane


def back_up(server: Server, backup: Path) -> None:
    with (
        closing(sqlite3.connect(server.data / "isolane.db")) as source,
        closing(sqlite3.connect(backup)) as target,
    ):
        source.backup(target)


def put_back(server: Server, backup: Path) -> None:
    for name in ("isolane.db-wal", "isolane.db-shm"):
        (server.data / name).unlink(missing_ok=True)
    (server.data / "isolane.db").write_bytes(backup.read_bytes())


async def renumber(server: Server) -> Ended:
    return await isolane("renumber", "--data", str(server.data))


async def test_an_id_from_before_matches_no_number_from_after(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        lane = Lane(server)
        await lane.play("t", "r-1", "kept")
        back_up(server, tmp_path / "backup.db")
        await lane.play("t", "r-2", "lost with the disk")
        before = (await lane.load_log("t")).cursor
        await server.stop()
        put_back(server, tmp_path / "backup.db")
        assert (await renumber(server)).out == "threads with new numbers: 1\n"
        await server.start()
        await lane.play("t", "r-3", "a few words more than there were before it")
        async with lane.connect() as client:
            await client.send({"type": "subscribe", "threadId": "t", "after": before})
            answer = await client.until_type("subscribed")
            first = await client.until(is_terminal)
        assert (answer["recovered"], answer["messages"]) == (False, [])
        # All is told anew.
        assert text_of([frame["chunk"] for frame in envelopes(first)]) == "kept "
        assert parse_id(answer["head"])[0] != parse_id(before)[0]
        assert parse_id(answer["head"])[1] >= parse_id(before)[1]  # by number alone it would match
        async with lane.replay("r-1", before) as replay:
            (error,), close = await read_to_close(replay)
        assert (error["code"], close[0]) == ("resume_expired", 1000)


async def test_thread_that_the_backup_did_not_have_numbers_apart(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        lane = Lane(server)
        back_up(server, tmp_path / "backup.db")
        await lane.play("t", "r-1", "lost with the disk")
        before = (await lane.load_log("t")).cursor
        await server.stop()
        put_back(server, tmp_path / "backup.db")
        await renumber(server)
        await server.start()
        for text in ("", "a few words more than there were before it"):
            if text:  # the thread is made anew, under the same id
                await lane.play("t", "r-1", text)
            async with lane.connect() as client:
                await client.send({"type": "subscribe", "threadId": "t", "after": before})
                answer = await client.until_type("subscribed")
            assert answer["recovered"] is False
            assert parse_id(answer["head"])[0] != parse_id(before)[0]


async def test_a_folder_that_is_served_is_left_alone(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        for ended in (
            await renumber(server),
            await isolane("serve", "--port", "0", "--data", str(server.data)),
        ):
            assert ended.code == 1
            assert ended.err.startswith("Error: another gateway has ")
            assert "stop it first" in ended.err
        await server.kill()
        assert (await renumber(server)).code == 0  # the lock has died with its process
        await server.start()
