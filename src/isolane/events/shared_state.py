"""AG-UI's shared state of a thread: its last snapshot and the deltas after it.

A delta that doesn't fit changes nothing, as in `@ag-ui/client`. So the stored state is what clients
show.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from isolane.errors import EventTooLarge
from isolane.events.patch import PatchError, patched

SNAPSHOT: Final = "STATE_SNAPSHOT"
DELTA: Final = "STATE_DELTA"
_log = structlog.get_logger(__name__)

ROOM: Final = 4
"""Factor by which a state may exceed its limit while a delta is applied."""
MEASURES_MAX: Final = 8
"""Maximum number of measurements of the state during one delta; each costs as much as encoding
it."""


def is_sent(state: object) -> bool:
    """Say whether a run brings a state.

    Null and `{}` are none, because clients without one send `{}`.
    """
    return state is not None and state != {}


def encode_state(state: object) -> bytes:
    """Return `state` as JSON in UTF-8.

    Raises:
        ValueError: JSON can't express the state.
        RecursionError: The state is nested too deep.
    """
    return json.dumps(state, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def decode_state(payload: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the state that `encode_state` encoded."""
    return json.loads(payload)


@dataclass(frozen=True, slots=True)
class SharedState:
    """A thread's state during a run. `size` is an upper bound in bytes."""

    value: Any
    size: int
    is_changed: bool = False
    """True when the state may differ from the thread's state before the run."""
    is_untold: bool = False
    """True when the run's client doesn't know the state: neither it nor an event has told it."""

    @classmethod
    def of(cls, sent: object, *, kept: object) -> SharedState:
        """Return the state at a run's start: the run's own, else the thread's.

        Its size is measured only when a delta needs it.
        """
        if is_sent(sent):
            return cls(sent, sys.maxsize, is_changed=True)
        if is_sent(kept):
            return cls(kept, sys.maxsize, is_untold=True)
        return cls({}, 0)

    def to_snapshot(self) -> dict[str, Any]:
        """Return the event that tells the state."""
        return {"type": SNAPSHOT, "snapshot": self.value}

    def to_payload(self) -> bytes | None:
        """Return the state as JSON for the store; None when the run didn't change it.

        The result is also None when the state is nested so deep that nobody could read it.
        """
        try:
            return encode_state(self.value) if self.is_changed else None
        except (ValueError, RecursionError) as error:
            _log.warning("state_not_kept", reason=str(error))
            return None

    def after(self, event: Mapping[str, Any], *, size: int, max_bytes: int) -> SharedState:
        """Return the state after `event`, whose JSON has `size` bytes.

        Raises:
            EventTooLarge: A delta makes the state larger than `max_bytes`.
        """
        if event["type"] == SNAPSHOT:
            return SharedState(event["snapshot"], size, is_changed=True)
        if event["type"] != DELTA:
            return self
        try:
            return self._patched(event["delta"], size, max_bytes)
        except (PatchError, RecursionError):
            return self

    def _patched(
        self, delta: Sequence[Mapping[str, Any]], size: int, max_bytes: int
    ) -> SharedState:
        value, most, measures = self.value, self.size + size, 0
        for step in delta:
            value = patched(value, [step])
            # One copy operation may double the state, so a few in a row make gigabytes of a few
            # bytes.
            most = most * 2 if step["op"] == "copy" else most
            if most > ROOM * max_bytes:
                measures += 1
                most = len(encode_state(value)) + size
                _check(most, ROOM * max_bytes, is_over=measures > MEASURES_MAX)
        if most > max_bytes:
            most = len(encode_state(value))
            _check(most, max_bytes)
        return SharedState(value, most, is_changed=True)


def _check(size: int, most: int, *, is_over: bool = False) -> None:
    if is_over or size > most:
        raise EventTooLarge("the state after STATE_DELTA", size, most)
