"""Signing keys of one process: a key of the settings, or keys that end with the process."""

from __future__ import annotations

from collections.abc import Sequence

from isolane.contracts.signing_keys import SigningKey, new_key, rotated, taken


class LocalSigningKeys:
    """Signing keys in the memory of one process. No method waits."""

    def __init__(self, *keys: SigningKey) -> None:
        """Begin with `keys`, the newest first; without any, with a new key."""
        self._keys = keys or (new_key(),)

    async def load(self) -> Sequence[SigningKey]:
        """Return the keys; see `SigningKeys.load`."""
        return self._keys

    async def take(self, expiry_s: int) -> SigningKey:
        """Return the newest key; see `SigningKeys.take`."""
        newest, *older = self._keys
        self._keys = (taken(newest, expiry_s), *older)
        return self._keys[0]

    async def rotate(self, *, now_s: int, forget: bool = False) -> None:
        """Sign with a new key from now on; see `SigningKeys.rotate`."""
        self._keys = tuple(rotated(self._keys, now_s=now_s, forget=forget))
