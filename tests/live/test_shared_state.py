"""AG-UI's shared state is kept with its thread: for the next run, for readers, for a rewind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.live.agui import AguiClient, agui_client
from tests.live.client import run_frame
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, shared_server, steps, text_of, types_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)

LOOK = steps(["input"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver() -> AsyncIterator[AguiClient]:
    async with agui_client() as client:
        yield client


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


def snapshot(value: object) -> list[Any]:
    return ["event", {"type": "STATE_SNAPSHOT", "snapshot": value}]


def delta(path: str, value: object) -> list[Any]:
    patch = [{"op": "add", "path": path, "value": value}]
    return ["event", {"type": "STATE_DELTA", "delta": patch}]


async def load(lane: Lane, query: str = "") -> dict[str, Any]:
    async with lane.server.http(lane.token) as http:
        thread: dict[str, Any] = (await http.get(f"/api/threads/t{query}")).json()
        return thread


async def state_of(lane: Lane) -> Any:  # noqa: ANN401 - any JSON
    return (await load(lane))["state"]


async def given(lane: Lane, run_id: str, **fields: Any) -> Any:  # noqa: ANN401 - any JSON
    """Run, and return the state that the agent got."""
    return json.loads(text_of(await lane.play("t", run_id, LOOK, **fields))).get("state")


async def test_published_client_on_another_device_goes_on_with_the_state(
    driver: AguiClient, lane: Lane
) -> None:
    url = f"{lane.server.url}/agui"
    await driver.open(lane.user, url, lane.token, "t")
    first = await driver.run(
        lane.user, steps(snapshot({"n": 1}), delta("/list", [None, 1.5])), run_id="r-1"
    )
    assert first.failures == []
    assert first.state == {"n": 1, "list": [None, 1.5]} == await state_of(lane)
    await driver.open("phone", url, lane.token, "t")  # begins with {}, as the client always does
    second = await driver.run("phone", steps(["input"], delta("/m", 2)), run_id="r-2")
    assert second.failures == []
    assert json.loads(text_of(second.events))["state"] == first.state
    assert second.state == {**first.state, "m": 2} == await state_of(lane)
    await driver.set("phone", state={"mine": True})
    third = await driver.run("phone", LOOK, run_id="r-3")
    assert json.loads(text_of(third.events))["state"] == {"mine": True} == await state_of(lane)


@pytest.mark.parametrize("sent", [{}, {"state": None}, {"state": {}}], ids=str)
async def test_run_that_sends_no_state_gets_what_is_kept(lane: Lane, sent: dict[str, Any]) -> None:
    assert await given(lane, "r-0") in (None, {})
    await lane.play("t", "r-1", steps(snapshot({"n": 1})))
    frame = {**run_frame("t", "r-2", LOOK), "state": "unset", **sent}
    if not sent:
        del frame["state"]
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        await client.send(frame)
        await client.until_end("r-2")
    assert json.loads(text_of(follower.of_run("r-2")))["state"] == {"n": 1}
    assert await state_of(lane) == {"n": 1}


@pytest.mark.parametrize("sent", [{"m": 2}, [], 0, False, "text", {"n": None}], ids=repr)
async def test_run_that_sends_a_state_replaces_what_is_kept(lane: Lane, sent: object) -> None:
    await lane.play("t", "r-1", steps(snapshot({"n": 1})))
    assert await given(lane, "r-2", state=sent) == sent
    assert await state_of(lane) == sent
    assert await given(lane, "r-3", state=None) == sent


async def test_thread_without_a_state_has_an_empty_one(lane: Lane) -> None:
    await lane.play("t", "r-1", "hello")
    assert await state_of(lane) == {}
    for number in range(2, 5):
        await lane.play("t", f"r-{number}", "hello")
    first = await load(lane, "?limit=1")
    assert first["state"] == {}
    assert (await load(lane, f"?limit=1&before={first['before']}"))["state"] is None


async def test_rewind_takes_the_state_back(lane: Lane) -> None:
    for number in (1, 2, 3):
        await lane.play("t", f"r-{number}", steps(delta("/n", number)), state=None)
    assert await state_of(lane) == {"n": 3}
    edit = {"rewindTo": "r-3-question"}
    assert await given(lane, "r-4", state={}, forwardedProps=edit) == {"n": 2}
    assert await state_of(lane) == {"n": 2}
    edit = {"rewindTo": "r-2-question"}
    assert await given(lane, "r-5", state={}, forwardedProps=edit) == {"n": 1}
    edit = {"rewindTo": "r-1-question"}
    assert await given(lane, "r-6", state={}, forwardedProps=edit) in (None, {})
    assert await state_of(lane) == {}


async def test_answer_that_is_asked_for_again_begins_with_the_state_before_it(lane: Lane) -> None:
    await lane.play("t", "r-1", steps(snapshot({"n": 1})))
    question = {"id": "q", "role": "user", "content": steps(["input"], delta("/m", 2))}
    for run_id in ("r-2", "r-3", "r-4"):
        events = await lane.play("t", run_id, "", messages=[question], state={})
        assert json.loads(text_of(events))["state"] == {"n": 1}
        assert await state_of(lane) == {"n": 1, "m": 2}
    assert (await load(lane))["messages"][-2]["id"] == "q"


async def test_state_of_a_run_under_way_is_not_told_yet(lane: Lane) -> None:
    await lane.play("t", "r-1", steps(snapshot({"n": 1})))
    edit = {"rewindTo": "r-1-question"}
    async with lane.connect() as client:
        script = steps(snapshot({"n": 2}), ["say", "x"], ["hold", f"{lane.user} go"])
        await client.run("t", "r-2", script, forwardedProps=edit)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        assert await state_of(lane) == {"n": 1}
        await lane.open_gate(f"{lane.user} go")
        await client.until_end("r-2")
    assert await state_of(lane) == {"n": 2}


async def test_delta_stands_behind_the_state_that_its_client_does_not_have(lane: Lane) -> None:
    await lane.play("t", "r-1", steps(snapshot({"n": 1})))
    said = steps(delta("/m", 2), delta("/o", 3))
    events = await lane.play("t", "r-2", said, state={})
    assert types_of(events)[1:-1] == ["STATE_SNAPSHOT", "STATE_DELTA", "STATE_DELTA"]
    assert events[1]["snapshot"] == {"n": 1}
    events = await lane.play("t", "r-3", said, state={"n": 1})
    assert types_of(events)[1:-1] == ["STATE_DELTA", "STATE_DELTA"]


async def test_stopped_and_failed_runs_leave_the_state_that_they_told(lane: Lane) -> None:
    await lane.play("t", "r-1", steps(snapshot({"n": 1}), ["raise", "ValueError", "x"]))
    assert await state_of(lane) == {"n": 1}
    async with lane.connect() as client:
        await client.run("t", "r-2", steps(delta("/n", 2), ["say", "x"], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-2")
        await client.until_end("r-2")
    assert await state_of(lane) == {"n": 2}


async def test_state_is_its_users_own_and_goes_with_its_thread(lane: Lane) -> None:
    stranger = Lane(lane.server)
    await lane.play("t", "r-1", steps(snapshot({"secret": lane.user})))
    await stranger.play("t", "r-1", "hello")
    assert await state_of(stranger) == {}
    async with lane.server.http(lane.token) as http:
        await http.delete("/api/threads/t")
    assert await given(lane, "r-2", state={}) in (None, {})
    assert await state_of(lane) == {}


async def test_state_outlives_restart_kill_and_the_log(tmp_path: Path) -> None:
    env = {"ISOLANE_LOG_RETENTION_S": "1"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server)
        await lane.play("t", "r-1", steps(snapshot({"n": 1})))
        async with lane.connect() as client:
            await client.run("t", "r-2", steps(delta("/m", 2), ["say", "x"], ["hold", "never"]))
            await client.until_event("TEXT_MESSAGE_CONTENT")
        await server.kill()
        await server.start()
        async with lane.replay("r-2") as socket:
            await socket.closed()
        assert await state_of(lane) == {"n": 1, "m": 2}
        await trimmed(lane)
        assert await given(lane, "r-3", state={}) == {"n": 1, "m": 2}


async def trimmed(lane: Lane) -> None:
    """Return once the log of the thread has let go of its first run."""
    while True:
        async with lane.connect() as client:
            await client.send({"type": "subscribe", "threadId": "t", "after": None})
            answer = await client.until_type("subscribed")
        if not answer["recovered"]:
            return
