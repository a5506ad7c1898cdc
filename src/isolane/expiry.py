"""A dictionary that forgets each entry a fixed time after it was put there. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from isolane.clock import Clock

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class ExpiringDict(Generic[_K, _V]):
    """Values by key, each for `lifetime_ms` milliseconds after it was put.

    Every method costs the same however many entries there are, apart from those that it forgets.
    """

    def __init__(self, lifetime_ms: int, *, clock: Clock) -> None:
        """Begin empty. Nobody may set `clock` back, because the oldest entry is forgotten first."""
        self._lifetime_ms = lifetime_ms
        self._clock = clock
        self._entries: OrderedDict[_K, tuple[int, _V]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many entries are kept."""
        self._forget()
        return len(self._entries)

    def __contains__(self, key: _K) -> bool:
        """Say whether `key` is kept."""
        return self.get(key) is not None

    def get(self, key: _K) -> _V | None:
        """Return the value of `key`, None when there is none."""
        self._forget()
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    def put(self, key: _K, value: _V) -> None:
        """Keep `value` from now on. It is the youngest entry, also where `key` was kept before."""
        self._forget()
        self._entries[key] = self._clock(), value
        self._entries.move_to_end(key)

    def remove_oldest(self) -> None:
        """Remove the entry that was put longest ago.

        Raises:
            KeyError: There is no entry.
        """
        self._entries.popitem(last=False)

    def _forget(self) -> None:
        oldest_kept = self._clock() - self._lifetime_ms
        while self._entries:
            key, (put_at, _) = next(iter(self._entries.items()))
            if put_at >= oldest_kept:
                return
            del self._entries[key]
