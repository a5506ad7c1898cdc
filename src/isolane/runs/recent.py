"""Ids of runs that were deleted a moment ago: an abort of one comes too late."""

from __future__ import annotations

from typing import Final

from isolane.clock import Clock
from isolane.context import RunKey
from isolane.expiry import ExpiringDict

REMEMBERED_MS: Final = 10_000
REMEMBERED_PER_USER: Final = 100


class RecentRuns:
    """Remembers ids of runs for 10 s, 100 per user."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        # By user, and in each by run. A user is kept for as long as the youngest of their runs.
        self._users: ExpiringDict[str, ExpiringDict[str, RunKey]] = ExpiringDict(
            REMEMBERED_MS, clock=clock
        )

    def remember(self, key: RunKey) -> None:
        """Keep an id; the user's oldest goes when there are too many."""
        own = self._users.get(key.user_id)
        if own is None:
            own = ExpiringDict(REMEMBERED_MS, clock=self._clock)
        self._users.put(key.user_id, own)
        own.put(key.run_id, key)
        if len(own) > REMEMBERED_PER_USER:
            own.remove_oldest()

    def __len__(self) -> int:
        """Return how many users have runs that are remembered."""
        return len(self._users)

    def __contains__(self, key: RunKey) -> bool:
        """Tell whether an id is remembered."""
        own = self._users.get(key.user_id)
        return own is not None and key.run_id in own
