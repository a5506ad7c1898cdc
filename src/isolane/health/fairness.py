"""Turns for costly work, so that each pass of the event loop stays short."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

TURNS_EACH_PASS: Final = 1
"""Turns per pass of the loop. The work of one turn takes one or two milliseconds, and servers also
accept one connection per pass."""


class Turns:
    """Gives out a few turns per pass of the event loop, to the users one after the other."""

    def __init__(self) -> None:
        """Begin with an empty line."""
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._left = TURNS_EACH_PASS
        self._is_renewing = False

    async def take(self, user_id: str) -> None:
        """Wait until it is the user's turn. Safe to cancel."""
        self._renew_soon()
        if self._left and not self._lines:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(user_id, deque()).append(turn)
        await turn

    def _renew_soon(self) -> None:
        if not self._is_renewing:
            self._is_renewing = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        self._is_renewing = False
        self._left = TURNS_EACH_PASS
        while self._left and self._lines:
            user_id = next(iter(self._lines))
            line = self._lines.pop(user_id)
            turn = line.popleft()
            if line:  # the user goes behind all others
                self._lines[user_id] = line
            if not turn.done():  # a cancelled wait is done already
                turn.set_result(None)
                self._left -= 1
        if self._lines or self._left < TURNS_EACH_PASS:
            self._renew_soon()
