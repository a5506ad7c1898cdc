"""The bell of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from isolane.context import ThreadKey
from isolane.events.event import Record
from isolane.listeners import Listeners


class LocalBell:
    """Calls listeners directly. Nothing is kept, so nothing can grow."""

    is_deaf = False

    def __init__(self) -> None:
        """Begin without listeners."""
        self._listeners: Listeners[ThreadKey, Sequence[Record]] = Listeners()

    def ring(self, key: ThreadKey, records: Sequence[Record]) -> None:
        """Tell all listeners of `key`."""
        self._listeners.call(key, records)

    async def listen(
        self, key: ThreadKey, listener: Callable[[Sequence[Record]], None]
    ) -> Callable[[], None]:
        """Call `listener` at each ring from now on; return the function that ends it."""
        return self._listeners.add(key, listener)
