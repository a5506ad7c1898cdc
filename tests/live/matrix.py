"""The isolation matrix: how each operation is done, and what it gets for the owner and another.

A row has the name that `test_matrix` finds in the app: of a route, of a frame, or of a place in one
of them where an id may stand. Who has no valid credential is refused alike everywhere but at what
is public, so no row says so.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple, TypeAlias

from tests.live.client import Frame, parse_id, run_frame
from tests.live.stage import mint, steps

from isolane.doors.page import find_page

_NEW: Final = re.compile(
    r"(?:err|req|conn|msg|run|thread)_[0-9a-f-]{36}"  # ids that the gateway makes
    r"|(?:run|msg)_[0-9a-f]{32}(?![0-9a-f])"  # ids that follow from a key
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # ids that agents are given
    r"|\b[0-9a-f]{16}(?=-\d)"  # the epoch of an id, whose number is not hidden
    r"|\b1\d{12}\b|\b1\d{9}\b|(?<=expires=)[^;]+"  # times
    r'|(?<="ticket":")[\w-]{43}'
    r"|(?m:^isolane_\w+ .*$)"  # what the metrics count
)
"""What is new in every answer, whatever was asked for."""
_numbers: Final[Iterator[int]] = count(1)


# --- what is asked for ---------------------------------------------------------------------------


def new_own() -> str:
    """Return a name for what an asker makes of their own; all are of one length."""
    return f"own-{next(_numbers):06}"


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a question names: things of the owner, or such that nobody has."""

    user: str
    thread: str
    run: str
    cursor: str
    own: str = field(default_factory=new_own)

    @property
    def message(self) -> str:
        """The run's question."""
        return f"{self.run}-question"

    @property
    def call(self) -> str:
        """The call of a tool."""
        return f"{self.thread}-call"

    @property
    def interrupt(self) -> str:
        """What the thread's last run asks of a person."""
        return f"{self.thread}-interrupt"

    @property
    def page(self) -> str:
        """The place of the thread in a list, before all that changed until long after today."""
        return f"{9 * 10**12}~{self.thread}"

    @property
    def seq(self) -> int:
        """The number of the cursor."""
        return parse_id(self.cursor)[1]

    def unknown(self) -> Names:
        """Return names that nobody has, each as long as the one that it stands for."""
        epoch, seq = parse_id(self.cursor)
        names = {name: _noise(getattr(self, name)) for name in ("user", "thread", "run")}
        return Names(cursor=f"{_noise(epoch)}-{seq}", **names)

    def hide(self, text: str) -> str:
        """Return an answer as it would be to the same question for any other names."""
        for name in ("thread", "run", "cursor", "own", "user"):
            text = text.replace(getattr(self, name), f"({name})")
        return _NEW.sub("(new)", text)


def _noise(text: str) -> str:
    return secrets.token_hex(len(text))[: len(text)]


@dataclass(frozen=True)
class Http:
    """A request."""

    method: str
    path: str
    more: Mapping[str, Any] = field(default_factory=dict)
    """Its query, headers or body, in httpx's words: `params`, `headers`, `json`."""


@dataclass(frozen=True)
class Socket:
    """What is said on a socket of its own; the last frame is the question."""

    frames: Sequence[Frame] = ()
    path: str = "/ws"

    @property
    def is_replay(self) -> bool:
        """Say whether the address asks, and what is said is ignored."""
        return "?" in self.path


@dataclass(frozen=True)
class ChatSocket:
    """What is said on a socket of AI SDK's; the answer to the last frame is the answer."""

    frames: Sequence[Frame]
    path: str = "/ai/chat"


Question: TypeAlias = Http | Socket | ChatSocket


class Row(NamedTuple):
    """How an operation is done to what names name, and what it gets in a word or two."""

    ask: Callable[[Names], Question]
    owner: str
    other: str
    shows: bool = False
    """Whether the owner is told more of what is theirs than they named."""


# --- requests ------------------------------------------------------------------------------------

Fields: TypeAlias = Callable[[Names], dict[str, Any]]
AGENT: Final = "script"
UNKNOWN: Final = "404 not_found"
PAGE: Final = find_page()


def _fill(method: str, path: str, more: Fields, names: Names) -> Http:
    ids = {
        "thread_id": names.thread,
        "run_id": names.run,
        "agent": AGENT,
        "chat_id": names.thread,
        "session_id": names.run,  # a session's own id is nobody's here: see test_sessions
        "user_id": names.user,
        "name": "nowhere",
        "model": AGENT,
        "response_id": f"resp_{names.run}",
    }
    return Http(method, path.format(**ids), more(names))


