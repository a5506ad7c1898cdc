"""Runs that are remembered for a short while by their ids: those whose abort overtook them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from isolane.clock import Clock
from isolane.context import RunKey

REMEMBERED_MS: Final = 10_000
REMEMBERED_PER_USER: Final = 100


class RecentRuns:
    """Remembers ids of runs for 10 s, 100 a user."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._at: OrderedDict[RunKey, int] = OrderedDict()
        self._of: dict[str, OrderedDict[RunKey, None]] = {}

    def remember(self, key: RunKey) -> None:
        """Keep an id; the user's oldest goes when there are too many."""
        self._forget_old()
        self._remove(key)
        own = self._of.setdefault(key.user_id, OrderedDict())
        own[key] = None
        self._at[key] = self._clock()
        if len(own) > REMEMBERED_PER_USER:
            self._remove(next(iter(own)))

    def __contains__(self, key: RunKey) -> bool:
        """Tell whether an id is remembered."""
        self._forget_old()
        return key in self._at

    def take(self, key: RunKey) -> int | None:
        """Forget an id; return for how many milliseconds it was kept, None when it wasn't."""
        self._forget_old()
        at = self._remove(key)
        return None if at is None else self._clock() - at

    def _forget_old(self) -> None:
        oldest_kept = self._clock() - REMEMBERED_MS
        while self._at and next(iter(self._at.values())) < oldest_kept:
            self._remove(next(iter(self._at)))

    def _remove(self, key: RunKey) -> int | None:
        """Forget an id; return since when it was kept, None when it wasn't."""
        at = self._at.pop(key, None)
        if at is None:
            return None
        own = self._of[key.user_id]
        del own[key]
        if not own:
            del self._of[key.user_id]
        return at
