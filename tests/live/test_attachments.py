"""A picture is kept once for its thread, comes out whole at each door, and goes with its thread."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from tests.house import COUNT_KEPT
from tests.live.agui import AguiClient, agui_client
from tests.live.client import RECV_TIMEOUT_S, Frame, run_frame
from tests.live.event_stream import open_stream
from tests.live.server import POLL_S, Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    kept_events,
    own_server,
    shared_server,
    steps,
    text_of,
)
from tests.live.tanstack import tanstack_page

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)

LOOK: Final = steps(["attachments"])
SHOW: Final = steps(["snapshot"], ["attachments"])
"""Lets the agent say its whole history, as some frameworks do, and what it was given."""


def draw(number: int, size: int = 500_000) -> str:
    """Return the data of a picture, which is another one for each number."""
    return base64.b64encode(random.Random(number).randbytes(size * 3 // 4)).decode()  # noqa: S311 - no secret


PICTURE: Final = draw(0)
OTHER: Final = draw(1, 200_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver() -> AsyncIterator[AguiClient]:
    async with agui_client() as client:
        yield client


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


def shows(message_id: str, *pictures: str, text: str = LOOK) -> Frame:
    """Return a question with pictures."""
    sources = [{"type": "data", "value": one, "mimeType": "image/png"} for one in pictures]
    parts = [{"type": "image", "source": source} for source in sources]
    return {"id": message_id, "role": "user", "content": [{"type": "text", "text": text}, *parts]}


def digests(*pictures: str) -> list[str]:
    return [sha256(one.encode()).hexdigest() for one in pictures]


def given(events: list[Frame]) -> Any:  # noqa: ANN401 - what JSON holds
    """Return the digests that the agent said it was given."""
    return json.loads(text_of(events))


def rows_of(lane: Lane) -> list[tuple[int, int]]:
    """Return size and count of references of each attachment of the user, or of no thread."""
    query = """
    SELECT length(bytes), uses FROM attachments JOIN attachment_bytes USING (number)
    LEFT JOIN threads USING (thread_no) WHERE coalesce(user_id, :user) = :user ORDER BY number
    """
    with closing(sqlite3.connect(lane.server.data / "isolane.db")) as connection:
        return connection.execute(query, {"user": lane.user}).fetchall()


def kept_bytes(lane: Lane) -> int:
    """Return what the user keeps; fails unless a count of everything finds the same."""
    with closing(sqlite3.connect(lane.server.data / "isolane.db")) as connection:
        connection.execute("BEGIN")  # both of one moment
        row = connection.execute("SELECT bytes FROM usage WHERE user_id = ?", (lane.user,))
        noted = (row.fetchone() or (0,))[0]
        found = {user: size for user, _, size in connection.execute(COUNT_KEPT)}
    assert noted == found.get(lane.user, 0)
    return int(noted)


async def load(lane: Lane) -> list[Frame]:
    async with lane.server.http(lane.token) as http:
        answer = await http.get("/api/threads/t")
    messages: list[Frame] = answer.json()["messages"]
    return messages


async def ask_at(
    door: str, lane: Lane, run_id: str, message: Frame, *, rewind_to: str | None = None
) -> list[Frame]:
    """Ask at a door and return the run's events."""
    props = {} if rewind_to is None else {"rewindTo": rewind_to}
    frame = run_frame("t", run_id, "", messages=[message], forwardedProps=props)
    if door == "socket":
        return await lane.play("t", run_id, "", messages=[message], forwardedProps=props)
    async with (
        lane.server.http(lane.token) as http,
        open_stream(http, "/agui", frame) as stream,
    ):
        await stream.rest()
        return stream.events


@pytest.mark.parametrize("door", ["socket", "http"])
async def test_picture_is_whole_at_each_door_and_stands_in_the_file_once(
    lane: Lane, door: str
) -> None:
    question = shows("q", PICTURE, text=SHOW)
    events = await ask_at(door, lane, "r-1", question)
    assert events[0]["input"]["messages"] == [question]
    assert next(e for e in events if e["type"] == "MESSAGES_SNAPSHOT")["messages"] == [question]
    assert given(events) == digests(PICTURE)
    assert rows_of(lane) == [(len(PICTURE), 3)]  # the message, its log entry, and the snapshot
    # A second device, by each way of reading.
    assert (await load(lane))[0] == question
    assert (await lane.load_log("t")).events == events
    async with (
        lane.server.http(lane.token) as http,
        open_stream(http, "/api/threads/t/events") as stream,
    ):
        await stream.until_end("r-1")
        assert stream.events == events
    async with lane.replay("r-1") as socket:
        replayed = [await socket.recv() for _ in events]
    assert [frame["chunk"] for frame in replayed] == events
    assert len(PICTURE) < kept_bytes(lane) < len(PICTURE) + 10_000


