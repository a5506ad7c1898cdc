"""PostgreSQL as a broker of rings: NOTIFY, beside the commits.

In them it would make all commits of the server wait for one lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import psycopg

from isolane.engines.postgres.driver import Connection

CHANNEL: Final = "isolane"
_RING: Final = f"SELECT pg_notify('{CHANNEL}', told) FROM unnest(?::text[]) AS told"  # noqa: S608 - ours


class PostgresBroker:
    """Rings by NOTIFY, and hears by LISTEN; see `Broker`."""

    failures: tuple[type[Exception], ...] = (psycopg.Error,)
    echo_s = 1.0

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        """Open connections by `open_connection`. They go to the server itself, past any pooler."""
        self._open_connection = open_connection

    def open(self) -> _Line:
        """Connect; see `Broker`."""
        return _Line(self._open_connection())


class _Line:
    """A connection to the server; see `Line`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ring(self, messages: Sequence[str]) -> None:
        """Send messages, all in one journey; see `Line`."""
        self._connection.execute(_RING, (list(messages),))

    def listen(self) -> None:
        """Have the messages come from now on; see `Line`."""
        self._connection.execute(f"LISTEN {CHANNEL}")

    def hear(self, timeout_s: float) -> Iterable[str]:
        """Yield what comes; see `Line`."""
        for told in self._connection.notifies(timeout=timeout_s):
            yield told.payload

    def close(self) -> None:
        """End the connection; see `Line`."""
        self._connection.close()