def _http(
    name: str,
    owner: str,
    other: str | None = None,
    more: Fields = lambda _: {},
    *,
    shows: bool = False,
) -> dict[str, Row]:
    """Return the row of a request; another user gets the same unless `other` says what."""
    method, path, *_ = name.split()
    return {name: Row(partial(_fill, method, path, more), owner, other or owner, shows)}


def _asset() -> str:
    """Return the smallest of the page's files, if somebody has built it."""
    files = [] if PAGE is None else (PAGE / "assets").iterdir()
    return min(((file.stat().st_size, file.name) for file in files), default=(0, "none"))[1]


PUBLIC: Final[dict[str, Row]] = {
    **_http("GET /", "200" if PAGE else "404"),
    **_http("HEAD /", "200" if PAGE else "404"),
    **_http("GET /openapi.json", "200"),
    **_http("HEAD /openapi.json", "200"),
    **_http("GET /healthz", "200"),
    **_http("GET /readyz", "200"),
    **_http("GET /metrics", "200"),
    **_http("GET /signin", "401 invalid"),
    **_http("GET /api/signin", "200"),
    **_http("GET /signin/{name}", UNKNOWN),
    **_http("GET /signin/{name}/callback", UNKNOWN),
    **_http("DELETE /api/session", "204"),
    **_http(
        "POST /api/session",
        "401 invalid",
        more=lambda n: {"json": {"username": n.user, "password": "not theirs"}},
    ),
    **_http("GET /ai/chat", "426 invalid_frame"),
    **_http("GET /ai/{agent}/chat", "426 invalid_frame"),
    "Mount /assets": Row(
        lambda _: Http("GET", f"/assets/{_asset()}"),
        *("200", "200") if PAGE else (UNKNOWN, UNKNOWN),
    ),
}
"""What asks for no credential, and answers everyone alike."""


def _come_back(path: str) -> Iterator[tuple[str, Row]]:
    """Yield what TanStack AI's client asks for when it comes back; a name alone fits a thread."""
    thread: Fields = lambda n: {"params": {"threadId": n.thread}}  # noqa: E731
    run: Fields = lambda n: {"params": {"runId": n.run}}  # noqa: E731
    asks: dict[str, Fields] = {
        "threadId": thread,
        "limit": lambda n: {"params": {"threadId": n.thread, "limit": 1}},
        "before": lambda n: {
            "params": {"threadId": n.thread, "before": f"{n.cursor}~{n.seq + 1}~0"}
        },
        "runId": run,
        "offset": lambda n: {"params": {"runId": n.run, "offset": n.cursor}},
        "last-event-id": lambda n: {**run(n), "headers": {"Last-Event-ID": n.cursor}},
    }
    yield from _http(f"GET {path}", "422 invalid_input").items()
    for name, more in asks.items():
        yield from _http(f"GET {path} {name}", "200", UNKNOWN, more, shows=True).items()


_LIST: Final = "/api/threads"
_THREAD: Final = "/api/threads/{thread_id}"
_REQUESTS: Final[dict[str, Row]] = {
    **_http("GET /api/me", "200", shows=True),
    **_http("POST /api/tickets", "200"),
    **_http("GET /api/sessions", "200"),
    **_http("DELETE /api/sessions/{session_id}", UNKNOWN),
    **_http("POST /api/users/{user_id}/sign-out", "403 forbidden"),
    **_http("GET /api/users/{user_id}/usage", "403 forbidden"),
    **_http("GET /agui/{agent}/capabilities", "200"),
    **_http(f"GET {_LIST}", "200", shows=True),
    **_http(f"GET {_LIST} limit", "200", more=lambda _: {"params": {"limit": 1}}, shows=True),
    **_http(
        f"GET {_LIST} cursor", "200", more=lambda n: {"params": {"cursor": n.page}}, shows=True
    ),
    **_http(f"POST {_LIST}", "201", more=lambda _: {"json": {}}),
    **_http(f"POST {_LIST} title", "201", more=lambda n: {"json": {"title": n.thread}}),
    **_http(
        f"POST {_LIST} threadId", "201", more=lambda n: {"json": {"threadId": n.thread}}, shows=True
    ),
    **_http(f"GET {_THREAD}", "200", UNKNOWN, shows=True),
    **_http(f"GET {_THREAD} limit", "200", UNKNOWN, lambda _: {"params": {"limit": 1}}, shows=True),
    **_http(
        f"GET {_THREAD} before",
        *("200", UNKNOWN),
        lambda n: {"params": {"before": f"{n.cursor}~{n.seq + 1}~0"}},
        shows=True,
    ),
    **_http(f"PATCH {_THREAD}", "200", UNKNOWN, lambda _: {"json": {"title": "taken"}}),
    **_http(f"DELETE {_THREAD}", "204", UNKNOWN),
    **_http(f"GET {_THREAD}/events", "200", UNKNOWN, shows=True),
    **_http(
        f"GET {_THREAD}/events after",
        *("200", UNKNOWN),
        lambda n: {"params": {"after": n.cursor}},
        shows=True,
    ),
    **_http(
        f"GET {_THREAD}/events last-event-id",
        *("200", UNKNOWN),
        lambda n: {"headers": {"Last-Event-ID": n.cursor}},
        shows=True,
    ),
    **dict(_come_back("/agui")),
    **dict(_come_back("/agui/{agent}")),
    **_http("GET /api/runs/{run_id}", "200", UNKNOWN, shows=True),
    **_http("POST /api/runs/{run_id}/abort", "202", UNKNOWN),
}


