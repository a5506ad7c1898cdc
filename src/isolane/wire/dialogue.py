"""The rules of one connection's conversation: a frame in, commands out, without any await.

The door carries the commands out. Only this module decides what a connection may say, and when it
has sent too many malformed frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from isolane.errors import (
    InvalidCursor,
    InvalidFrame,
    InvalidInput,
    IsolaneError,
)
from isolane.wire.frames import (
    Abort,
    ClientFrame,
    Hello,
    Run,
    decode_frame,
)

MALFORMED_MAX: Final = 20
"""Malformed frames per window at which a connection is closed."""
MALFORMED_WINDOW_MS: Final = 10_000
"""Length of that window, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer the client's hello."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the client why its frame was refused."""

    error: IsolaneError
    thread_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection, because the client sends too many malformed frames."""

    reason: str
    code: int = 1008


Command = Welcome | Refuse | HangUp | ClientFrame


class Dialogue:
    """The state of one connection that decides which frame may come next."""

    def __init__(self) -> None:
        """Begin without a malformed frame."""
        self._malformed_at: list[int] = []  # of the last ones

    def receive(self, text: str, *, now_ms: int, has_greeted: bool) -> list[Command]:
        """Return the commands for one text frame that came at `now_ms`, in milliseconds.

        Before a connection `has_greeted`, only hello and data frames are allowed.
        """
        try:
            frame = decode_frame(text)
            _check_order(frame, has_greeted=has_greeted)
        except (InvalidFrame, InvalidInput, InvalidCursor) as error:
            return self.blame(error, now_ms=now_ms)
        return [Welcome() if isinstance(frame, Hello) else frame]

    def blame(
        self,
        error: IsolaneError,
        *,
        now_ms: int,
        thread_id: str | None = None,
        run_id: str | None = None,
    ) -> list[Command]:
        """Return the refusal of a malformed frame, and a close when there were too many lately."""
        refusal = Refuse(error, thread_id, run_id)
        self._malformed_at = [*self._malformed_at, now_ms][-MALFORMED_MAX:]
        oldest = self._malformed_at[0]
        too_many = len(self._malformed_at) == MALFORMED_MAX
        if too_many and now_ms - oldest <= MALFORMED_WINDOW_MS:
            return [refusal, HangUp("too many malformed frames")]
        return [refusal]


def _check_order(frame: ClientFrame, *, has_greeted: bool) -> None:
    if not (has_greeted or isinstance(frame, Hello | Run | Abort)):
        raise InvalidFrame("say hello first: control frames come after it")
