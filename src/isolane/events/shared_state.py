"""AG-UI's shared state of a thread: its last snapshot, and the deltas since.

A delta that doesn't fit changes nothing, as in `@ag-ui/client`: what is kept is what clients show.
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
"""How much larger than allowed a state may become while a delta is applied."""
MEASURES_MAX: Final = 8
"""How often the state is measured on the way. Each time costs as much as writing it down."""


def is_sent(state: object) -> bool:
    """Say whether a run brings a state. Null and `{}` are none: clients without one send `{}`."""
    return state is not None and state != {}


def encode_state(state: object) -> bytes:
    """Return `state` as JSON in UTF-8; raises `ValueError` and `RecursionError`."""
    return json.dumps(state, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def decode_state(payload: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the state that `encode_state` wrote down."""
    return json.loads(payload)


@dataclass(frozen=True, slots=True)
class SharedState:
    """A thread's state while a run goes on. `size` is the most that it can have, in bytes."""

    value: Any
    size: int
    is_changed: bool = False
    """Whether it may be another than the thread had before the run."""
    is_untold: bool = False
    """Whether the run's client doesn't know it: it sent none, and no event of the run told it."""

    @classmethod
    def of(cls, sent: object, *, kept: object) -> SharedState:
        """Return the state that a run begins with: what it sent, else what its thread has kept.

        Its size isn't known then; it is measured when that matters.
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
        """Return what is kept of it, as JSON; None when the run left it as it was.

        None as well when nobody could read it: it is nested too deep then.
        """
        try:
            return encode_state(self.value) if self.is_changed else None
        except (ValueError, RecursionError) as error:
            _log.warning("state_not_kept", reason=str(error))
            return None

    def after(self, event: Mapping[str, Any], *, size: int, max_bytes: int) -> SharedState:
        """Return the state after `event`, which has `size` bytes as JSON.

        Raises `EventTooLarge` when a delta makes it larger than `max_bytes`.
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
            # A copy may double the state, and a few in a row make gigabytes of a few bytes.
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
