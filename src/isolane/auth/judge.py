"""The part that asks an authenticator about a token, with a deadline."""

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
"""Seconds after which an authenticator without an answer counts as unavailable."""
PENDING_MAX: Final = 6_000
"""Maximum number of questions to the authenticator without an answer. Thousands of clients may come
back at once, and all their questions begin before the first answer."""


class Judge:
    """Asks the authenticator.

    Each question has a deadline, and the number of open questions a bound.

    An authenticator may be a host's own code, which may hang, raise, or return anything.
    """

    def __init__(
        self, authenticator: Authenticator, *, tasks: TaskOwner, is_own: bool = False
    ) -> None:
        """Ask `authenticator`.

        When `is_own` is true it returns user ids. A host's authenticator returns names, from which
        user ids are made.
        """
        self._authenticator = authenticator
        self._to_user_id: Callable[[str, object], str] = check_user_id if is_own else to_user_id
        self._name = type(authenticator).__name__
        self._tasks = tasks
        self.pending = 0
        """Count of questions that the authenticator hasn't answered yet."""

    async def judge(self, token: str) -> Identity:
        """Return the identity behind a token, with the user id in its one spelling.

        A token over 16 KiB is refused without a question.

        Raises:
            Unauthenticated: The authenticator refused the token or returned None.
            Unavailable: The authenticator didn't answer.
            ContractError: The authenticator returned something that is no identity.
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
            # code that ignores its cancellation goes on, and still counts as open
            answering.cancel()
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
        """Return the answer, or the error that was raised, so that only the caller is told."""
        try:
            return await self._authenticator.authenticate(token), None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a SystemExit that left a task would end the event loop
            return None, error
