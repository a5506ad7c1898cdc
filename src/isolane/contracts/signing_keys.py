"""The contract of the signing keys: which one signs, which ones count, and for how long."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol, runtime_checkable

_ID_CHARACTERS: Final = 16
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One secret; `last_expiry_s` is the expiry of the last token that it signed.

    The expiry is in seconds since 1970, and 0 for a key that signed nothing.
    """

    secret: str = field(repr=False)
    last_expiry_s: int = 0

    @property
    def id(self) -> str:
        """Name of the key in tokens: a hash from which nobody can derive the secret."""
        return sha256(b"isolane key id:" + self.secret.encode()).hexdigest()[:_ID_CHARACTERS]


@runtime_checkable
class SigningKeys(Protocol):
    """The keys of the local issuer. The newest signs; older ones live as long as their tokens.

    All processes of a deployment share the keys, and there is always one. Cancelling a method that
    writes doesn't undo the write.

    Raises:
        Unavailable: The keys can't be reached. Every method may raise it.
    """

    async def load(self) -> Sequence[SigningKey]:
        """Return the keys that count now, the newest first.

        A key that another process has made or dropped is seen, too. Keys that can't be read now
        stay as they were, because otherwise everybody would be signed out. Safe to cancel.
        """
        ...

    async def take(self, expiry_s: int) -> SigningKey:
        """Return the newest key, once it is written that its token lives until `expiry_s`.

        `expiry_s` is in seconds since 1970. An earlier one than before changes nothing.
        """
        ...

    async def rotate(self, *, now_s: int, forget: bool = False) -> None:
        """Sign with a new key from now on, and drop the keys whose last token has expired.

        `now_s` is in seconds since 1970. With `forget` all older keys are dropped, and their tokens
        are invalid.
        """
        ...


def new_key() -> SigningKey:
    """Return a random key."""
    return SigningKey(secrets.token_urlsafe(_KEY_BYTES))


def rotated(keys: Sequence[SigningKey], *, now_s: int, forget: bool) -> list[SigningKey]:
    """Return the keys after a rotation to a new one."""
    return [new_key(), *(key for key in keys if key.last_expiry_s > now_s and not forget)]


def taken(key: SigningKey, expiry_s: int) -> SigningKey:
    """Return a key after it signed a token that lives until `expiry_s`."""
    return SigningKey(key.secret, max(expiry_s, key.last_expiry_s))
