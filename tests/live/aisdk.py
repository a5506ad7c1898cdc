"""The chat of the package `ai`, driven from Python through `node/aisdk.mjs`.

An `AIPage` is what a user has open: chats on one transport, in a Node process of its own. What a
chat reports is kept in `events`, in order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.live.tanstack import LINE_BYTES_MAX, NODE_FOLDER, PageError, find_node

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatState:
    """What a chat shows at one moment."""

    status: str
    messages: list[JsonObject]
    error: str | None
    calls: list[JsonObject]
    """What `onToolCall` was told, from the beginning."""

    @property
    def answer(self) -> str:
        """The text of the last message."""
        return text_of(self.messages[-1]) if self.messages else ""

    @property
    def outline(self) -> list[tuple[str, str]]:
        """Role and text of each message."""
        return [(message["role"], text_of(message)) for message in self.messages]

    def part(self, kind: str) -> JsonObject:
        """Return the first part of a type in the last message."""
        return next(part for part in self.messages[-1]["parts"] if part["type"] == kind)


def text_of(message: JsonObject) -> str:
    """Return what a message says."""
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


class AIPage:
    """Chats of one page; open it with `ai_page()`. Every wait raises TimeoutError in the end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Take over a driver."""
        self.process = process
        self.events: list[JsonObject] = []
        self._answers: dict[int, asyncio.Future[JsonObject]] = {}
        self._ids = count()
        self._news = asyncio.Condition()

    async def order(self, name: str, chat: str = "t", **options: object) -> JsonObject:
        """Have a command carried out, and return its answer."""
        own = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._answers[own] = future
        line = json.dumps({"id": own, "do": name, "chat": chat, **options})
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        answer: JsonObject = await asyncio.wait_for(future, 20)
        if "failure" in answer:
            raise PageError(f"{name}: {answer['failure']}")
        return answer

    async def send(self, text: str, chat: str = "t", **more: object) -> None:
        """Send a message of the user; `more` is what the chat's own options have."""
        await self.order("send", chat, message={"text": text}, options=more)

    async def state(self, chat: str = "t") -> ChatState:
        """Return what a chat shows now."""
        told = await self.order("state", chat)
        return ChatState(told["status"], told["messages"], told["error"], told["calls"])

    async def until(
        self, is_so: Callable[[ChatState], object], chat: str = "t", *, timeout_s: float = 20
    ) -> ChatState:
        """Wait until a chat shows what is wanted."""
        seen = -1
        state = await self.state(chat)
        try:
            async with asyncio.timeout(timeout_s):
                while not is_so(state):
                    async with self._news:
                        while len(self.events) <= seen:
                            await self._news.wait()
                    seen = len(self.events)
                    state = await self.state(chat)
        except TimeoutError:
            raise TimeoutError(f"{chat} never got there: {state}; {self.events[-8:]}") from None
        return state

    async def idle(self, chat: str = "t", *, after: int = 0) -> ChatState:
        """Wait until a turn has ended: the one behind `after` events."""

        def has_ended() -> bool:
            return any(
                one["event"] == "finish" and one["chat"] == chat for one in self.events[after:]
            )

        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(has_ended)
        return await self.until(lambda state: state.status in {"ready", "error"}, chat)

    async def listen(self) -> None:
        """Read the driver's lines until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            message = json.loads(line)
            if "answer" in message:
                future = self._answers.pop(message["answer"], None)
                if future is not None and not future.done():
                    future.set_result(message)
                continue
            async with self._news:
                self.events.append(message)
                self._news.notify_all()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(PageError(f"the driver ended; {self.events[-4:]}"))

    async def quit(self) -> None:
        """Let the driver go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 5.0)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def ai_page() -> AsyncIterator[AIPage]:
    """Start a driver process, and end it with the block."""
    if not (NODE_FOLDER / "node_modules").is_dir():
        raise PageError("the clients are not installed; run: npm ci --prefix tests/live/node")
    process = await asyncio.create_subprocess_exec(
        find_node(),
        str(NODE_FOLDER / "aisdk.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    page = AIPage(process)
    listener = asyncio.create_task(page.listen())
    try:
        yield page
    finally:
        await page.quit()
        await listener
