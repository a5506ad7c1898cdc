"""The bell of one process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from isolane.context import ThreadKey
from isolane.events.event import Record

Listener = Callable[[Sequence[Record]], None]


class LocalBell:
    """Calls listeners directly. Nothing is kept, so nothing can grow."""

    def __init__(self) -> None:
        """Begin without listeners."""
        self._listeners: defaultdict[ThreadKey, set[Listener]] = defaultdict(set)

    def ring(self, key: ThreadKey, records: Sequence[Record]) -> None:
        """Tell all listeners of `key`."""
        for listener in tuple(self._listeners.get(key, ())):
            listener(records)

    async def listen(self, key: ThreadKey, listener: Listener) -> Callable[[], None]:
        """Call `listener` at each ring from now on; return the function that ends it."""
        self._listeners[key].add(listener)

        def hang_up() -> None:
            listeners = self._listeners.get(key, set())
            listeners.discard(listener)
            if not listeners:
                self._listeners.pop(key, None)

        return hang_up