def _turn(names: Names, *, thread: str, message: str | None = None, **more: object) -> Frame:
    """Return a turn of AI SDK's: a question of one's own on a thread."""
    own = {"id": message or f"{names.own}-question", "role": "user"}
    return {"id": thread, "messages": [{**own, "parts": [{"type": "text", "text": LOOK}]}], **more}


def _answered(names: Names, **part: object) -> Frame:
    """Return a turn that brings an answer only, in a part of what the assistant said."""
    answer = {"type": "tool-look", "toolCallId": names.call, **part}
    return {
        "id": names.thread,
        "messages": [{"id": "a", "role": "assistant", "parts": [answer]}],
    }


_TURNS: Final[dict[str, tuple[Callable[[Names], Frame], str, str, bool]]] = {
    "": (lambda n: _turn(n, thread=n.thread), "200", "200", True),
    "runId": (lambda n: _turn(n, thread=n.own, runId=n.run), "409 run_conflict", "200", False),
    "messages[].id": (
        lambda n: _turn(n, thread=n.own, message=n.message),
        *("200", "200", False),
    ),
    "messages[].parts[].toolCallId": (
        lambda n: _answered(n, state="output-available", output="seen"),
        *("200", "409 run_conflict", True),
    ),
    "messages[].parts[].approval.id": (
        lambda n: _answered(n, approval={"id": n.interrupt, "approved": True}),
        *("200", "409 run_conflict", True),
    ),
}
"""AI SDK's turns by the place of the name in the body, and what they get."""


def _as_json(turn: Callable[[Names], Frame], names: Names) -> dict[str, Any]:
    return {"json": turn(names)}


def _chat_rows() -> Iterator[tuple[str, Row]]:
    """Yield what is done at the doors of AI SDK."""
    for path in ("/ai/chat", "/ai/{agent}/chat"):
        chat = f"{path}/{{chat_id}}"
        for place, (turn, owner, other, shows) in _TURNS.items():
            name = f"POST {path} {place}".strip()
            yield from _http(name, owner, other, partial(_as_json, turn), shows=shows).items()
        yield from _http(
            f"POST {path} x-isolane-on-disconnect",
            "200",
            more=lambda n: {
                "json": _turn(n, thread=n.own),
                "headers": {"X-Isolane-On-Disconnect": "stop"},
            },
        ).items()
        stream, messages = f"GET {chat}/stream", f"GET {chat}/messages"
        yield from _http(stream, "200", "204", shows=True).items()
        yield from _http(
            f"{stream} after", "200", "204", lambda _: {"params": {"after": 0}}, shows=True
        ).items()
        yield from _http(
            f"{stream} last-event-id",
            *("200", "204"),
            lambda _: {"headers": {"Last-Event-ID": "0"}},
            shows=True,
        ).items()
        yield from _http(f"POST {chat}/stop", "202").items()
        yield from _http(messages, "200", UNKNOWN, shows=True).items()
        yield from _http(
            f"{messages} limit", "200", UNKNOWN, lambda _: {"params": {"limit": 1}}, shows=True
        ).items()
        yield from _http(
            f"{messages} before", "200", UNKNOWN, lambda n: {"params": {"before": n.message}}
        ).items()

    def by_query(_names: Names) -> dict[str, Any]:
        return {"params": {"agent": AGENT}}

    yield from _http(
        "POST /ai/chat agent",
        "200",
        more=lambda n: {**by_query(n), "json": _turn(n, thread=n.own)},
    ).items()
    yield from _http("POST /ai/chat/{chat_id}/stop agent", "202", more=by_query).items()
    for what, other in (("stream", "204"), ("messages", UNKNOWN)):
        yield from _http(
            f"GET /ai/chat/{{chat_id}}/{what} agent", "200", other, by_query, shows=True
        ).items()


