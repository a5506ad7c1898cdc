"""The bell of several nodes: PostgreSQL's NOTIFY tells the others that a log has grown.

Here a ring has the records, as with one node. The others hear only that there is something new, and
read the log. So nothing of a user passes the bell, and whoever rings it unasked costs a read.

NOTIFY stands beside the commits: in them it would make all commits of the server wait for one lock.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from queue import Empty, SimpleQueue
from typing import Final

import psycopg
import structlog

from isolane.context import ThreadKey
from isolane.engines.postgres.driver import Connection
from isolane.events.event import Record
from isolane.listeners import Listeners

CHANNEL: Final = "isolane"
APART_S: Final = 0.002
"""Seconds for which rings are collected, so that they share a journey to the server."""
AGAIN_S: Final = 0.25
"""Seconds between two tries while the server is away, and until a bell that closes hears no more.
"""
WAITING_MAX: Final = 10_000
"""Rings that wait at most, while the server is away. Other nodes' looks find the rest."""
_RING: Final = f"SELECT pg_notify('{CHANNEL}', told) FROM unnest(?::text[]) AS told"  # noqa: S608 - ours
_LISTEN: Final = f"LISTEN {CHANNEL}"

_log = structlog.get_logger(__name__)


def topic_of(key: ThreadKey) -> str:
    """Return the name of a thread on the bell, which says nothing of user and thread."""
    digest = blake2b(digest_size=12)
    for part in key:  # with its length, so that no two keys are one text
        data = part.encode()
        digest.update(len(data).to_bytes(4) + data)
    return digest.hexdigest()


class PostgresBell:
    """Calls the listeners of this node with records, and those of other nodes without any."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        """Open connections by `open_connection`: one that rings, and one that hears."""
        self._open_connection = open_connection
        self._listeners: Listeners[str, Sequence[Record]] = Listeners()
        self._own = secrets.token_hex(4)
        """Marks our own rings, which come back to us."""
        self._waiting: SimpleQueue[str] = SimpleQueue()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_deaf = True
        """Whether rings of other nodes don't reach this one. Looks into the logs find what is."""

    async def open(self) -> None:
        """Begin to ring and to hear. A server that is away is tried again; nobody waits for it."""
        self._loop = asyncio.get_running_loop()
        for work, name in ((self._ring_on, "isolane-ring"), (self._hear_on, "isolane-hear")):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    async def close(self) -> None:
        """Ring and hear no more."""
        self._ended.set()
        self._waiting.put("")  # wakes the thread that rings
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def ring(self, key: ThreadKey, records: Sequence[Record]) -> None:
        """Tell all listeners of `key`; see `Bell`."""
        topic = topic_of(key)
        self._listeners.call(topic, records)
        if self._waiting.qsize() < WAITING_MAX:
            self._waiting.put(topic)

    async def listen(
        self, key: ThreadKey, listener: Callable[[Sequence[Record]], None]
    ) -> Callable[[], None]:
        """Call `listener` at each ring from now on; see `Bell`."""
        return self._listeners.add(topic_of(key), listener)

    def _ring_on(self) -> None:
        connection: Connection | None = None
        topics: set[str] = set()
        while not self._ended.is_set():
            topics.add(self._waiting.get())
            time.sleep(APART_S)  # for others to join
            with suppress(Empty):
                while True:
                    topics.add(self._waiting.get_nowait())
            try:
                connection = connection or self._open_connection()
                connection.execute(_RING, ([f"{self._own}{topic}" for topic in topics],))
            except psycopg.Error:
                if connection is not None:
                    connection.close()
                connection = None
                self._ended.wait(AGAIN_S)
                self._waiting.put(topics.pop())  # so that all of them are tried again
            else:
                topics.clear()
        if connection is not None:
            connection.close()

    def _hear_on(self) -> None:
        while not self._ended.is_set():
            try:
                with self._open_connection() as connection:
                    connection.execute(_LISTEN)
                    self.is_deaf = False
                    while not self._ended.is_set():
                        for told in connection.notifies(timeout=AGAIN_S):
                            self._say(self._hear, told.payload)
            except psycopg.Error as error:
                if not self.is_deaf:
                    _log.warning("bell_deaf", reason=str(error).partition("\n")[0])
            self.is_deaf = True
            self._ended.wait(AGAIN_S)

    def _say(self, call: Callable[..., None], *values: object) -> None:
        """Let the event loop do it, as long as there is one."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *values)

    def _hear(self, told: str) -> None:
        size = len(self._own)
        if told[:size] == self._own:
            return
        self._listeners.call(told[size:], ())
