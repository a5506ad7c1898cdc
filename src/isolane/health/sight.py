"""Whether this process sees what others revoke. While it doesn't, it lets no record out."""

from __future__ import annotations

from time import monotonic
from typing import Final

from isolane.flag import Flag

BLIND_S: Final = 1.0
"""Seconds since the last whole look at the revocations began, after which a process is blind."""


class Sight:
    """When this process has looked last at what was revoked."""

    def __init__(self, *, is_needed: bool) -> None:
        """Begin as if it had just looked.

        Sight `is_needed` where other processes serve the same database. Elsewhere nobody is blind.
        """
        self._is_needed = is_needed
        self._seen_s = monotonic()
        self._seen = Flag()

    @property
    def is_blind(self) -> bool:
        """Say whether a revocation may have been missed for too long."""
        return self._is_needed and monotonic() - self._seen_s > BLIND_S

    def note(self, began_s: float) -> None:
        """Note a look that has ended and been obeyed; `began_s` is of the steady clock."""
        self._seen_s = max(self._seen_s, began_s)
        if not self.is_blind:
            self._seen.set()
            self._seen.clear()

    async def wait(self) -> None:
        """Return once the process isn't blind. Safe to cancel."""
        while self.is_blind:
            await self._seen.wait()