# --- frames --------------------------------------------------------------------------------------

HELLO: Final[Frame] = {"type": "hello", "v": 1}
LOOK: Final = steps(["input"], ["memory"])
"""Makes the agent tell all that it was given, and all that it remembers in the thread by itself, so
that words of somebody else would show."""


class _Said(NamedTuple):
    """A frame, and what it gets after hello; for a run that is what becomes of it."""

    frame: Callable[[Names], Frame]
    owner: str
    other: str
    shows: bool = False


_CONTROL: Final[dict[str, _Said]] = {
    "Hello": _Said(lambda _: HELLO, "welcome", "welcome", shows=True),
    "Subscribe": _Said(
        lambda n: {"type": "subscribe", "threadId": n.thread},
        *("subscribed", "subscribed"),
        shows=True,
    ),
    "Subscribe after": _Said(
        lambda n: {"type": "subscribe", "threadId": n.thread, "after": n.cursor},
        *("subscribed", "subscribed"),
        shows=True,
    ),
    "Unsubscribe": _Said(
        lambda n: {"type": "unsubscribe", "threadId": n.thread}, "unsubscribed", "unsubscribed"
    ),
    "Renew": _Said(
        lambda n: {"type": "auth", "token": mint(n.user)}, "auth_ok", "identity_mismatch"
    ),
    "Ping": _Said(lambda _: {"type": "ping"}, "pong", "pong"),
    "Ping t": _Said(lambda n: {"type": "ping", "t": n.run}, "pong", "pong"),
    "Abort": _Said(lambda n: {"type": "abort", "runId": n.run}, "stopping", "not_found"),
}


def _with(names: Names, **message: object) -> Frame:
    """Return a run on a thread of one's own that brings a message beside its question."""
    brought = {"id": "m-1", "role": "user", "content": "a", **message}
    question = {"id": f"{names.own}-question", "role": "user", "content": LOOK}
    return run_frame(names.own, names.own, LOOK, messages=[brought, question])


def _with_call(names: Names) -> Frame:
    function = {"name": "look", "arguments": "{}"}
    calls = [{"id": names.call, "type": "function", "function": function}]
    return _with(names, role="assistant", toolCalls=calls)


_RUN: Final[dict[str, _Said]] = {
    "": _Said(lambda n: run_frame(n.thread, n.run, LOOK), "run_conflict", "taken"),
    "threadId": _Said(lambda n: run_frame(n.thread, n.own, LOOK), "taken", "taken", shows=True),
    "runId": _Said(lambda n: run_frame(n.own, n.run, LOOK), "run_conflict", "taken"),
    "parentRunId": _Said(
        lambda n: run_frame(n.own, n.own, LOOK, parentRunId=n.run), "taken", "taken"
    ),
    "messages[].id": _Said(lambda n: _with(n, id=n.message), "taken", "taken"),
    "messages[].subagentRunId": _Said(lambda n: _with(n, subagentRunId=n.run), "taken", "taken"),
    "messages[].content[].id": _Said(
        lambda n: _with(n, content=[{"type": "text", "id": n.message, "text": "a"}]),
        *("taken", "taken"),
    ),
    "messages[].toolCallId": _Said(
        lambda n: _with(n, role="tool", toolCallId=n.call), "taken", "taken"
    ),
    "messages[].toolCalls[].id": _Said(_with_call, "taken", "taken"),
    "resume[].interruptId": _Said(
        lambda n: run_frame(
            n.thread, n.own, LOOK, resume=[{"interruptId": n.interrupt, "status": "cancelled"}]
        ),
        *("taken", "run_conflict"),
        shows=True,
    ),
    "forwardedProps.rewindTo": _Said(
        lambda n: run_frame(n.thread, n.own, LOOK, forwardedProps={"rewindTo": n.message}),
        *("taken", "invalid_input"),
        shows=True,
    ),
}
"""By the place of the name in the frame; at "" stand all that a run must name."""


