"""A cache of a provider's public keys, its JWKS: fetched rarely and by one task at a time.

Senders of tokens choose the key ids. So an unknown key id must not make the gateway call out each
time. Known keys go on working while the provider is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import jwt
import structlog

from isolane.clock import Clock
from isolane.errors import InvalidFrame, Unauthenticated, Unavailable, traceback_of
from isolane.wire.frames import decode_object

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
FETCH_INTERVAL_MS: Final = 30_000
"""Minimum milliseconds between two fetches, whatever key ids arrive."""
REFRESH_MS: Final = 15 * 60_000
"""Age in milliseconds after which keys are fetched again while they are in use. It bounds the time
for which a withdrawn key works."""
KEYS_MAX: Final = 100
"""Maximum number of keys of a provider."""
DOCUMENT_MAX_BYTES: Final = 256 << 10
"""Maximum bytes of the JWKS document."""
RSA_BITS_MIN: Final = 2048
"""Minimum bits of an RSA key (RFC 7518, 3.3)."""

Fetch = Callable[[], Awaitable[bytes]]
"""Returns the JWKS document; raises `Unavailable`."""

_log = structlog.get_logger(__name__)


class KeyCache:
    """The public keys of one provider."""

    def __init__(self, fetch: Fetch, *, clock: Clock, interval_ms: int = FETCH_INTERVAL_MS) -> None:
        """Begin without keys; the first token starts the first fetch."""
        self._fetch = fetch
        self._clock = clock
        self._interval_ms = interval_ms
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at: int | None = None
        self._tried_at: int | None = None
        self._is_down = False
        self._fetching: asyncio.Task[None] | None = None
        self.fetches = 0
        """Count of fetches from the provider."""

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK:
        """Return the key that a token names; a token may name none when there is only one key.

        The method is safe to cancel, because others may wait for the same fetch.

        Raises:
            Unauthenticated: The provider has no such key.
            Unavailable: The provider doesn't answer.
        """
        if algorithm not in ALGORITHMS:
            raise Unauthenticated("invalid", "the token is signed in a way that is not allowed")
        key = self._keys.get(key_id)
        if key is None and self._may_fetch():
            await asyncio.shield(self._start())
            key = self._keys.get(key_id)
        elif key is None and self._fetching is not None:
            await asyncio.shield(self._fetching)
            key = self._keys.get(key_id)
        elif self._is_old() and self._may_fetch():
            _ = self._start()  # fetched in the background, while the known key serves
        if key is None and self._is_down:
            raise Unavailable("the issuer's keys can't be had now")
        if key is None or key.algorithm_name != algorithm:
            raise Unauthenticated("invalid", "the issuer has no such key for that algorithm")
        return key

    async def close(self) -> None:
        """Cancel a running fetch."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _may_fetch(self) -> bool:
        if self._fetching is not None:
            return False
        return self._has_passed(self._interval_ms, self._tried_at)

    def _is_old(self) -> bool:
        return self._has_passed(REFRESH_MS, self._fetched_at)

    def _has_passed(self, interval_ms: int, since: int | None) -> bool:
        """Say whether the interval has passed.

        A start in the future means that the clock was set back.
        """
        return since is None or not 0 <= self._clock() - since < interval_ms

    def _start(self) -> asyncio.Task[None]:
        self._tried_at = self._clock()
        self.fetches += 1
        self._fetching = asyncio.get_running_loop().create_task(self._refresh(), name="keys")
        self._fetching.add_done_callback(self._settle)
        return self._fetching

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("provider_keys_refresh_failed", exception=traceback_of(error))

    async def _refresh(self) -> None:
        try:
            self._keys = _read_keys(await self._fetch())
        except (Unavailable, InvalidFrame) as error:
            self._is_down = True
            _log.warning("provider_keys_fetch_failed", reason=str(error), known=len(self._keys))
        else:
            self._is_down = False
            self._fetched_at = self._clock()


def _read_keys(document: bytes) -> dict[str | None, jwt.PyJWK]:
    """Return the usable keys by id; a single key also serves tokens without a key id."""
    if len(document) > DOCUMENT_MAX_BYTES:
        raise InvalidFrame(f"the keys are more than {DOCUMENT_MAX_BYTES} bytes")
    listed = decode_object(document).get("keys")
    if not isinstance(listed, list):
        raise InvalidFrame("the document has no list of keys")
    keys: dict[str | None, jwt.PyJWK] = {}
    for entry in listed[:KEYS_MAX]:
        key = _read_key(entry)
        if key is not None:
            keys[key.key_id] = key
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    return keys


def _is_for_signatures(entry: dict[str, Any]) -> bool:
    """Say whether a key is public, has a valid id, and is for signatures (RFC 7517, 4)."""
    is_public = "d" not in entry and isinstance(entry.get("kid", ""), str)
    operations = entry.get("key_ops", ["verify"])
    return (
        is_public
        and entry.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _read_key(entry: Any) -> jwt.PyJWK | None:  # noqa: ANN401 - any JSON value of a provider
    """Return one key, or None when it isn't for signatures of an allowed algorithm."""
    if not isinstance(entry, dict) or not _is_for_signatures(entry):
        return None
    try:
        key = jwt.PyJWK(entry)
    except Exception:  # noqa: BLE001 - one broken key must not hide the others
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    if key.algorithm_name == "RS256" and key.key.key_size < RSA_BITS_MIN:
        return None
    return key
