"""Deleting a thread ends what it has; and over HTTP, too, what is foreign is as what is unknown."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import RECV_TIMEOUT_S, Client, Frame, parse_id, run_frame
from tests.live.event_stream import open_stream
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, settled, shared_server, steps, types_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "slow=agents:slow")
ERROR_ID: Final = re.compile(r"err_[0-9a-f-]+")


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def baseline(server: Server) -> dict[str, float]:
    """Give the gauges of a server that has done nothing yet."""
    return await server.gauges()


async def delete(http: httpx.AsyncClient, thread_id: str = "t") -> None:
    answer = await http.delete(f"/api/threads/{thread_id}")
    assert (answer.status_code, answer.content) == (204, b"")


HELD: Final = steps(["say", "old "], ["hold", "never"])
DEAF: Final = steps(["say", "old "], ["deaf"])


# ---- a thread that goes ----------------------------------------------------------------------


async def test_deleted_thread_is_unknown_in_every_way(lane: Lane, http: httpx.AsyncClient) -> None:
    await lane.play("t", "r-1", "words")
    await delete(http)
    for method, path in (
        ("GET", "/api/threads/t"),
        ("GET", "/api/threads/t/events"),
        ("DELETE", "/api/threads/t"),
        ("GET", "/api/runs/r-1"),
        ("POST", "/api/runs/r-1/abort"),
    ):
        answer = await http.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert (await http.get("/api/threads")).json()["threads"] == []
    assert (await lane.load_log("t")).envelopes == []


async def test_thread_deleted_in_mid_run_frees_everything_at_once(
    lane: Lane, server: Server, baseline: dict[str, float]
) -> None:
    await delete_and_use_again(lane, HELD)
    await server.wait_for_gauges(baseline)
    await every_slot_is_free(lane)


async def test_thread_is_deleted_under_an_agent_that_does_not_end(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        await delete_and_use_again(lane, DEAF)
        await every_slot_is_free(lane)


async def delete_and_use_again(lane: Lane, script: str) -> None:
    """Delete a thread with a run and one that waits, and use all the names again at once."""
    async with lane.connect() as client, lane.server.http(lane.token) as http:
        await client.subscribe("t")
        await client.run("t", "r-1", script)
        await client.run("t", "r-2", "waits")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        old = client.followers["t"].cursor
        await delete(http)
        for run_id in ("r-1", "r-2"):
            assert (await http.get(f"/api/runs/{run_id}")).status_code == 404
            assert (await http.post(f"/api/runs/{run_id}/abort")).status_code == 404
        async with lane.connect() as fresh:
            assert fresh.welcome is not None
            assert fresh.welcome["activeRuns"] == []
            new = await fresh.subscribe("t")
            for run_id in ("r-1", "r-2"):
                await fresh.run("t", run_id, f"new {run_id}")
                accepted = await fresh.until_type("accepted")
                assert accepted["disposition"] == "started"
                end = await fresh.until_end(run_id)
                assert end["chunk"]["outcome"] == {"type": "success"}
        assert new.text == "new r-1 new r-2 "
        assert parse_id(new.cursor)[0] != parse_id(old)[0]
        messages = (await http.get("/api/threads/t")).json()["messages"]
        assert "old" not in json.dumps(messages)


async def every_slot_is_free(lane: Lane) -> None:
    """Use as many runs at once as a user may have."""
    async with lane.connect() as client:
        for number in range(5):
            await client.run(f"u-{number}", f"s-{number}", HELD)
            assert (await client.until_type("accepted"))["disposition"] == "started"
        for number in range(5):
            await client.abort(f"s-{number}")
            await client.until_end(f"s-{number}")


async def test_subscribers_are_told_and_then_hear_nothing(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    async with lane.connect() as client, lane.connect() as plain, lane.connect() as other:
        await client.subscribe("t")
        await plain.run("t", "r-1", HELD)  # follows its own run only
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await plain.until_event("TEXT_MESSAGE_CONTENT")
        await delete(http)
        for socket in (client, plain, other):
            told = await socket.until(lambda f: f.get("type") == "thread" and f["deleted"])
            news = told[-1]
            assert (news["threadId"], news["activeRunId"]) == ("t", None)
            assert not [f for f in told if is_terminal_of(f, "r-1")]
        await other.run("t", "r-2", "new")
        await other.until_end("r-2")
        assert (await other.subscribe("t")).envelopes == []
        for socket in (client, plain):
            assert [f for f in await settled(socket) if f.get("threadId") == "t"] == []
        # Who wants the new thread asks for it.
        assert (await client.subscribe("t")).after.endswith("-0")
        assert (await client.until_end("r-2"))["id"].split("-")[1] == "5"


def is_terminal_of(frame: Frame, run_id: str) -> bool:
    return frame.get("runId") == run_id and frame["chunk"]["type"].startswith("RUN_")


async def test_old_cursor_tells_the_gap(lane: Lane, http: httpx.AsyncClient) -> None:
    await lane.play("t", "r-1", "old words that are long enough")
    old = (await lane.load_log("t")).envelopes[2]["id"]
    await delete(http)
    await lane.play("t", "r-1", "new")
    async with lane.connect() as client:
        await client.send({"type": "subscribe", "threadId": "t", "after": old})
        answer = await client.until_type("subscribed")
        assert answer["recovered"] is False
        assert [message["role"] for message in answer["messages"]] == []
        frames = await client.until(lambda frame: frame.get("id") == answer["head"])
    assert [parse_id(f["id"])[1] for f in frames if "chunk" in f] == [1, 2, 3, 4, 5]
    refused = await http.get(f"/api/threads/t/events?after={old}")
    assert (refused.status_code, refused.json()["code"]) == (410, "resume_expired")
    async with lane.replay("r-1", old) as socket:
        (error,) = await socket.until(lambda frame: "type" in frame)
        assert (error["type"], error["code"]) == ("RUN_ERROR", "resume_expired")
        assert await socket.closed() == (1000, "")


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "with a run"])
async def test_streams_of_a_deleted_thread_end(
    lane: Lane,
    http: httpx.AsyncClient,
    server: Server,
    baseline: dict[str, float],
    *,
    is_empty: bool,
) -> None:
    await http.post("/api/threads", json={"threadId": "t"})
    async with AsyncExitStack() as stack:
        streams = []
        if not is_empty:
            run = open_stream(http, "/agui", run_frame("t", "r-1", HELD))
            streams.append(await stack.enter_async_context(run))
            await streams[0].until_type("TEXT_MESSAGE_CONTENT")
        follow = open_stream(http, "/api/threads/t/events")
        streams.append(await stack.enter_async_context(follow))
        if not is_empty:
            await streams[1].until_type("TEXT_MESSAGE_CONTENT")
        await delete(http)
        await lane.play("t", "r-1", "new")
        async with asyncio.timeout(RECV_TIMEOUT_S):
            for stream in streams:
                assert [e for e in await stream.rest() if e.id is not None] == []
        assert (await http.get("/api/threads/t")).status_code == 200
    await server.wait_for_gauges(baseline)


async def test_dying_run_writes_nothing_into_the_new_thread(
    lane: Lane, http: httpx.AsyncClient, server: Server, baseline: dict[str, float]
) -> None:
    async with lane.connect(agent="slow", hello=False) as old, lane.connect() as new:
        for number in range(8):
            name = await flood(old, f"t-{number}", number)
            await delete(http, f"t-{number}")
            await new.run(f"t-{number}", name, "fresh words")
            await new.until_end(name)
            log = (await lane.load_log(f"t-{number}")).envelopes
            assert {envelope["runId"] for envelope in log} == {name}
            assert types_of([envelope["chunk"] for envelope in log]) == FRESH
            assert parse_id(log[0]["id"])[1] == 1
            await delete(http, f"t-{number}")
    await server.wait_for_gauges(baseline, within_s=10)
    # Its agents spoke on after their thread had gone, and did nothing wrong.
    own = [record for record in server.logs if record.get("user_id") == lane.user]
    assert not [record for record in own if record["event"] == "run_failed"]


async def test_run_that_meets_a_deletion_goes_with_the_old_thread_or_ends_in_the_new_one(
    lane: Lane, http: httpx.AsyncClient, server: Server, baseline: dict[str, float]
) -> None:
    async with lane.connect(agent="slow", hello=False) as old, lane.connect() as new:
        for number in range(10):
            thread_id = f"t-{number}"
            name = await flood(old, thread_id, number)
            await asyncio.gather(delete(http, thread_id), new.run(thread_id, name, "fresh words"))
            if (await http.get(f"/api/runs/{name}")).status_code == 200:
                async with lane.connect() as client:
                    follower = await client.subscribe(thread_id)
                    await client.until_end(name)
                assert {envelope["runId"] for envelope in follower.envelopes} == {name}
                assert follower.text in {"fresh words ", ""}
            await delete_if_there(http, thread_id)
    await server.wait_for_gauges(baseline, within_s=10)


async def flood(client: Client, thread_id: str, number: int) -> str:
    """Let an agent talk as fast as it can; return its run's id, or another one, in turn."""
    await client.run(thread_id, f"old-{number}", "count 100000 every 0ms")
    await client.until_event("TEXT_MESSAGE_CONTENT", f"old-{number}")
    return f"old-{number}" if number % 2 else f"new-{number}"


