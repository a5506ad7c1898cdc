"""TanStack AI's published chat client, driven from Python through `node/tanstack.mjs`.

A `TanStackPage` is what a user has open: one `ChatClient` on one `webSocket()` adapter, in a Node
process of its own. What the client reports is kept in `events`, in order; `wait_for()` looks at
all of them, so nothing is missed that came before the question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import count

from tests.live.node_page import JsonObject, NodePage, node_page


@dataclass(frozen=True, slots=True)
class PageState:
    """What the client tells an application at one moment."""

    status: str
    is_loading: bool
    error: str | None
    run_id: str | None
    messages: list[JsonObject]

    @property
    def answer(self) -> str:
        """The text of the newest message, which is the assistant's once it has said anything."""
        return text_of(self.messages[-1]) if self.messages else ""

    @property
    def outline(self) -> list[tuple[str, str]]:
        """Role and text of each message, in order."""
        return [(message["role"], text_of(message)) for message in self.messages]


@dataclass(frozen=True, slots=True)
class Joined:
    """What `joinRun` delivered and how it ended; `error` is None for a proper end."""

    chunks: list[JsonObject]
    error: str | None

    @property
    def text(self) -> str:
        """The text that the joined chunks spell."""
        return "".join(chunk["delta"] for chunk in self.chunks if is_text(chunk))


def text_of(message: JsonObject) -> str:
    """Return the text parts of one UI message, joined."""
    return "".join(part["content"] for part in message["parts"] if part["type"] == "text")


def is_text(chunk: JsonObject) -> bool:
    """Tell whether a chunk is a piece of an answer's text."""
    return bool(chunk["type"] == "TEXT_MESSAGE_CONTENT")


class TanStackPage(NodePage):
    """One chat page; open it with `tanstack_page()`. Every wait raises TimeoutError in the end."""

    async def open(
        self,
        url: str,
        thread_id: str,
        *,
        token: str | None = None,
        tickets: Sequence[str] | None = None,
        resume: str | None = None,
    ) -> None:
        """Open the page, or reload it: what was open before is gone, sockets too.

        Signs in with `token` by subprotocol, or else with one of the `tickets` for each socket.
        `resume` names a run of the thread that was in flight: the client rejoins it.
        """
        names: JsonObject = {"url": url, "threadId": thread_id, "token": token, "resume": resume}
        if tickets is not None:
            names["tickets"] = list(tickets)
        await self._order("open", **names)

    async def open_http(
        self, url: str, thread_id: str, *, token: str, kind: str, **options: object
    ) -> None:
        """Open the page on `/agui`: its `kind` is `events` (server-sent ones) or `lines` (JSON).

        With `persistence` it asks the server for the thread, with `pageSize` in pages.
        """
        names: JsonObject = {"url": url, "threadId": thread_id, "token": token, **options}
        await self._order("open", kind=kind, **names)

    async def hydrate(self, thread_id: str) -> JsonObject:
        """Return what the adapter's own hydrate gets; raises `PageError` for a refusal."""
        answer = await self._order("hydrate", threadId=thread_id)
        hydrated: JsonObject = answer["hydrated"]
        return hydrated

    async def load_older(self) -> bool:
        """Scroll up: show the page of older messages, and say whether there are more."""
        return bool((await self._order("older"))["hasOlder"])

    async def resolve(self, payload: object) -> None:
        """Answer everything that the page asks the person."""
        await self._order("resolve", payload=payload)

    async def send(self, text: str | JsonObject, **forwarded_props: object) -> str:
        """Send a user message, or content with parts, and return the run id of its turn."""
        answer = await self._order("send", text=text, forwardedProps=forwarded_props)
        return str(answer["runId"])

    async def reload(self) -> str:
        """Ask for another answer to the last question; return the run id of that turn."""
        return str((await self._order("reload"))["runId"])

    async def stop(self) -> None:
        """Press stop."""
        await self._order("stop")

    async def join(self, run_id: str, *, timeout_s: float = 10.0) -> Joined:
        """Replay a run from its start by URL, until the server has no more of it."""
        answer = await self._order("join", timeout_s=timeout_s, runId=run_id)
        return Joined(answer["chunks"], answer["error"])

    async def state(self) -> PageState:
        """Return what the client shows now."""
        return _page_state(await self._order("state"))

    async def idle(self, *, timeout_s: float = 20.0) -> PageState:
        """Wait until no turn is under way and return what the client shows then."""
        return _page_state(await self._order("idle", timeout_s=timeout_s))

    @property
    def chunks(self) -> list[JsonObject]:
        """Every chunk that the chat client has applied so far."""
        return [event["chunk"] for event in self.events if event["event"] == "chunk"]

    @property
    def frames(self) -> list[JsonObject]:
        """Every frame that the client has sent so far."""
        return [event["frame"] for event in self.events if event["event"] == "frame"]

    def sockets(self, state: str) -> list[JsonObject]:
        """Return the socket events of one kind: `connecting`, `open`, `error` or `closed`."""
        return [e for e in self.events if e["event"] == "socket" and e["state"] == state]

    async def wait_for(
        self, wanted: Callable[[JsonObject], bool], *, timeout_s: float = 10.0
    ) -> JsonObject:
        """Return the first event that is wanted, among those that came and those to come."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._first(wanted)
        except TimeoutError:
            raise TimeoutError(f"not seen in {timeout_s} s; {self._latest()}") from None

    async def _first(self, wanted: Callable[[JsonObject], bool]) -> JsonObject:
        seen = 0
        async with self._news:
            while True:
                for event in self.events[seen:]:
                    if wanted(event):
                        return event
                seen = len(self.events)
                await self._news.wait()

    async def wait_for_chunk(
        self,
        chunk_type: str,
        *,
        run_id: str | None = None,
        nth: int = 1,
        timeout_s: float = 10.0,
    ) -> JsonObject:
        """Return the `nth` chunk of a type (and a run, where the type carries one)."""
        wanted = {"type": chunk_type} if run_id is None else {"type": chunk_type, "runId": run_id}
        found = count(1)

        def is_it(event: JsonObject) -> bool:
            if event["event"] != "chunk" or not wanted.items() <= event["chunk"].items():
                return False
            return next(found) == nth

        event = await self.wait_for(is_it, timeout_s=timeout_s)
        chunk: JsonObject = event["chunk"]
        return chunk


def _page_state(answer: JsonObject) -> PageState:
    return PageState(
        status=answer["status"],
        is_loading=answer["isLoading"],
        error=answer["error"],
        run_id=answer["runId"],
        messages=answer["messages"],
    )


def tanstack_page() -> AbstractAsyncContextManager[TanStackPage]:
    """Start a driver process, and end it with the block."""
    return node_page("tanstack.mjs", TanStackPage)
