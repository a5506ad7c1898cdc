"""The search for the highest rate that a server can carry. Pure."""

from __future__ import annotations

from typing import Final

RATES: Final = tuple(
    decade * step
    for decade in (10, 100, 1000)
    for step in (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
)
"""Events per second of a connection; each step adds about a quarter."""


class Climb:
    """Up in strides until a rate is missed, then back in halves.

    A rate is held when it was held in two windows before it was missed in two: a neighbour on the
    machine can spoil a window, but nothing makes one better than the server is.
    """

    def __init__(self, *, stride: int, needed: int) -> None:
        """Go `stride` steps at a time; `needed` windows of one kind decide about a rate."""
        self._stride = stride
        self._needed = needed
        self._held = -1
        self._missed = len(RATES)
        self._votes = {True: 0, False: 0}

    @property
    def is_done(self) -> bool:
        """Say whether the highest rate is known."""
        return self._missed - self._held == 1

    @property
    def highest(self) -> float:
        """The highest rate that was held so far; 0 when there was none."""
        return RATES[self._held] if self._held >= 0 else 0.0

    @property
    def rate(self) -> float:
        """The rate to try next."""
        return RATES[self._place]

    @property
    def _place(self) -> int:
        if self._missed == len(RATES):
            return min(self._held + self._stride, len(RATES) - 1)
        return (self._held + self._missed) // 2

    def vote(self, *, is_held: bool) -> None:
        """Take in what a window at `rate` showed."""
        self._votes[is_held] += 1
        if self._votes[is_held] < self._needed:
            return
        self._votes = {True: 0, False: 0}
        if is_held:
            self._held = self._place
        else:
            self._missed = self._place
