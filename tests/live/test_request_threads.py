"""Threads of single requests: in no list, told to no device, and gone some time later."""

from __future__ import annotations

from pathlib import Path

from tests.house import open_ground
from tests.live.client import Frame
from tests.live.server import Looks
from tests.live.stage import SCRIPT, Lane, own_server, text_of

from isolane.context import UserExecutionContext
from isolane.contracts import Opening, RunDraft, ThreadKind
from isolane.settings import DATABASE_NAME


async def begin_request(data: Path, user: str) -> None:
    """Let a server have died in the middle of a request."""
    run = UserExecutionContext(user_id=user).for_thread("request").for_run("lost")
    opening = Opening(ThreadKind.REQUEST)
    async with open_ground(f"sqlite:///{data / DATABASE_NAME}") as ground:
        await ground.begin_run(run, RunDraft("script", [], None, {}, opening=opening))


def is_rest_of(frame: Frame, thread_id: str) -> bool:
    """Say whether a frame tells that a thread has no run under way any more."""
    return frame.get("threadId") == thread_id and frame.get("activeRunId", "") is None


async def test_request_is_told_to_no_device_and_is_gone_some_time_after_its_run(
    tmp_path: Path,
) -> None:
    await begin_request(tmp_path, "ann")
    env = {"ISOLANE_REQUEST_THREADS_KEPT_S": "1"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server, "ann")
        async with lane.connect() as watcher, server.http(lane.token) as http:
            assert watcher.welcome is not None
            assert watcher.welcome["activeRuns"] == []
            assert text_of(await lane.play("request", "again", "said")) == "said "
            await lane.play("chat", "r", "hello")
            told = await watcher.until(lambda frame: is_rest_of(frame, "chat"))
            assert {frame["threadId"] for frame in told if "threadId" in frame} == {"chat"}
            threads = (await http.get("/api/threads")).json()["threads"]
            assert [thread["threadId"] for thread in threads] == ["chat"]
            async for _ in Looks(20):
                if (await http.get("/api/threads/request")).status_code == 404:
                    break
            assert (await http.get("/api/threads/request")).status_code == 404
            for run_id in ("lost", "again"):
                assert (await http.get(f"/api/runs/{run_id}")).status_code == 404
            assert (await http.get("/api/threads/chat")).status_code == 200
            await lane.play("last", "end", "hello")
            told = await watcher.until(lambda frame: is_rest_of(frame, "last"))
            assert {frame["threadId"] for frame in told if "threadId" in frame} == {"last"}
