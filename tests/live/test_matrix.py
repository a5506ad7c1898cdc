"""Every operation by its owner, by another user, with an expired credential, and by nobody."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from itertools import count, product
from typing import Any, Final, NamedTuple, get_args, get_type_hints

import httpx
import pytest
import pytest_asyncio
from ag_ui.core import RunAgentInput
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from tests.live.client import (
    RECV_TIMEOUT_S,
    Client,
    Frame,
    connect,
    is_terminal,
    parse_id,
    run_frame,
)
from tests.live.matrix import (
    ENDING,
    PRIVATE,
    PUBLIC,
    ChatSocket,
    Http,
    Names,
    Question,
    Row,
    Socket,
)
from tests.live.people import COOKIE, add_user, signed_in
from tests.live.server import POLL_S, Server
from tests.live.stage import SCRIPT, Lane, caught_up, mint, shared_server, steps
from tests.live.test_connecting import AGUI, knock
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from isolane.app import create_app
from isolane.doors.aisdk.socket import SUBPROTOCOL as AI_CHAT
from isolane.doors.handshake import Replay
from isolane.settings import Settings
from isolane.wire.frames import PING, ClientFrame

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, env={"ISOLANE_LIMIT_FRAMES_PER_MINUTE": "1000000"})


# --- what there is -------------------------------------------------------------------------------

RUNS_BY_HTTP: Final = ("POST /agui", "POST /agui/{agent}")
"""What takes a run frame as its body, which the app doesn't describe."""


CHAT_FRAMES: Final = ("send", "send runId", "resume")
"""What AI SDK's socket takes that names something. An abort names a request of its own socket."""
CHAT_PLACES: Final = (
    *("runId", "messages[].id"),
    *("messages[].parts[].toolCallId", "messages[].parts[].approval.id"),
)
CHAT_TURNS: Final = ("POST /ai/chat", "POST /ai/{agent}/chat")
"""What takes a turn of AI SDK's as its body, which the app doesn't describe in full."""
OPENAI_PLACES: Final = (
    "POST /v1/chat/completions metadata.isolane_thread",
    "POST /v1/responses conversation",
    "POST /v1/responses previous_response_id",
    "POST /v1/responses input[].approval_request_id",
)
"""Where a body of OpenAI's API may name something; the app doesn't describe these bodies."""


def find_operations(app: FastAPI) -> set[str]:
    """Return the name of every operation, and of every place where one may name something more."""
    return {
        *_find_routes(app.routes),
        *_find_parameters(app.openapi()),
        *(f"replay {field.name}" for field in fields(Replay)),
        *(f"{way} {name}" for way in ("frame", "first frame") for name in _find_frames()),
        *(f"{way} {place}" for way in RUNS_BY_HTTP for place in _find_run_places()),
        *(f"chat frame {name}" for name in CHAT_FRAMES),
        *(f"{way} {place}" for way in CHAT_TURNS for place in CHAT_PLACES),
        *OPENAI_PLACES,
    }


def _find_routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[str]:
    """Yield every route; what is no route that we know goes by the name of its kind."""
    for route in iter_route_contexts(routes):
        path, original = f"{prefix}{route.path}", route.original_route
        if isinstance(original, Mount) and original.routes:
            yield from _find_routes(original.routes, path)
        elif isinstance(original, WebSocketRoute):
            yield f"WS {path}"
        elif route.methods:
            yield from (f"{method} {path}" for method in route.methods)
        else:
            yield f"{type(original).__name__} {path}"


def _find_parameters(described: dict[str, Any]) -> Iterator[str]:
    """Yield what a request may carry; what it must carry is in the operation's own row."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"
            for parameter in operation.get("parameters", ()):
                if not parameter["required"]:
                    yield f"{name} {parameter['name']}"
            for field in _find_optional(described, operation.get("requestBody")):
                yield f"{name} {field}"


def _find_optional(described: dict[str, Any], body: dict[str, Any] | None) -> set[str]:
    if body is None:
        return set()
    schema = body["content"]["application/json"]["schema"]
    if "$ref" not in schema:  # a run's, which is among the frames
        return set()
    schema = described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return set(schema["properties"]) - set(schema.get("required", ()))


def _find_frames() -> Iterator[str]:
    """Yield every frame that a client may send, and each field that it may leave out."""
    for kind in get_args(ClientFrame):
        yield kind.__name__
        for name, hint in get_type_hints(kind).items():
            if hint is object or type(None) in get_args(hint):
                yield f"{kind.__name__} {name}"
    yield from (f"Run {place}" for place in _find_run_places())


def _find_run_places() -> set[str]:
    """Return where in a run frame an id may stand: AG-UI's places, and the one of our own."""
    schema = RunAgentInput.model_json_schema(by_alias=True)
    found = {path for path in _walk(schema, schema, "") if re.search(r"\b(id|\w+Id)$", path)}
    return {*found, "forwardedProps.rewindTo"}