@pytest.mark.parametrize("door", ["socket", "http"])
async def test_sent_again_it_is_kept_once(lane: Lane, door: str) -> None:
    question = shows("q", PICTURE)
    first = await ask_at(door, lane, "r-1", question)
    before = kept_bytes(lane)
    assert await ask_at(door, lane, "r-1", question) == first  # a retry
    assert kept_bytes(lane) == before
    for number in range(2, 7):
        again = await ask_at(door, lane, f"r-{number}", question)
        assert given(again) == digests(PICTURE)
        assert again[0]["input"]["messages"] == [question]
    edited = shows("q-2", PICTURE, OTHER)
    events = await ask_at(door, lane, "r-7", edited, rewind_to="q")
    assert given(events) == digests(PICTURE, OTHER)
    assert (await load(lane))[0] == edited
    assert [size for size, _ in rows_of(lane)] == [len(PICTURE), len(OTHER)]
    assert kept_bytes(lane) - before < len(OTHER) + 20_000
    async with lane.server.http(lane.token) as http:
        assert (await http.delete("/api/threads/t")).is_success
    await until_none(lane, "SELECT 1 FROM removals")
    assert rows_of(lane) == []


async def until_none(lane: Lane, query: str) -> None:
    """Return once the database has no such row: what is let go leaves it step by step, beside."""
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while True:
            with closing(sqlite3.connect(lane.server.data / "isolane.db")) as connection:
                if connection.execute(query).fetchone() is None:
                    return
            await asyncio.sleep(POLL_S)  # nothing tells when the last step is done


async def test_published_client_asks_shows_and_asks_again(driver: AguiClient, lane: Lane) -> None:
    question = shows("q", PICTURE)
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    await driver.set(lane.user, messages=[question])
    for number in range(3):
        await driver.set(lane.user, messages=[question])
        heard = await driver.run(lane.user, None, run_id=f"r-{number}")
        assert heard.failures == []
        assert given(heard.events) == digests(PICTURE)
        assert heard.messages[0]["content"][1]["source"]["value"] == PICTURE
    heard = await driver.replay(f"{lane.server.url}/api/threads/t/events", lane.token, ends=3)
    assert heard.failures == []
    starts = [event for event in heard.events if event["type"] == "RUN_STARTED"]
    assert [start["input"]["messages"] for start in starts] == [[question]] * 3
    assert rows_of(lane) == [(len(PICTURE), 4)]


async def test_older_client_sends_it_in_older_words(driver: AguiClient, lane: Lane) -> None:
    part = {"type": "binary", "mimeType": "image/png", "data": PICTURE}
    question = {**shows("q"), "content": [{"type": "text", "text": LOOK}, part]}
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t", is_old=True)
    for number in range(2):
        await driver.set(lane.user, messages=[question])
        heard = await driver.run(lane.user, None, run_id=f"r-{number}")
        assert given(heard.events) == digests(PICTURE)
    assert (await load(lane))[0] == shows("q", PICTURE)
    assert rows_of(lane) == [(len(PICTURE), 3)]


async def test_published_page_shows_a_picture_and_reloads(lane: Lane) -> None:
    content = shows("q", PICTURE)["content"]
    parts = [{"type": "text", "content": LOOK}, *content[1:]]
    async with tanstack_page() as page:
        await page.open(lane.server.websocket_url(), "t", token=lane.token)
        await page.send({"content": parts})
        first = await page.idle()
        assert json.loads(first.answer) == digests(PICTURE)
        for _ in range(2):
            await page.reload()
            assert json.loads((await page.idle()).answer) == digests(PICTURE)
        await page.send("and now?")
        await page.idle()
    assert rows_of(lane) == [(len(PICTURE), 4)]
    (kept,) = [m for m in await load(lane) if isinstance(m["content"], list)]
    assert kept["content"][1]["source"]["value"] == PICTURE


