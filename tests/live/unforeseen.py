"""An agent whose module breaks the server that loads it, in places where nobody foresaw an error.

Served as `--agent name=unforeseen:teller`. Each place breaks once for each name, or twice where
the name says so, and then works again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from isolane.context import EventId
from isolane.doors.pulse import Pulse
from isolane.errors import InvalidCursor
from isolane.log.tail import Tail
from isolane.log.waiters import Hand

WORDS: Final = ("one ", "two ", "three")
_broken: Final[Counter[str]] = Counter()
_follow: Final = Tail.follow
_until_expiry_s: Final = Pulse._until_expiry_s


def _break(name: str, error: Exception) -> None:
    if _broken[name] < (2 if "twice" in name else 1):
        _broken[name] += 1
        raise error


async def _follow_or_break(
    self: Tail, after: EventId, *, hand: Hand | None = None
) -> AsyncGenerator[list[Any], None]:
    """Follow a thread; of one that is called so, only one record is read the first time."""
    thread_id = self.key.thread_id
    async for batch in _follow(self, after, hand=hand):
        yield batch[:1]
        if thread_id.startswith("unforeseen"):
            _break(thread_id, KeyError("nobody foresaw this"))
        if thread_id.startswith("ahead"):
            _break(thread_id, InvalidCursor("after: is ahead of the log"))
        if len(batch) > 1:
            yield batch[1:]


def _until_expiry_or_break(self: Pulse) -> float:
    """Tell when a credential dies; of a user who is called so, nobody can the first time."""
    if self._connection.has_greeted and self._connection.user_id.startswith("timeless"):
        _break(self._connection.user_id, KeyError("nobody foresaw this"))
    return _until_expiry_s(self)


Tail.follow = _follow_or_break  # type: ignore[method-assign]
Pulse._until_expiry_s = _until_expiry_or_break  # type: ignore[method-assign]


async def teller(input: object) -> AsyncIterator[str]:  # noqa: A002  # AG-UI's name for it
    """Say some words."""
    del input
    for word in WORDS:
        yield word
