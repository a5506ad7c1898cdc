"""Who is to be called for which key."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Listeners(Generic[K, V]):
    """Plain functions by key. Nothing is kept of a key that nobody listens to."""

    def __init__(self) -> None:
        """Begin without listeners."""
        self._listeners: dict[K, set[Callable[[V], None]]] = {}

    def __bool__(self) -> bool:
        """Say whether anybody listens."""
        return bool(self._listeners)

    def call(self, key: K, value: V) -> None:
        """Call all listeners of `key`; they may come and go meanwhile."""
        for listener in tuple(self._listeners.get(key, ())):
            listener(value)

    def add(self, key: K, listener: Callable[[V], None]) -> Callable[[], None]:
        """Call `listener` from now on; return the function that ends that, which is idempotent."""
        self._listeners.setdefault(key, set()).add(listener)

        def hang_up() -> None:
            listeners = self._listeners.get(key, set())
            listeners.discard(listener)
            if not listeners:
                self._listeners.pop(key, None)

        return hang_up
