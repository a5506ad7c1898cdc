"""The chat of the package `ai`, driven from Python through `node/aisdk.mjs`.

An `AIPage` is what a user has open: chats on one transport, in a Node process of its own. What a
chat reports is kept in `events`, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.live.node_page import JsonObject, NodePage, node_page


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


class AIPage(NodePage):
    """Chats of one page; open it with `ai_page()`. Every wait raises TimeoutError in the end."""

    async def order(self, name: str, chat: str = "t", **options: object) -> JsonObject:
        """Have a command carried out, and return its answer."""
        return await self._order(name, timeout_s=20.0, chat=chat, **options)

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


def ai_page() -> AbstractAsyncContextManager[AIPage]:
    """Start a driver process, and end it with the block."""
    return node_page("aisdk.mjs", AIPage)
