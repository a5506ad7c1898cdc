"""One token's reach, and the clean-up after it."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from isolane.check.finding import Broken
from isolane.check.order import Frame
from isolane.check.target import Target
from isolane.check.wire import SUBPROTOCOL, Answer, Socket, create_http, fetch, open_socket

_GONE: Final = frozenset({204, 404})
"""Statuses of a deletion: done, or no such thread."""

Step = Sequence[object]


def new_name(kind: str) -> str:
    """Return an id that nobody else has."""
    return f"isolane-check-{kind}-{secrets.token_hex(8)}"


@dataclass(eq=False)
class Lane:
    """One user with a token, sockets and threads."""

    target: Target
    tls: ssl.SSLContext | None
    token: str = field(repr=False)
    user_id: str = ""
    """The user's id, known after the first answer of the gateway."""
    threads: list[str] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    """All sockets that were opened."""

    @property
    def sent_count(self) -> int:
        """Count of sent frames, which the gateway's rate limit counts too."""
        return sum(socket.sent_count for socket in self.sockets)

    def create_http(self) -> httpx.AsyncClient:
        """Return a client for the HTTP routes; the caller closes it."""
        return create_http(self.target, self.tls, self.token)

    async def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        """Send one HTTP request and return its answer."""
        async with self.create_http() as http:
            return await fetch(http, method, path, body)

    def new_thread(self) -> str:
        """Return the id of a thread that the clean-up deletes."""
        self.threads.append(new_name("thread"))
        return self.threads[-1]

    async def open(
        self, *, offered: Sequence[str] = (SUBPROTOCOL,), query: Mapping[str, str] | None = None
    ) -> Socket:
        """Open a socket without a greeting."""
        socket = await open_socket(
            self.target, self.tls, offered=offered, token=self.token, query=query
        )
        self.sockets.append(socket)
        return socket

    async def greet(self) -> tuple[Socket, Frame]:
        """Open a socket with control frames; return it and the welcome."""
        socket = await self.open()
        return socket, await socket.ask({"type": "hello", "v": 1}, "welcome")

    async def load_replay(self, run_id: str, offset: str) -> list[Frame]:
        """Return the frames of a socket whose address names run and offset."""
        socket = await self.open(query={"runId": run_id, "offset": offset})
        frames, code, reason = await socket.read_to_close()
        await socket.close()
        if code != 1000:  # noqa: PLR2004 - the normal closure of RFC 6455
            raise Broken(
                "a replay by address did not end with its run",
                sent=f"?runId={run_id}&offset={offset}",
                came=f"{len(frames)} frames, then close {code} {reason}",
                expected="the run's events, then close 1000",
            )
        return [frame for frame in frames if frame.get("type") != "ping"]

    async def clear(self) -> None:
        """Delete the threads and close the sockets.

        Raises:
            Broken: Something can't be cleaned up.
        """
        await asyncio.gather(*(socket.close() for socket in self.sockets))
        while self.threads:
            answer = await self.ask("DELETE", f"/api/threads/{self.threads[-1]}")
            if answer.status not in _GONE:
                raise Broken(
                    "a thread could not be deleted",
                    sent=f"DELETE /api/threads/{self.threads[-1]}",
                    came=f"{answer.status} {answer.text}",
                    expected="204",
                )
            self.threads.pop()


def run_frame(thread_id: str, run_id: str, *steps: Step) -> dict[str, object]:
    """Return the frame that makes the agent `check` do these steps."""
    return {
        "threadId": thread_id,
        "runId": run_id,
        "messages": [{"id": f"{run_id}-question", "role": "user", "content": _script(steps)}],
        "state": {},
        "tools": [],
        "context": [],
        "forwardedProps": {},
    }


def _script(steps: Sequence[Step]) -> str:
    return json.dumps(steps)
