"""AI SDK over a WebSocket, frame by frame: what its published client never does, and might meet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import websockets
from tests.live.aisdk import AIPage, ChatState, ai_page
from tests.live.openai_lane import calling, event
from tests.live.server import Looks, Server
from tests.live.stage import SCRIPT, Lane, mint, own_server, shared_server, steps
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)
Frame = dict[str, Any]


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def page() -> AsyncIterator[AIPage]:
    async with ai_page() as opened:
        yield opened


def url_of(server: Server) -> str:
    return server.url.replace("http", "ws", 1) + "/ai/chat"


@asynccontextmanager
async def knock(
    lane: Lane, token: str | None = None, *, query: str = ""
) -> AsyncIterator[ClientConnection]:
    """Open a socket with a token by subprotocol; without one where the query has a ticket."""
    offered = ["ai-chat.v1"] if query else ["ai-chat.v1", f"bearer.{token or lane.token}"]
    protocols = [websockets.Subprotocol(one) for one in offered]
    async with websockets.connect(url_of(lane.server) + query, subprotocols=protocols) as socket:
        yield socket


def user(text: str, message_id: str = "u") -> Frame:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def send_frame(text: str, chat: str = "t", request_id: str = "q", **more: object) -> Frame:
    head = {"type": "send", "requestId": request_id, "id": chat, "trigger": "submit-message"}
    own = user(text, f"u-{chat}-{request_id}")
    return {**head, "messages": [own], "headers": {}, "body": {}, **more}


def resume_frame(chat: str = "t", request_id: str = "q", **more: object) -> Frame:
    head = {"type": "resume", "requestId": request_id, "id": chat}
    return {**head, "headers": {}, "body": {}, **more}


async def put(socket: ClientConnection, frame: object) -> None:
    await socket.send(frame if isinstance(frame, str) else json.dumps(frame))


async def hear(socket: ClientConnection) -> Frame:
    frame: Frame = json.loads(await asyncio.wait_for(socket.recv(), 20))
    return frame


async def until(socket: ClientConnection, kind: str, request_id: str = "q") -> list[Frame]:
    """Return the frames of a request up to the first of a kind; it must be of `kind` in the end."""
    heard: list[Frame] = []
    while True:
        frame = await hear(socket)
        if frame["requestId"] != request_id:
            continue
        heard.append(frame)
        if frame["type"] == kind:
            return heard
        assert frame["type"] in {"start", "chunk"}, frame


async def until_words(socket: ClientConnection, request_id: str = "q") -> None:
    """Wait for the first words of an answer."""
    while True:
        frame = await hear(socket)
        if frame["requestId"] == request_id and text_of([frame]):
            return


def text_of(frames: list[Frame]) -> str:
    chunks = [frame["chunk"] for frame in frames if frame["type"] == "chunk"]
    return "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")


async def error_of(socket: ClientConnection, request_id: str = "q") -> str:
    frame = await hear(socket)
    assert (frame["type"], frame["requestId"]) == ("error", request_id), frame
    return str(frame["errorText"])


async def test_chunks_are_numbered_from_0_by_request(lane: Lane) -> None:
    async with knock(lane) as socket:
        assert socket.subprotocol == "ai-chat.v1"
        await put(socket, send_frame("one two"))
        sent = await until(socket, "end")
        await put(socket, resume_frame(request_id="r"))
        again = await until(socket, "end", "r")
        await put(socket, resume_frame(request_id="s", lastSequence=3))
        rest = await until(socket, "end", "s")
    assert [frame["sequence"] for frame in sent[:-1]] == list(range(len(sent) - 1))
    assert again[0]["type"] == "start"
    assert [one["chunk"] for one in again[1:-1]] == [one["chunk"] for one in sent[:-1]]
    assert [frame["sequence"] for frame in rest[1:-1]] == list(range(4, len(sent) - 1))


async def test_a_replay_marks_calls_that_were_answered_however_much_lies_between(
    lane: Lane,
) -> None:
    words = [["say", "word "]] * 300
    result = event("TOOL_CALL_RESULT", messageId="r", toolCallId="c", content="4")
    text = steps(*words, *calling("c", "look", "{}"), *words, result, *calling("d", "own", "{}"))
    async with knock(lane) as socket:
        await put(socket, send_frame(text))
        await until(socket, "end")
        await put(socket, resume_frame(request_id="r"))
        again = await until(socket, "end", "r")
    chunks = [frame["chunk"] for frame in again if frame["type"] == "chunk"]
    calls = [chunk for chunk in chunks if chunk["type"] == "tool-input-available"]
    marks = [(call["toolCallId"], call.get("providerExecuted")) for call in calls]
    assert marks == [("c", True), ("d", None)]


async def test_a_follow_up_is_numbered_for_itself(lane: Lane) -> None:
    async with knock(lane) as socket:
        await put(socket, send_frame("one"))
        await until(socket, "end")
        await put(socket, send_frame("two", request_id="r"))
        frames = await until(socket, "end", "r")
    assert frames[0]["sequence"] == 0
    assert text_of(frames) == "two "


async def test_many_chats_on_one_socket(lane: Lane) -> None:
    async with knock(lane) as socket:
        names = [f"c-{number}" for number in range(5)]
        for name in names:
            await put(socket, send_frame(f"answer of {name}", name, request_id=name))
        said = dict.fromkeys(names, "")
        ended: set[str] = set()
        while len(ended) < len(names):
            frame = await hear(socket)
            said[frame["requestId"]] += text_of([frame])
            if frame["type"] == "end":
                ended.add(frame["requestId"])
    assert said == {name: f"answer of {name} " for name in names}


async def test_one_request_too_many_is_refused_and_the_others_live_on(lane: Lane) -> None:
    async with knock(lane) as socket:
        held = steps(["say", "x"], ["hold", f"{lane.user} go"])
        await put(socket, send_frame(held, "first", request_id="first"))
        for number in range(19):
            await put(socket, resume_frame("first", request_id=f"q-{number}"))
        await put(socket, resume_frame("first", request_id="too many"))
        while (frame := await hear(socket))["requestId"] != "too many":
            pass
        assert "limit_exceeded" in frame["errorText"]
        async with lane.connect() as client:  # what a page follows counts with them
            await client.send({"type": "subscribe", "threadId": "other"})
            assert (await client.until_type("error"))["code"] == "limit_exceeded"
            await put(socket, {"type": "abort", "requestId": "q-0"})
            await client.send({"type": "subscribe", "threadId": "other"})
            await client.until_type("subscribed")
        await put(socket, {"type": "abort", "requestId": "first"})  # so that its run ends


@pytest.mark.parametrize(
    "frame, said",
    [
        ({"type": "subscribe"}, "type"),
        ({"type": 1}, "type"),
        ({"id": None}, "id"),
        ({"id": "no/id"}, "id: must"),
        ({"trigger": "other"}, "trigger"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "system", "id": "s", "parts": []}]}, "messages.0.role"),
        ({"body": []}, "body"),
        ({"type": []}, "type"),
        ({"body": {"policy": "never"}}, "forwardedProps.policy"),
        ({"type": "resume", "lastSequence": "1"}, "lastSequence"),
        ({"type": "resume", "lastSequence": True}, "lastSequence"),
        ({"headers": {"authorization": "Bearer nonsense"}}, "unauthenticated"),
    ],
)
async def test_a_wrong_frame_ends_its_request_only(lane: Lane, frame: Frame, said: str) -> None:
    async with knock(lane) as socket:
        await put(socket, {**send_frame("x"), **frame})
        assert said in await error_of(socket)
        await put(socket, send_frame("fine", request_id="r"))
        assert text_of(await until(socket, "end", "r")) == "fine "


async def test_too_much_nonsense_ends_the_socket(lane: Lane) -> None:
    async with knock(lane) as socket:
        for nonsense in ["", "[]", "{}", '{"requestId": 1}', '{"type":"ping"}'] * 4:
            await put(socket, nonsense)
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        assert socket.close_code == 1008


async def test_too_many_frames_are_answered_and_an_abort_is_not_refused(tmp_path: Path) -> None:
    settings = {"ISOLANE_LIMIT_FRAMES_PER_MINUTE": "3"}
    async with own_server(tmp_path, SCRIPT, env=settings) as server:
        lane = Lane(server)
        async with knock(lane) as socket:
            await put(socket, send_frame(steps(["say", "x"], ["hold", "never"])))
            await until_words(socket)
            for number in range(3):
                await put(socket, resume_frame("other", request_id=f"r-{number}"))
            heard = [await hear(socket) for _ in range(3)]
            assert [one["type"] for one in heard] == ["no-active", "no-active", "error"]
            assert "limit_exceeded" in heard[-1]["errorText"]
            await put(socket, {"type": "abort", "requestId": "q"})
            async with lane.server.http(lane.token) as http:
                async for _ in Looks(15):
                    (one,) = (await http.get("/api/threads")).json()["threads"]
                    if one["activeRunId"] is None:
                        break


async def test_binary_ends_the_socket(lane: Lane) -> None:
    async with knock(lane) as socket:
        await socket.send(b"{}")
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        assert socket.close_code == 1003


async def test_a_request_id_in_use_ends_its_first_request_and_not_its_run(lane: Lane) -> None:
    async with knock(lane) as socket:
        await put(
            socket, send_frame(steps(["say", "x"], ["hold", f"{lane.user} go"], ["say", "y"]))
        )
        await until_words(socket)
        await put(socket, send_frame("other", "c"))
        assert "requestId" in await error_of(socket)
        await lane.open_gate(f"{lane.user} go")
        await put(socket, resume_frame())
        assert text_of(await until(socket, "end")) == "xy"


async def test_an_abort_overtakes_and_says_nothing(lane: Lane) -> None:
    async with knock(lane) as socket:
        await put(socket, send_frame(steps(["say", "x"], ["hold", "never"])))
        await until_words(socket)
        await put(socket, {"type": "abort", "requestId": "q"})
        await put(socket, {"type": "abort", "requestId": "nobody's"})
        await put(socket, resume_frame(request_id="r"))
        frames = await until(socket, "end", "r")
    assert frames[-2]["chunk"]["finishReason"] == "interrupted"


async def test_an_abort_that_comes_with_its_request(lane: Lane) -> None:
    async with knock(lane) as socket:
        await put(socket, send_frame(steps(["say", "x"], ["hold", "never"])))
        await put(socket, {"type": "abort", "requestId": "q"})
        async with lane.server.http(lane.token) as http:
            async for _ in Looks(15):
                threads = (await http.get("/api/threads")).json()["threads"]
                if not any(one["activeRunId"] for one in threads):
                    break
        await put(socket, resume_frame(request_id="r"))
        frame = await hear(socket)
        if frame["type"] == "start":  # the run had begun when it was stopped
            frames = await until(socket, "end", "r")
            assert frames[-2]["chunk"]["finishReason"] == "interrupted"
        else:
            assert frame["type"] == "no-active"


async def test_an_abort_may_detach(lane: Lane) -> None:
    async with knock(lane) as socket:
        script = steps(["say", "x"], ["hold", f"{lane.user} go"], ["say", "y"])
        await put(socket, send_frame(script, body={"onAbort": "detach"}))
        await until_words(socket)
        await put(socket, {"type": "abort", "requestId": "q"})
        await put(socket, resume_frame(request_id="r"))
        await until_words(socket, "r")
        await lane.open_gate(f"{lane.user} go")
        assert text_of(await until(socket, "end", "r")) == "y"


async def test_a_resume_that_is_superseded_stops_nothing(lane: Lane) -> None:
    async with knock(lane) as socket:
        script = steps(["say", "x"], ["hold", f"{lane.user} go"], ["say", "y"])
        await put(socket, send_frame(script))
        await until_words(socket)
        await put(socket, resume_frame(request_id="r"))
        await until_words(socket, "r")
        await put(socket, {"type": "abort", "requestId": "r"})
        await put(socket, resume_frame(request_id="s"))
        await until_words(socket, "s")
        # An abort that stops does so a quarter of a second later. The one of another chat shows it.
        await put(socket, send_frame(steps(["say", "x"], ["hold", "never"]), "c", request_id="c"))
        await until_words(socket, "c")
        await put(socket, resume_frame("c", request_id="d"))
        await until_words(socket, "d")
        await put(socket, {"type": "abort", "requestId": "d"})
        await until(socket, "end", "c")
        await lane.open_gate(f"{lane.user} go")
        frames = await until(socket, "end", "s")
    assert (text_of(frames), frames[-2]["chunk"]["finishReason"]) == ("y", "stop")


async def test_a_socket_that_breaks_stops_nothing(lane: Lane) -> None:
    script = steps(["say", "x"], ["hold", f"{lane.user} go"], ["say", "y"])
    async with knock(lane) as socket:
        await put(socket, send_frame(script))
        await until_words(socket)
        socket.transport.abort()
    async with knock(lane) as socket:
        await put(socket, resume_frame())
        await until_words(socket)
        await lane.open_gate(f"{lane.user} go")
        assert text_of(await until(socket, "end")) == "y"


async def test_another_user_meets_nothing(lane: Lane) -> None:
    async with knock(lane) as socket:
        await put(socket, send_frame("mine"))
        await until(socket, "end")
        stranger = Lane(lane.server)
        async with knock(stranger) as other:
            await put(other, resume_frame())
            assert (await hear(other))["type"] == "no-active"
            await put(other, {"type": "abort", "requestId": "q"})
            await put(other, send_frame(steps(["recall"])))
            assert "mine" not in text_of(await until(other, "end"))


async def test_a_newer_token_renews_and_anothers_does_not(lane: Lane) -> None:
    async with knock(lane, mint(lane.user, expires_s=3)) as socket:
        bearer = {"authorization": f"Bearer {mint('somebody else')}"}
        await put(socket, send_frame("x", headers=bearer))
        assert "identity_mismatch" in await error_of(socket)
        own = {"authorization": f"Bearer {lane.token}"}
        await put(socket, send_frame("fine", request_id="r", headers=own))
        assert text_of(await until(socket, "end", "r")) == "fine "
        await asyncio.sleep(3.5)  # the first token has died by now
        await put(socket, send_frame("still", request_id="s"))
        assert text_of(await until(socket, "end", "s")) == "still "


async def test_an_expired_token_ends_the_socket(lane: Lane) -> None:
    async with knock(lane, mint(lane.user, expires_s=2)) as socket:
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        assert (socket.close_code, socket.close_reason) == (4401, "expired")


async def test_a_refused_upgrade_has_a_code_and_no_frame(lane: Lane) -> None:
    async with knock(lane, "nonsense") as socket:
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        assert socket.close_code == 4401
    with pytest.raises(InvalidStatus) as refused:
        async with websockets.connect(
            url_of(lane.server), subprotocols=[websockets.Subprotocol("agui.v1")]
        ):
            pass
    assert refused.value.response.status_code == 400


async def test_a_ticket_opens(lane: Lane, page: AIPage) -> None:
    async with lane.server.http(lane.token) as http:
        ticket = (await http.post("/api/tickets")).raise_for_status().json()["ticket"]
    await page.order("open", kind="socket", url=url_of(lane.server), ticket=ticket)
    await page.send("one")
    assert (await page.idle()).answer == "one "


async def test_no_upgrade(lane: Lane) -> None:
    async with lane.server.http(lane.token) as http:
        answer = await http.get("/ai/chat")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


def says(words: str) -> Callable[[ChatState], bool]:
    return lambda state: state.answer == words


async def test_twenty_chats_of_the_published_client(tmp_path: Path) -> None:
    settings = {"ISOLANE_LIMIT_RUNS_PER_USER": "20"}
    async with own_server(tmp_path, SCRIPT, env=settings) as server, ai_page() as page:
        lane = Lane(server)
        names = [f"c-{number}" for number in range(20)]
        for name in names:
            where = {"kind": "socket", "url": url_of(server), "token": lane.token}
            await page.order("open", name, **where)
            await page.send(steps(["say", f"{name} "], ["hold", "go"], ["say", "done"]), name)
        for name in names:
            await page.until(says(f"{name} "), name)
        await page.order("cut")
        for name in names:
            await page.until(lambda state: state.status == "error", name)
            await page.order("resume", name)
        await lane.open_gate("go")
        for name in names:
            await page.until(says(f"{name} done"), name)
            done = await page.until(lambda state: state.status == "ready", name)
            assert len(done.messages) == 2


async def test_a_killed_server_and_the_published_client(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server, ai_page() as page:
        lane = Lane(server)
        where = {"kind": "socket", "url": url_of(server), "token": lane.token}
        await page.order("open", **where)
        await page.send(steps(["say", "one "], ["hold", "never"]))
        await page.until(lambda state: state.answer == "one ")
        await server.kill()
        await page.idle()
        await server.start()
        before = len(page.events)
        await page.order("resume")
        state = await page.idle(after=before)
        assert (state.answer, len(state.messages)) == ("one ", 2)
        assert "agent_lost" in str(state.error)
        before = len(page.events)
        await page.send("two")
        assert (await page.idle(after=before)).answer == "two "


async def test_a_drain_closes_with_going_away(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        async with knock(Lane(server)) as socket:
            await put(socket, send_frame("one"))
            await until(socket, "end")
            stopping = asyncio.create_task(server.stop())
            with pytest.raises(ConnectionClosed):
                await hear(socket)
            assert socket.close_code == 1001
            await stopping
        await server.start()
