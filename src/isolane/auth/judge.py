"""Asks an authenticator who a token speaks for, and waits for its answer only so long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from isolane.auth.tokens import TOKEN_MAX_BYTES, refused
from isolane.contracts import Authenticator, Identity
from isolane.errors import (
    ContractError,
    InvalidContext,
    IsolaneError,
    Unauthenticated,
    Unavailable,
)
from isolane.ids import check_user_id, to_user_id
from isolane.tasks import TaskOwner

TIMEOUT_S: Final = 10.0
"""An authenticator that says nothing for so long can't tell now."""
PENDING_MAX: Final = 6_000
"""Tokens that may wait for an answer, with those whose asker has gone. Thousands who come back at
once are read in one pass of the event loop, before the first of them is judged."""


class Judge:
    """The one who asks the authenticator: each question has a deadline, and there are only so many.

    An authenticator may be a host's own code, which hangs, raises, or returns anything.
    """

    def __init__(
        self, authenticator: Authenticator, *, tasks: TaskOwner, is_own: bool = False
    ) -> None:
        """Ask `authenticator`.

        One that `is_own` returns user ids; a host's returns names of its own, of which user ids
        are made.
        """
        self._authenticator = authenticator
        self._to_user_id: Callable[[str, object], str] = check_user_id if is_own else to_user_id
        self._name = type(authenticator).__name__
        self._tasks = tasks
        self.pending = 0
        """How many questions the authenticator hasn't answered yet."""

    async def judge(self, token: str) -> Identity:
        """Return who a token speaks for; their id has the one spelling that everything goes by.

        Raises `Unauthenticated` also when the authenticator returns nothing, `Unavailable` when it
        doesn't answer, and `ContractError` for what is no identity. No authenticator is asked about
        a token over 16 KiB.
        """
        if len(token) > TOKEN_MAX_BYTES:
            raise refused("it is too long to be one")
        found = await self._ask(token)
        if found is None:
            raise Unauthenticated("invalid", "the authenticator knows nobody by this token")
        if not isinstance(found, Identity):
            raise ContractError(
                f"{self._name}.authenticate returned {type(found).__name__}; "
                f"return an isolane.Identity, or None to deny"
            )
        try:
            user_id = self._to_user_id("user_id", found.user_id)
        except InvalidContext as error:
            raise ContractError(
                f"{self._name}.authenticate returned an Identity of nobody; return None to deny"
            ) from error
        return found if user_id == found.user_id else replace(found, user_id=user_id)

    async def _ask(self, token: str) -> object:
        if self.pending >= PENDING_MAX:
            raise Unavailable(f"{self._name} has {self.pending} tokens to judge already")
        self.pending += 1
        answering = self._tasks.start(self._catch(token), name="authentication")
        answering.add_done_callback(self._count_down)
        try:
            await asyncio.wait({answering}, timeout=TIMEOUT_S)
        finally:
            answering.cancel()  # one that ignores this goes on, and counts as pending
        if not answering.done():
            raise Unavailable(f"{self._name} hasn't judged a token within {TIMEOUT_S:g} s")
        if answering.cancelled():
            raise Unavailable(f"{self._name} gave up a token, by cancelling itself")
        found, error = answering.result()
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raise IsolaneError(f"{self._name} wanted to end the process") from error
        return found

    def _count_down(self, _: asyncio.Task[Any]) -> None:
        self.pending -= 1

    async def _catch(self, token: str) -> tuple[object, BaseException | None]:
        """Return an answer, or what was raised instead: who asked is told, and nobody else."""
        try:
            return await self._authenticator.authenticate(token), None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a SystemExit that left a task would end the loop
            return None, error