def _walk(schema: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the path of every field below a node of a schema."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    for choice in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _walk(schema, choice, path)
    if "items" in node:
        yield from _walk(schema, node["items"], f"{path}[]")
    for name, below in node.get("properties", {}).items():
        here = f"{path}.{name}".removeprefix(".")
        yield here
        yield from _walk(schema, below, here)


async def test_every_operation_has_a_row_and_every_row_an_operation() -> None:
    found = find_operations(create_app(Settings(), {}))
    rows = PUBLIC.keys() | PRIVATE.keys() | ENDING.keys()
    assert sorted(found - rows) == [], "no row of tests/live/matrix.py says who gets what of these"
    assert sorted(rows - found) == [], "these rows are of nothing that there is"


# --- how a question is put -----------------------------------------------------------------------

_fences: Final[Iterator[int]] = count(1)


class Answer(NamedTuple):
    """What came: in a word or two, whole, and the news of threads that came beside it."""

    gist: str
    text: str
    news: str = ""


@dataclass(frozen=True)
class Door:
    """Where a server's questions are put; requests go over one client, whose making takes long."""

    server: Server
    http: httpx.AsyncClient

    async def ask(self, question: Question, token: str | None) -> Answer:
        """Return all that is answered."""
        if isinstance(question, Http):
            return await _request(self.http, question, token)
        if isinstance(question, ChatSocket):
            return await _chat(f"ws://{self.server.address}{question.path}", question, token)
        url = f"ws://{self.server.address}{question.path}"
        async with connect(url, token, hello=False) as client:
            return await _converse(client, question)


async def _request(http: httpx.AsyncClient, question: Http, token: str | None) -> Answer:
    request = http.build_request(question.method, question.path, **question.more)
    if token is not None:
        request.headers["Authorization"] = f"Bearer {token}"
    async with aclosing(await http.send(request, stream=True)) as response:
        kind = response.headers.get("content-type", "")
        is_stream = kind.startswith("text/event-stream")
        body = await _read_run(response) if is_stream else (await response.aread()).decode()
    problem = json.loads(body) if kind == "application/problem+json" else {}
    if response.is_error and question.path.startswith("/v1/"):
        problem = json.loads(body)["error"]
    gist = f"{response.status_code} {problem.get('reason') or problem.get('code') or ''}".strip()
    # The length follows from the body, which is compared; that of counted metrics changes.
    lines = [f"{name}: {value}" for name, value in response.headers.multi_items()]
    head = [line for line in lines if not line.startswith(("date:", "content-length:"))]
    return Answer(gist, "\n".join([str(response.status_code), *head, body]))


async def _read_run(response: httpx.Response) -> str:
    """Return a stream up to a run's end: that of a thread has none of its own."""
    read: list[str] = []
    async with aclosing(response.aiter_lines()) as lines:  # type: ignore[type-var]
        async for line in lines:
            read.append(line)
            if '"type":"RUN_FINISHED"' in line or '"type":"RUN_ERROR"' in line:
                break
    return "\n".join(read)


async def _converse(client: Client, question: Socket) -> Answer:
    """Return what came up to the close, or until all that was asked for has come.

    A run of the asker's own, asked for at last, takes the way of every event: what was to come has
    come when it has ended.
    """
    fence = f"fence-{next(_fences)}"
    said = [*question.frames]
    if not question.is_replay:
        said.append(run_frame(fence, fence, "over"))
    awaited = {frame["runId"] for frame in said if "type" not in frame}
    heard: list[str] = []
    news: list[str] = []
    with suppress(ConnectionClosed):  # what came before the close is still to be read
        for frame in said:
            await client.send(frame)
    try:
        while awaited or question.is_replay:
            text = await _next(client)
            frame = json.loads(text)
            _strike_off(awaited, frame)
            if frame.get("threadId") != fence:
                (news if frame.get("type") == "thread" else heard).append(text)
    except ConnectionClosed:
        close = f"{client.socket.close_code} {client.socket.close_reason or ''}".strip()
        return Answer(close, "\n".join([*heard, close]), "\n".join(news))
    answers = heard[len(question.frames) - 1 :]
    return Answer(_gist_of(answers), "\n".join(answers), "\n".join(news))


async def _chat(url: str, question: ChatSocket, token: str | None) -> Answer:
    """Return what comes on a socket of AI SDK's, up to the end of the last request."""
    offered = [AI_CHAT, *([f"bearer.{token}"] if token else [])]
    heard: list[str] = []
    async with open_websocket(
        url, subprotocols=[Subprotocol(one) for one in offered], proxy=None, max_size=None
    ) as socket:
        try:
            for frame in question.frames:
                await socket.send(json.dumps(frame))
            while not heard or json.loads(heard[-1])["type"] in {"start", "chunk"}:
                async with asyncio.timeout(RECV_TIMEOUT_S):
                    heard.append(str(await socket.recv()))
        except ConnectionClosed:
            close = f"{socket.close_code} {socket.close_reason or ''}".strip()
            return Answer(close, "\n".join([*heard, close]))
    return Answer(json.loads(heard[-1])["type"], "\n".join(heard))


async def _next(client: Client) -> str:
    """Return the next frame as it came, unless it is a ping."""
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while (text := str(await client.socket.recv())) == PING:
            pass
    return text


def _strike_off(awaited: set[str], frame: Frame) -> None:
    """Await no longer what has come; who subscribes awaits everything up to the head."""
    if frame.get("type") == "subscribed" and parse_id(frame["head"])[1] > 0:
        awaited.add(frame["head"])
    awaited.discard(frame.get("id", ""))
    if is_terminal(frame) or "code" in frame:
        awaited.discard(frame.get("runId", ""))


def _gist_of(heard: Sequence[str]) -> str:
    if not heard:
        return "silence"
    frame: Frame = json.loads(heard[0])
    return str(frame.get("code") or frame.get("type") or frame["chunk"]["type"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(server: Server) -> AsyncIterator[Door]:
    """Give a door that waits for an answer as long as a socket does."""
    async with server.http() as http:
        http.timeout = RECV_TIMEOUT_S
        yield Door(server, http)


# --- what the owner has --------------------------------------------------------------------------

ERROR_ID: Final = re.compile(r"err_[0-9a-f-]{36}")
MARKER: Final = "what-only-the-owner-says"


@dataclass(frozen=True)
class Estate:
    """What one user has: a run that has ended and asks a person, one under way, one that waits."""

    lane: Lane
    ended: Names
    active: Names
    queued: Names

    @property
    def names(self) -> tuple[Names, ...]:
        """Everything that can be named."""
        return self.ended, self.active, self.queued

    def find_in(self, told: str, question: Question) -> set[str]:
        """Return what is told of the estate that the question didn't know."""
        marks = {MARKER, self.lane.user}
        for names in self.names:
            marks |= {names.thread, names.run, parse_id(names.cursor)[0]}
        known = str(question)
        return {mark for mark in marks if mark in told and mark not in known}

    async def read(self, door: Door) -> list[object]:
        """Return everything that the owner can read."""
        ids = sorted({names.thread for names in self.names})
        paths = ["/api/threads", *(f"/api/threads/{one}" for one in ids)]
        paths += [f"/api/runs/{names.run}" for names in self.names]
        answers = [await door.ask(Http("GET", path), self.lane.token) for path in paths]
        async with self.lane.connect() as client:
            logs = [(await caught_up(client, one)).envelopes for one in ids]
        return [*(ERROR_ID.sub("(new)", answer.text) for answer in answers), *logs]


def names_for(lane: Lane, thread: str, run: str) -> Names:
    """Return names that only one user has: no other's things can be found in their place."""
    ids = {"thread": f"{lane.user}-{thread}", "run": f"{lane.user}-{run}"}
    return Names(user=lane.user, cursor=f"{'0' * 16}-1", **ids)


@asynccontextmanager
async def settle(lane: Lane) -> AsyncIterator[Estate]:
    """Give a user what there is to be taken; in the end all of it must have gone its own way."""
    gate = f"{lane.user} go"
    ended = names_for(lane, "ended-thread", "ended-run")
    active = names_for(lane, "active-thread", "active-run")
    queued = names_for(lane, "active-thread", "queued-run")
    async with lane.connect() as client:
        await client.run(ended.thread, ended.run, asking(ended))
        script = steps(["remember", MARKER], ["say", MARKER], ["hold", gate])
        await client.run(active.thread, active.run, script)
        await client.run(queued.thread, queued.run, MARKER)
        said = [(names.run, "TEXT_MESSAGE_CONTENT") for names in (ended, active)]
        waits, ends = (queued.run, "accepted"), (ended.run, "RUN_FINISHED")
        came = await first_frames(client, *said, waits, ends)
        assert came[waits]["disposition"] == "queued"
        places = [came[each]["id"] for each in said]
        yield Estate(
            lane,
            replace(ended, cursor=places[0]),
            replace(active, cursor=places[1]),
            replace(queued, cursor=places[1]),
        )
        await lane.open_gate(gate)
        for names in (active, queued):
            end = await client.until_end(names.run)
            assert end["chunk"]["outcome"] == {"type": "success"}, end


async def first_frames(client: Client, *wanted: tuple[str, str]) -> dict[tuple[str, str], Frame]:
    """Return the first frame of each run and type, once all that are wanted have come."""
    came: dict[tuple[str, str], Frame] = {}
    while not came.keys() >= {*wanted}:
        frame = await client.recv()
        kind = frame["chunk"]["type"] if "chunk" in frame else frame["type"]
        came.setdefault((frame.get("runId", ""), kind), frame)
    return came


def asking(names: Names) -> str:
    """Return what makes a run call a tool, say something, and end with a question to a person."""
    call = {"type": "TOOL_CALL_START", "toolCallId": names.call, "toolCallName": "look"}
    question = {"id": names.interrupt, "reason": "approval", "message": MARKER}
    end = {
        "type": "RUN_FINISHED",
        "threadId": names.thread,
        "runId": names.run,
        "outcome": {"type": "interrupt", "interrupts": [question]},
    }
    called = {"type": "TOOL_CALL_END", "toolCallId": names.call}
    said = ["remember", MARKER], ["say", MARKER]
    return steps(*said, ["event", call], ["event", called], ["event", end])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def estate(door: Door) -> AsyncIterator[Estate]:
    """Give what all the others reach for; its owner has an account, too."""
    owner = Lane(door.server, "ann-of-the-matrix")
    assert (await add_user(door.server.data, owner.user)).code == 0
    async with settle(owner) as settled:
        before = await settled.read(door)
        yield settled
        assert await settled.read(door) == before


# --- who asks ------------------------------------------------------------------------------------

MOVING: Final = re.compile(r"(?<=than )\S+")
"""The head in a reason: that of the asker's own run, which may have got further or not."""


@pytest.mark.parametrize("name", PRIVATE)
async def test_owner_gets_what_is_theirs(name: str, door: Door) -> None:
    row = PRIVATE[name]
    async with settle(Lane(door.server)) as own:
        question = row.ask(own.ended)
        answer = await door.ask(question, own.lane.token)
    assert answer.gist == row.owner
    assert bool(own.find_in(answer.text, question)) is row.shows


@pytest.mark.parametrize("name", PRIVATE)
async def test_other_user_is_answered_as_if_it_were_unknown(
    name: str, door: Door, estate: Estate
) -> None:
    before = await estate.read(door)
    async with asyncio.TaskGroup() as tries:
        for names in estate.names:
            tries.create_task(try_names(PRIVATE[name], names, door, estate))
    assert await estate.read(door) == before


async def try_names(row: Row, names: Names, door: Door, estate: Estate) -> None:
    """Ask as somebody who has nothing for what nobody has, and for what the owner has."""
    eve = Lane(door.server)
    told, logged = [], []
    # The unknown first: news of what is made under its name may still come beside the next answer.
    for asked in (names.unknown(), names):
        question = row.ask(asked)
        answer = await door.ask(question, eve.token)
        assert answer.gist == row.other
        assert estate.find_in(answer.text + answer.news, question) == set()
        told.append(asked.hide(answer.text))
        reasons = [await load_reason(door.server, one) for one in ERROR_ID.findall(answer.text)]
        logged.append([asked.hide(reason) for reason in reasons])
    assert told[0] == told[1]
    # One reason, logged in one place: it isn't looked up first and then refused to this user.
    assert logged[0] == logged[1]


async def load_reason(server: Server, error_id: str) -> str:
    """Return what the one record of an error says beside the time."""
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while not (  # noqa: ASYNC110 - what a process writes has no event of its own
            found := [line for line in server.lines if error_id in line]
        ):
            await asyncio.sleep(POLL_S)
    (line,) = found
    record = json.loads(line)
    del record["timestamp"]
    return MOVING.sub("(head)", json.dumps(record))


@pytest.mark.parametrize("name", ENDING)
async def test_what_ends_credentials_ends_the_askers_own(
    name: str, door: Door, estate: Estate
) -> None:
    before = await estate.read(door)
    async with asyncio.TaskGroup() as tries:
        for names in (estate.ended, estate.ended.unknown()):
            tries.create_task(end_own(ENDING[name], names, door))
    assert await estate.read(door) == before  # by a socket and tokens that are older


async def end_own(row: Row, names: Names, door: Door) -> None:
    eve = Lane(door.server)
    token = eve.token
    assert (await door.ask(row.ask(names), token)).gist == row.owner == row.other
    assert (await door.ask(Http("GET", "/api/me"), token)).gist == "401 revoked"


@pytest.mark.parametrize("who", ["expired", "nobody"])
@pytest.mark.parametrize("name", [*PRIVATE, *ENDING])
async def test_who_has_no_valid_credential_is_told_only_that(
    name: str, who: str, door: Door, estate: Estate
) -> None:
    token = expired(estate.lane.user) if who == "expired" else None
    reason = "expired" if who == "expired" else "missing"
    told = set()
    for names in (*estate.names, estate.ended.unknown()):
        question = {**PRIVATE, **ENDING}[name].ask(names)
        answer = await door.ask(question, token)
        status = "401" if isinstance(question, Http) else "4401"
        assert answer.gist == f"{status} {reason}"
        told.add(names.hide(answer.text))
    assert len(told) == 1


@pytest.mark.parametrize("name", PUBLIC)
async def test_what_is_public_is_the_same_for_everyone(
    name: str, door: Door, estate: Estate
) -> None:
    row, user = PUBLIC[name], estate.lane.user
    tokens = (mint(user), Lane(door.server).token, expired(user), None)
    told = set()
    for names, token in product((estate.ended, estate.ended.unknown()), tokens):
        question = row.ask(names)
        answer = await door.ask(question, token)
        assert answer.gist == row.owner == row.other
        assert estate.find_in(answer.text, question) == set()
        told.add(names.hide(answer.text))
    assert len(told) == 1


async def test_names_that_others_asked_for_before_are_as_good_as_new(door: Door) -> None:
    ann = Lane(door.server)
    names = names_for(ann, "active-thread", "active-run")
    # The rows of runs stand last: asked after those of aborts, they would use up what these leave.
    for row in reversed(PRIVATE.values()):
        await door.ask(row.ask(names), Lane(door.server).token)
    async with settle(ann):
        pass  # nothing that it makes was stopped, renamed, taken or begun


# --- credentials that are over -------------------------------------------------------------------


def expired(user: str) -> str:
    return mint(user, expires_s=-10)


class Shown(NamedTuple):
    """A credential as it is shown: in the address, or in headers."""

    query: str
    headers: dict[str, str]


async def show_expired_header(_door: Door, user: str) -> list[Shown]:
    return [Shown("", {"Authorization": f"Bearer {expired(user)}"})] * 2


async def show_used_ticket(door: Door, user: str) -> list[Shown]:
    (ticket,) = await door.server.tickets(mint(user))
    async with connect(f"{door.server.websocket_url()}?ticket={ticket}", None):
        return [Shown(f"&ticket={ticket}", {})] * 2


async def show_tickets_of_an_expired_token(door: Door, user: str) -> list[Shown]:
    token = mint(user, expires_s=4)
    tickets = await door.server.tickets(token, 2)
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while (  # noqa: ASYNC110 - nobody tells of it
            await door.ask(Http("GET", "/api/me"), token)
        ).gist != "401 expired":
            await asyncio.sleep(POLL_S)
    return [Shown(f"&ticket={ticket}", {}) for ticket in tickets]


async def show_ended_session(door: Door, user: str) -> list[Shown]:
    url = door.server.url
    async with signed_in(door.server, user) as http:
        shown = Shown("", {"Cookie": f"{COOKIE}={http.cookies[COOKIE]}", "Origin": url})
        assert (await http.delete("/api/session", headers={"Origin": url})).status_code == 204
    return [shown] * 2


@pytest.mark.parametrize(
    "show, reason",
    [
        (show_expired_header, "expired"),
        (show_used_ticket, "invalid"),
        (show_tickets_of_an_expired_token, "expired"),
        (show_ended_session, "invalid"),
    ],
)
async def test_credential_that_is_over_opens_nothing_in_whichever_way_it_comes(
    show: Callable[[Door, str], Awaitable[list[Shown]]], reason: str, door: Door, estate: Estate
) -> None:
    told = set()
    names = (estate.ended, estate.ended.unknown())
    for asked, shown in zip(names, await show(door, estate.lane.user), strict=True):
        url = f"{door.server.websocket_url()}?runId={asked.run}&offset=-1{shown.query}"
        refused = await knock(url, offered=(AGUI,), headers=shown.headers)
        assert refused.close == (4401, reason)
        by_http = Http("GET", f"/api/threads/{asked.thread}", {"headers": shown.headers})
        answer = await door.ask(by_http, None)
        assert answer.gist == f"401 {reason if shown.headers else 'missing'}"
        told.add(asked.hide(json.dumps(refused.frames) + answer.text))
    assert len(told) == 1
