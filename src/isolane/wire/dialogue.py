"""The conversation of one connection: a frame in, commands out. Pure: no await, no socket.

The door carries the commands out. What a connection may say, and when it has said too much
nonsense, is decided here and nowhere else.
"""

from __future__ import annotations

from collections import deque
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
MALFORMED_WINDOW_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer hello."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the client why its frame was not done."""

    error: IsolaneError
    thread_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close: the client speaks too much nonsense."""

    reason: str
    code: int = 1008


Command = Welcome | Refuse | HangUp | ClientFrame


class Dialogue:
    """What one connection has said so far, as far as it matters for what it may say next."""

    def __init__(self) -> None:
        """Begin before hello: data frames only."""
        self.has_greeted = False
        self._malformed_at: deque[int] = deque(maxlen=MALFORMED_MAX)

    def receive(self, text: str, *, now_ms: int) -> list[Command]:
        """Return what is to be done for one text frame that came at `now_ms`."""
        try:
            frame = decode_frame(text)
            self._check_order(frame)
        except (InvalidFrame, InvalidInput, InvalidCursor) as error:
            return self.blame(error, now_ms=now_ms)
        if isinstance(frame, Hello):
            self.has_greeted = True
            return [Welcome()]
        return [frame]

    def blame(
        self,
        error: IsolaneError,
        *,
        now_ms: int,
        thread_id: str | None = None,
        run_id: str | None = None,
    ) -> list[Command]:
        """Return the refusal of a malformed frame, and the end when there were too many lately."""
        refusal = Refuse(error, thread_id, run_id)
        self._malformed_at.append(now_ms)
        oldest = self._malformed_at[0]
        too_many = len(self._malformed_at) == MALFORMED_MAX
        if too_many and now_ms - oldest <= MALFORMED_WINDOW_MS:
            return [refusal, HangUp("too many malformed frames")]
        return [refusal]

    def _check_order(self, frame: ClientFrame) -> None:
        if self.has_greeted or isinstance(frame, Hello | Run | Abort):
            return
        raise InvalidFrame("say hello first: control frames come after it")
