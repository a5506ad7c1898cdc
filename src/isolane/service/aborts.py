"""Aborts that overtook their runs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from isolane.clock import Clock
from isolane.context import RunKey

REMEMBERED_MS: Final = 10_000
REMEMBERED_PER_USER: Final = 100


class EarlyAborts:
    """Remembers for 10 s, 100 a user, which runs were stopped before they came."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._at: OrderedDict[RunKey, int] = OrderedDict()

    def remember(self, key: RunKey) -> None:
        """Keep an abort; the user's oldest goes when there are too many."""
        self._forget_old()
        self._at.pop(key, None)
        own = [other for other in self._at if other.user_id == key.user_id]
        if len(own) >= REMEMBERED_PER_USER:
            del self._at[own[0]]
        self._at[key] = self._clock()

    def take(self, key: RunKey) -> bool:
        """Say whether the run was stopped before it came, and forget it."""
        self._forget_old()
        return self._at.pop(key, None) is not None

    def _forget_old(self) -> None:
        oldest_kept = self._clock() - REMEMBERED_MS
        while self._at and next(iter(self._at.values())) < oldest_kept:
            self._at.popitem(last=False)
