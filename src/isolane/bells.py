"""The bell of several nodes: a broker tells the others that a log has grown.

Here a ring has the records, as with one node. The others hear only that there is something new, and
read the log. So nothing of a user passes the broker, and whoever rings unasked costs a read. What a
thread is called there is made with the nodes' common key: who hears can't tell whose it is.

A bell hears its own rings, too. When they don't come back it is deaf, whatever its connection says.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import structlog

from isolane.context import ThreadKey
from isolane.events.event import Record
from isolane.listeners import Listeners

APART_S: Final = 0.002
"""Seconds for which rings are collected, so that they share a message."""
AGAIN_S: Final = 0.25
"""Seconds between two tries while the broker is away, and until a bell that closes hears no more.
"""
STALE_S: Final = 3.0
"""Seconds without a message, not even its own, after which a bell connects anew."""
WAITING_MAX: Final = 10_000
"""Rings that wait at most, while the broker is away. Other nodes' looks find the rest."""
TOPICS_MAX: Final = 256
"""Topics in a message. PostgreSQL takes 8,000 bytes, and each topic has 25."""

_log = structlog.get_logger(__name__)


class Line(Protocol):
    """A connection to the broker."""

    def ring(self, messages: Sequence[str]) -> None:
        """Send messages to all nodes, this one included."""
        ...

    def listen(self) -> None:
        """Have the messages come from now on."""
        ...

    def hear(self, timeout_s: float) -> Iterable[str]:
        """Yield the messages that come, for about `timeout_s` seconds."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class Broker(Protocol):
    """What carries rings. Its lines are used in threads of their own: one rings, one hears."""

    failures: tuple[type[Exception], ...]
    """Errors of a broker that is away."""
    echo_s: float
    """Seconds between two rings that a bell rings for itself, to know that it hears."""

    def open(self) -> Line:
        """Connect."""
        ...


class BrokerBell:
    """Calls the listeners of this node with records, and those of other nodes without any."""

    def __init__(self, broker: Broker, *, key: bytes) -> None:
        """Ring by `broker`. All nodes have the same `key`, and nobody else has it."""
        self._broker = broker
        self._key = key
        self._listeners: Listeners[str, Sequence[Record]] = Listeners()
        self._own = secrets.token_hex(4)
        """Marks our own rings, which come back to us."""
        self._waiting: SimpleQueue[str] = SimpleQueue()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard_s = float("-inf")
        """When our own rings came back last, by the steady clock."""
        self._is_told = False
        """Whether the log has that the broker is away."""

    @property
    def is_deaf(self) -> bool:
        """Say whether rings may not reach this node; see `Bell`."""
        return time.monotonic() - self._heard_s > 2 * self._broker.echo_s

    async def open(self) -> None:
        """Begin to ring and to hear. A broker that is away is tried again; nobody waits for it."""
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
        topic = self._topic_of(key)
        self._listeners.call(topic, records)
        if self._waiting.qsize() < WAITING_MAX:
            self._waiting.put(topic)

    async def listen(
        self, key: ThreadKey, listener: Callable[[Sequence[Record]], None]
    ) -> Callable[[], None]:
        """Call `listener` at each ring from now on; see `Bell`."""
        return self._listeners.add(self._topic_of(key), listener)

    def _topic_of(self, key: ThreadKey) -> str:
        digest = blake2b(digest_size=12, key=self._key)
        for part in key:  # with its length, so that no two keys are one text
            data = part.encode()
            digest.update(len(data).to_bytes(4) + data)
        return digest.hexdigest()

    def _ring_on(self) -> None:
        line: Line | None = None
        topics: set[str] = set()
        while not self._ended.is_set():
            topics |= self._collect()
            try:
                line = line or self._broker.open()
                line.ring(list(self._to_messages(topics)))
            except self._broker.failures:
                _close(line)
                line = None
                self._ended.wait(AGAIN_S)
            else:
                topics.clear()
        _close(line)

    def _collect(self) -> set[str]:
        """Return the topics that are rung within a moment; none when it is time for an echo."""
        topics: set[str] = set()
        with suppress(Empty):
            topics.add(self._waiting.get(timeout=self._broker.echo_s))
            time.sleep(APART_S)  # for others to join
            while True:
                topics.add(self._waiting.get_nowait())
        return topics - {""}

    def _to_messages(self, topics: Iterable[str]) -> Iterator[str]:
        """Yield the messages that ring for topics; without any it is one that says nothing."""
        rest = list(topics)
        while True:
            yield " ".join([self._own, *rest[:TOPICS_MAX]])
            rest = rest[TOPICS_MAX:]
            if not rest:
                return

    def _hear_on(self) -> None:
        while not self._ended.is_set():
            line: Line | None = None
            try:
                line = self._broker.open()
                self._hear_line(line)
            except self._broker.failures as error:
                self._heard_s = float("-inf")
                if not self._is_told:
                    _log.warning("bell_deaf", reason=str(error).partition("\n")[0])
                self._is_told = True
            _close(line)
            self._ended.wait(AGAIN_S)

    def _hear_line(self, line: Line) -> None:
        """Hear until the bell closes, or until nothing has come for so long that it is dead."""
        line.listen()
        self._waiting.put("")  # an echo says at once whether it hears
        came_s = time.monotonic()
        while not self._ended.is_set() and time.monotonic() - came_s < STALE_S:
            for message in line.hear(AGAIN_S):
                came_s = time.monotonic()
                own, *topics = message.split(" ")
                if own == self._own:
                    self._heard_s = came_s
                    self._is_told = False
                else:
                    self._say(topics)

    def _say(self, topics: Sequence[str]) -> None:
        """Let the event loop call the listeners, as long as there is one."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hear, topics)

    def _hear(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self._listeners.call(topic, ())


def _close(line: Line | None) -> None:
    if line is not None:
        with suppress(Exception):  # a broker that is away can't be told
            line.close()