async def test_waiting_run_keeps_it_over_a_kill(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            seen = await client.subscribe("t")
            held = steps(["say", "1"], ["hold", "never"])
            await client.run("t", "r-1", "", messages=[shows("q-1", PICTURE, text=held)])
            await client.until_true(lambda: seen.text == "1")
            await client.run("t", "r-2", "", messages=[shows("q-2", PICTURE)])
            await client.until(lambda frame: frame.get("disposition") == "queued")
            assert [size for size, _ in rows_of(lane)] == [len(PICTURE)]
            await server.kill()
        await server.start()
        async with lane.connect() as client:
            again = await client.subscribe("t")
            await client.until_true(lambda: again.has_ended("r-2"))
        assert again.of_run("r-1")[0] == seen.of_run("r-1")[0]
        assert given(again.of_run("r-2")) == digests(PICTURE, PICTURE)
        assert [message["id"] for message in await load(lane)][:1] == ["q-1"]
        await server.stop()
        assert rows_of(lane) == [(len(PICTURE), 4)]
        assert kept_bytes(lane) < len(PICTURE) + 10_000


async def test_gap_is_filled_with_the_whole_picture(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, env=kept_events(8)) as server:
        lane = Lane(server)
        question, edited = shows("q-1", PICTURE), shows("q-2", OTHER)
        await lane.play("t", "r-1", "", messages=[question])
        place = (await lane.load_log("t")).envelopes[0]["id"]
        await lane.play("t", "r-2", "", messages=[shows("q-3", PICTURE)])
        for number in range(3, 6):
            await lane.play("t", f"r-{number}", steps(["count", 4]))
        async with lane.connect() as client:
            await client.send({"type": "subscribe", "threadId": "t", "after": place})
            answer = await client.until_type("subscribed")
            assert answer["recovered"] is False
            assert answer["messages"][0] == question
        await until_none(lane, "SELECT 1 FROM heads WHERE swept_seq < trimmed_seq")
        assert rows_of(lane) == [(len(PICTURE), 2)]  # the messages; their log entries are gone
        props = {"rewindTo": "q-1"}
        await lane.play("t", "r-6", "", messages=[edited], forwardedProps=props)
        for number in range(7, 10):
            await lane.play("t", f"r-{number}", steps(["count", 4]))
        assert (await load(lane))[0] == edited
        await until_none(lane, "SELECT 1 FROM heads WHERE swept_seq < trimmed_seq")
        assert [size for size, _ in rows_of(lane)] == [len(OTHER)]
        assert kept_bytes(lane) < len(OTHER) + 20_000


async def test_two_users_keep_one_each_and_nothing_tells(server: Server) -> None:
    ann, bob = Lane(server, "picture-ann"), Lane(server, "picture-bob")
    question = shows("q", PICTURE)
    for lane in (ann, bob):
        events = await lane.play("t", "r", "", messages=[question])
        assert given(events) == digests(PICTURE)
    assert rows_of(ann) == rows_of(bob) == [(len(PICTURE), 2)]
    assert kept_bytes(ann) == kept_bytes(bob)
    async with server.http(ann.token) as http:
        assert (await http.delete("/api/threads/t")).is_success
    assert (await load(bob))[0] == question


async def test_reference_in_a_text_is_text(lane: Lane) -> None:
    await lane.play("t", "r-0", "", messages=[shows("q-0", PICTURE)])
    with closing(sqlite3.connect(lane.server.data / "isolane.db")) as connection:
        query = """
        SELECT payload FROM messages JOIN threads USING (thread_no) WHERE user_id = ?
        ORDER BY number LIMIT 1
        """
        (packed,) = connection.execute(query, (lane.user,)).fetchone()
    assert len(packed) < 1000
    thief = Lane(lane.server)
    for who in (lane, thief):
        forged = shows("f", packed.decode("latin-1"), digests(PICTURE)[0], text="\0\0\0\0\1")
        plain = {"id": "p", "role": "user", "content": packed.decode("latin-1")}
        look = {"id": "l", "role": "user", "content": LOOK}
        events = await who.play("t", "r-1", "", messages=[forged, plain, look])
        assert events[0]["input"]["messages"] == [forged, plain, look]
        kept = await load(who)
        assert [m for m in kept if m["id"] in {"f", "p"}] == [forged, plain]
    assert rows_of(thief) == []
