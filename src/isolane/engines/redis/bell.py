"""Redis or Valkey as a broker of rings: published on one channel, and never stored."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import redis

from isolane.errors import DatabaseFailed

ANSWER_S: Final = 2.0
"""Seconds after which a server that doesn't answer is down."""


class RedisBroker:
    """Rings by PUBLISH, and hears by SUBSCRIBE; see `Broker`."""

    failures: tuple[type[Exception], ...] = (redis.RedisError, OSError)
    echo_s = 0.25

    def __init__(self, url: str, *, key: bytes) -> None:
        """Connect to the server at `url`. The name of the channel is made with `key`."""
        self._url = url
        self._channel = f"isolane:{blake2b(key=key, digest_size=12).hexdigest()}"

    def open(self) -> _Line:
        """Connect; see `Broker`."""
        client = redis.Redis.from_url(
            self._url,
            decode_responses=True,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            client_name="isolane",
        )
        return _Line(client, self._channel)

    def check(self) -> None:
        """Check that the server answers, and lets us ring.

        Raises:
            DatabaseFailed: It doesn't; the text says why, without the address and its password.
        """
        try:
            line = self.open()
            try:
                line.ring([""])
            finally:
                line.close()
        except (redis.RedisError, OSError, ValueError) as error:
            said = str(error).partition("\n")[0]
            raise DatabaseFailed(
                f"ISOLANE_BELL_URL names a Redis server that can't be used: {said}"
            ) from error


class _Line:
    """A connection to the server; see `Line`."""

    def __init__(self, client: redis.Redis, channel: str) -> None:
        self._client: Any = client
        self._channel = channel
        self._heard: Any = None
        """What is subscribed to."""

    def ring(self, messages: Sequence[str]) -> None:
        """Send messages, all in one journey; see `Line`."""
        with self._client.pipeline(transaction=False) as pipe:
            for message in messages:
                pipe.publish(self._channel, message)
            pipe.execute()

    def listen(self) -> None:
        """Have the messages come from now on; see `Line`."""
        self._heard = self._client.pubsub(ignore_subscribe_messages=True)
        self._heard.subscribe(self._channel)

    def hear(self, timeout_s: float) -> Iterable[str]:
        """Yield what comes; see `Line`."""
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self._heard.get_message(timeout=left_s)
            if message is not None:
                yield message["data"]

    def close(self) -> None:
        """End the connection; see `Line`."""
        if self._heard is not None:
            self._heard.close()
        self._client.close()
