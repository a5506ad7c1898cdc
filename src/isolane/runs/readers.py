"""The requests that read runs over HTTP, and what becomes of a run that they leave."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from isolane.context import ThreadKey

UNREAD_S: Final = 2.0
"""Seconds in which a reader may come back, for example after a lost connection."""


class OnDisconnect(StrEnum):
    """What becomes of a run that was asked over HTTP and has no reader."""

    CONTINUE = "continue"
    STOP = "stop"


@dataclass(eq=False, slots=True)
class HttpReader:
    """A request that reads a thread's events."""

    key: ThreadKey
    run_id: str | None
    """The one run that it reads; None for the whole thread."""

    def reads(self, run_id: str) -> bool:
        """Say whether it reads that run of its thread."""
        return self.run_id in {None, run_id}


class Readers:
    """The requests that read events now."""

    def __init__(self) -> None:
        """Begin with none."""
        self._of: dict[ThreadKey, set[HttpReader]] = {}

    def enter(self, key: ThreadKey, run_id: str | None) -> HttpReader:
        """Count a request until it leaves."""
        reader = HttpReader(key, run_id)
        self._of.setdefault(key, set()).add(reader)
        return reader

    def leave(self, reader: HttpReader) -> bool:
        """Stop counting a request. Return False when it had left before."""
        own = self._of.get(reader.key, set())
        if reader not in own:
            return False
        own.discard(reader)
        if not own:
            self._of.pop(reader.key, None)
        return True

    def has_reader(self, key: ThreadKey, run_id: str) -> bool:
        """Say whether a request reads that run."""
        return any(reader.reads(run_id) for reader in self._of.get(key, ()))