def _greeted(said: _Said, names: Names) -> Socket:
    return Socket([HELLO, said.frame(names)])


def _silent(said: _Said, names: Names) -> Socket:
    return Socket([said.frame(names)])


def _posted(path: str, said: _Said, names: Names) -> Http:
    return Http("POST", path.format(agent=AGENT), {"json": said.frame(names)})


def _resumed(path: str, names: Names) -> Http:
    body, headers = run_frame(names.thread, names.own, LOOK), {"Last-Event-ID": names.cursor}
    return Http("POST", path.format(agent=AGENT), {"json": body, "headers": headers})


def _control_rows() -> Iterator[tuple[str, Row]]:
    """Yield each frame after hello and as the first: then it is refused, or not answered."""
    for name, said in _CONTROL.items():
        yield f"frame {name}", Row(partial(_greeted, said), *said[1:])
        ask = partial(_silent, said)
        if name == "Hello":
            yield f"first frame {name}", Row(ask, *said[1:])
        else:
            gist = "silence" if name == "Abort" else "invalid_frame"
            yield f"first frame {name}", Row(ask, gist, gist)


def _run_rows() -> Iterator[tuple[str, Row]]:
    """Yield each run in each of the ways to ask for it, in the words of that way."""
    codes = {
        "taken": "200",
        "run_conflict": "409 run_conflict",
        "invalid_input": "422 invalid_input",
    }
    ways: dict[str, tuple[Callable[[_Said, Names], Question], dict[str, str]]] = {
        "frame Run": (_greeted, {"taken": "accepted"}),
        "first frame Run": (_silent, {"taken": "RUN_STARTED"}),
        "POST /agui": (partial(_posted, "/agui"), codes),
        "POST /agui/{agent}": (partial(_posted, "/agui/{agent}"), codes),
    }
    for way, (put, words) in ways.items():
        for place, said in _RUN.items():
            owner, other = (words.get(gist, gist) for gist in (said.owner, said.other))
            yield f"{way} {place}".strip(), Row(partial(put, said), owner, other, said.shows)
    for path in ("/agui", "/agui/{agent}"):
        row = Row(partial(_resumed, path), "200", "410 resume_expired", shows=True)
        yield f"POST {path} last-event-id", row


def _said_to_chats(frame: Callable[[Names], Frame], path: str, names: Names) -> ChatSocket:
    head = {"requestId": "q", "headers": {}, "body": {}}
    return ChatSocket([{**head, **frame(names)}], path)


def _send(names: Names) -> Frame:
    return {"type": "send", **_turn(names, thread=names.thread)}


def _resume(names: Names) -> Frame:
    return {"type": "resume", "id": names.thread}


_CHATS: Final[dict[str, Row]] = {
    "WS /ai/chat": Row(
        partial(_said_to_chats, _resume, "/ai/chat"), "end", "no-active", shows=True
    ),
    "WS /ai/{agent}/chat": Row(
        partial(_said_to_chats, _resume, f"/ai/{AGENT}/chat"), "end", "no-active", shows=True
    ),
    "chat frame send": Row(
        partial(_said_to_chats, _send, "/ai/chat"),
        *("end", "end"),
        shows=True,
    ),
    "chat frame send runId": Row(
        partial(
            _said_to_chats,
            lambda n: {"type": "send", **_turn(n, thread=n.own), "body": {"runId": n.run}},
            "/ai/chat",
        ),
        *("error", "end"),
    ),
    "chat frame resume": Row(
        partial(_said_to_chats, _resume, "/ai/chat"), "end", "no-active", shows=True
    ),
}


def _completion(more: Fields = lambda _: {}) -> Fields:
    """Return what a completion is asked for with, and `more` of its body."""
    messages = [{"role": "user", "content": LOOK}]
    return lambda n: {"json": {"model": AGENT, "messages": messages, **more(n)}}


def _response(more: Fields = lambda _: {}) -> Fields:
    return lambda n: {"json": {"model": AGENT, "input": LOOK, **more(n)}}


def _with_header(name: str, value: Callable[[Names], str], fields: Fields) -> Fields:
    return lambda n: {**fields(n), "headers": {name: value(n)}}