FRESH: Final = [
    "RUN_STARTED",
    "TEXT_MESSAGE_START",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_END",
    "RUN_FINISHED",
]


async def delete_if_there(http: httpx.AsyncClient, thread_id: str) -> None:
    answer = await http.delete(f"/api/threads/{thread_id}")
    assert answer.status_code in {204, 404}


async def test_two_deletions_at_once_are_one_and_an_unknown_thread(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "words")
    answers = await asyncio.gather(*(http.delete("/api/threads/t") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [204, 404, 404, 404]


# ---- two users -------------------------------------------------------------------------------


def questions(thread_id: str, run_id: str, message_id: str, cursor: str) -> list[Any]:
    """Return every request that names a thread, run or message."""
    rewind = run_frame("mine", "new", "x", forwardedProps={"rewindTo": message_id})
    return [
        ("GET", f"/api/threads/{thread_id}", None),
        ("PATCH", f"/api/threads/{thread_id}", {"title": "taken"}),
        ("DELETE", f"/api/threads/{thread_id}", None),
        ("GET", f"/api/threads/{thread_id}/events", None),
        ("GET", f"/api/threads/{thread_id}/events?after={cursor}", None),
        ("GET", f"/api/threads/{thread_id}/events?after=abc-0", None),
        ("GET", f"/api/runs/{run_id}", None),
        ("POST", f"/api/runs/{run_id}/abort", None),
        ("POST", "/agui", rewind),
    ]


async def answer_to(http: httpx.AsyncClient, method: str, path: str, body: object) -> list[bytes]:
    """Return all of an answer that could differ, its error's own id left out."""
    answer = await http.request(method, path, json=body)
    text = ERROR_ID.sub("err_…", answer.text)
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    return [str(answer.status_code).encode(), json.dumps(headers).encode(), text.encode()]


async def test_foreign_is_answered_byte_for_byte_as_unknown(
    http: httpx.AsyncClient, server: Server
) -> None:
    ann = Lane(server)
    await ann.play("thread-of-ann", "ended-of-ann", "a secret")
    cursor = (await ann.load_log("thread-of-ann")).cursor
    async with ann.connect() as owner:
        await owner.run("thread-of-ann", "active-of-ann", HELD)
        await owner.until_event("TEXT_MESSAGE_CONTENT")
        for run_id in ("ended-of-ann", "active-of-ann"):
            nobody = "x" * len(run_id)
            foreign = questions("thread-of-ann", run_id, f"{run_id}-question", cursor)
            unknown = questions("thread-of-nob", nobody, f"{nobody}-question", cursor)
            for theirs, none in zip(foreign, unknown, strict=True):
                answered = await answer_to(http, *theirs)
                assert answered == await answer_to(http, *none)
                assert b"secret" not in b"".join(answered)
                assert answered[0] in {b"404", b"422"}
        run = await owner_run(ann, "active-of-ann")
        assert run["state"] == "running"
        await owner.abort("active-of-ann")
        await owner.until_end("active-of-ann")
    assert (await http.get("/api/threads")).json()["threads"] == []


async def owner_run(lane: Lane, run_id: str) -> Frame:
    async with lane.server.http(lane.token) as client:
        run: Frame = (await client.get(f"/api/runs/{run_id}")).json()
        return run


async def test_two_users_with_the_same_names_never_meet(lane: Lane, server: Server) -> None:
    other = Lane(server)
    logs, kept = {}, {}
    async with server.http(lane.token) as anns, server.http(other.token) as bobs:
        for who, http in ((lane, anns), (other, bobs)):
            made = await http.post("/api/threads", json={"threadId": "t", "title": who.user})
            assert made.json()["title"] == who.user
            async with open_stream(http, "/agui", run_frame("t", "r-1", who.user)) as stream:
                logs[who.user] = [entry.id for entry in await stream.rest()]
        for who, http in ((lane, anns), (other, bobs)):
            thread = (await http.get("/api/threads/t")).json()
            assert thread["title"] == who.user
            assert [m["content"].strip() for m in thread["messages"]] == [who.user] * 2
            kept[who.user] = thread
            listed = (await http.get("/api/threads")).json()["threads"]
            assert [found["title"] for found in listed] == [who.user]
        assert set(logs[lane.user]).isdisjoint(logs[other.user])
        # A place in the one's log is no place in the other's.
        foreign = await bobs.get(f"/api/threads/t/events?after={logs[lane.user][1]}")
        assert (foreign.status_code, foreign.json()["code"]) == (410, "resume_expired")
        await bobs.patch("/api/threads/t", json={"title": "renamed"})
        assert (await bobs.post("/api/runs/r-1/abort")).status_code == 202
        await delete(bobs)
        assert (await anns.get("/api/threads/t")).json() == kept[lane.user]
        assert (await anns.get("/api/runs/r-1")).json()["outcome"] == "success"
        assert (await bobs.get("/api/runs/r-1")).status_code == 404


async def test_news_of_a_thread_reach_its_user_only(lane: Lane, server: Server) -> None:
    other = Lane(server)
    async with lane.connect() as client, other.connect() as eve, server.http(lane.token) as http:
        await eve.subscribe("t")
        await http.post("/api/threads", json={"threadId": "t", "title": "mine"})
        await http.patch("/api/threads/t", json={"title": "still mine"})
        await delete(http)
        told = await client.until(lambda frame: frame.get("deleted") is True)
        assert [frame["title"] for frame in told] == ["mine", "still mine", ""]
        await eve.send({"type": "unsubscribe", "threadId": "fence"})
        assert (await eve.recv())["type"] == "unsubscribed"