_CHAT: Final = "POST /v1/chat/completions"
_RESPONSES: Final = "POST /v1/responses"
_RESPONSE: Final = "/v1/responses/{response_id}"
_OPENAI: Final[dict[str, Row]] = {
    **_http("GET /v1/models", "200"),
    **_http("GET /v1/models/{model}", "200"),
    **_http(_CHAT, "200", more=_completion()),
    **_http(
        f"{_CHAT} x-isolane-thread",
        "200",
        more=_with_header("X-Isolane-Thread", lambda n: n.thread, _completion()),
        shows=True,
    ),
    **_http(
        f"{_CHAT} x-isolane-on-disconnect",
        "200",
        more=_with_header("X-Isolane-On-Disconnect", lambda _: "stop", _completion()),
    ),
    **_http(
        f"{_CHAT} idempotency-key",
        "200",
        more=_with_header("Idempotency-Key", lambda n: n.run, _completion()),
    ),
    **_http(
        f"{_CHAT} metadata.isolane_thread",
        "200",
        more=_completion(lambda n: {"metadata": {"isolane_thread": n.thread}}),
        shows=True,
    ),
    **_http(_RESPONSES, "200", more=_response()),
    **_http(
        f"{_RESPONSES} idempotency-key",
        "200",
        more=_with_header("Idempotency-Key", lambda n: n.run, _response()),
    ),
    **_http(
        f"{_RESPONSES} conversation",
        "200",
        more=_response(lambda n: {"conversation": n.thread}),
        shows=True,
    ),
    **_http(
        f"{_RESPONSES} previous_response_id",
        *("200", "404 previous_response_not_found"),
        _response(lambda n: {"previous_response_id": f"resp_{n.run}"}),
        shows=True,
    ),
    **_http(
        f"{_RESPONSES} input[].approval_request_id",
        *("200", "409 run_conflict"),
        _response(
            lambda n: {
                "conversation": n.thread,
                "input": [
                    {
                        "type": "mcp_approval_response",
                        "approval_request_id": n.interrupt,
                        "approve": True,
                    },
                    {"role": "user", "content": LOOK},
                ],
            }
        ),
        shows=True,
    ),
    **_http(f"GET {_RESPONSE}", "200", UNKNOWN, shows=True),
    **_http(
        f"GET {_RESPONSE} stream",
        *("200", UNKNOWN),
        lambda _: {"params": {"stream": "true"}},
        shows=True,
    ),
    **_http(
        f"GET {_RESPONSE} starting_after",
        *("200", UNKNOWN),
        lambda _: {"params": {"stream": "true", "starting_after": 0}},
        shows=True,
    ),
    **_http(f"GET {_RESPONSE}/input_items", "200", UNKNOWN, shows=True),
    **_http(
        f"GET {_RESPONSE}/input_items after",
        *("200", UNKNOWN),
        lambda n: {"params": {"after": n.message}},
        shows=True,
    ),
    **_http(
        f"GET {_RESPONSE}/input_items limit",
        *("200", UNKNOWN),
        lambda _: {"params": {"limit": 1}},
        shows=True,
    ),
    **_http(
        f"GET {_RESPONSE}/input_items order",
        *("200", UNKNOWN),
        lambda _: {"params": {"order": "asc"}},
        shows=True,
    ),
    **_http(f"POST {_RESPONSE}/cancel", "200", UNKNOWN, shows=True),
    **_http(f"DELETE {_RESPONSE}", "200", UNKNOWN),
}


def _replay(names: Names, offset: str) -> Socket:
    return Socket(path=f"/ws?runId={names.run}&offset={offset}")


_SOCKETS: Final[dict[str, Row]] = {
    "WS /ws": Row(lambda _: Socket([HELLO]), "welcome", "welcome", shows=True),
    "WS /ws/{agent:path}": Row(
        lambda _: Socket([HELLO], f"/ws/{AGENT}"), "welcome", "welcome", shows=True
    ),
    "replay run_id": Row(lambda n: _replay(n, "-1"), "1000", "1008 unknown run", shows=True),
    "replay offset": Row(lambda n: _replay(n, n.cursor), "1000", "1008 unknown run", shows=True),
}
PRIVATE: Final[dict[str, Row]] = {
    **_REQUESTS,
    **dict(_chat_rows()),
    **_OPENAI,
    **_SOCKETS,
    **_CHATS,
    **dict(_control_rows()),
    **dict(_run_rows()),
}
"""What is done for whoever has a credential, each with what is theirs."""

ENDING: Final[dict[str, Row]] = _http("DELETE /api/sessions", "204")
"""What ends the asker's own credentials, and sockets with them."""
