"""Signing keys of the local issuer. The newest signs; older ones live as long as their tokens.

Each line of the file is a key, the newest first. After the key comes the expiry of its last token,
in seconds since 1970.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

import structlog

from isolane.settings import InvalidSettings

KEY_BYTES: Final = 32
"""Random bytes of a new key."""
_ID_CHARACTERS: Final = 16
_LINE: Final = re.compile(r"([!-~]+)(?: (\d{1,12}))?")
_UNKNOWN_S: Final = 253_402_300_799
"""Expiry for a key without one in the file, because a person added the key: the year 9999."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One secret; `last_expiry_s` is the expiry of the last token that it signed."""

    secret: str = field(repr=False)
    last_expiry_s: int = 0

    @property
    def id(self) -> str:
        """Name of the key in tokens: a hash from which nobody can derive the secret."""
        return sha256(b"isolane key id:" + self.secret.encode()).hexdigest()[:_ID_CHARACTERS]


class KeyRing(Protocol):
    """The keys of the local issuer."""

    @property
    def keys(self) -> Sequence[SigningKey]:
        """The valid keys; the first one signs."""
        ...

    @property
    def dropped(self) -> int:
        """Count of keys that were found to be removed."""
        ...

    def take(self, expiry_s: int) -> SigningKey:
        """Return the key to sign with, and note that its token lives until `expiry_s`."""
        ...


@dataclass(frozen=True, slots=True)
class FixedKey:
    """One key that is kept elsewhere, for example in the settings."""

    keys: tuple[SigningKey]
    dropped: int = 0

    def take(self, expiry_s: int) -> SigningKey:  # noqa: ARG002 - the contract's parameter
        """Return the key; the settings decide when it changes."""
        return self.keys[0]


class KeyFile:
    """Keys in a file that only its owner can read. The first start creates it."""

    def __init__(self, path: Path) -> None:
        """Read the keys in `path`, or create the first one.

        Raises:
            InvalidSettings: The file has something else in it.
            OSError: The file can't be read or created.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, [_new_key()], is_first=True)
        self._stamp: tuple[int, int] | None = None
        self._keys = tuple(_read(path))
        self._complaint = ""
        self.dropped = 0

    @property
    def keys(self) -> Sequence[SigningKey]:
        """The keys in the file now, because `isolane key rotate` is another process.

        A file that can't be read changes nothing, because otherwise everybody would be signed out.
        """
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                found = tuple(_read(self._path))
                # A credential is judged while the file is read, so a removed key is noticed here.
                self.dropped += not {key.id for key in self._keys} <= {key.id for key in found}
                self._keys, self._stamp = found, stamp
        except (OSError, InvalidSettings) as error:
            self._complain(str(error))
        return self._keys

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:  # logged once, and not per token
            _log.warning("signing_keys_reload_failed", reason=reason)
        self._complaint = reason

    def take(self, expiry_s: int) -> SigningKey:
        """Return the newest key; after a rotation the key is kept until `expiry_s`."""
        with self._change() as keys:
            keys[0] = replace(keys[0], last_expiry_s=max(expiry_s, keys[0].last_expiry_s))
            return keys[0]

    def rotate(self, *, now_s: int, forget: bool = False) -> None:
        """Sign with a new key from now on.

        Older keys are kept until their last token has expired. With `forget` they are removed now,
        and their tokens are invalid.
        """
        with self._change() as keys:
            keys[:] = [key for key in keys if key.last_expiry_s > now_s and not forget]
            keys.insert(0, _new_key())

    @contextmanager
    def _change(self) -> Iterator[list[SigningKey]]:
        """Change the keys under a lock and replace the file in one step."""
        # The lock is on the folder, because each change replaces the file.
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            before = _read(self._path)
            keys = list(before)
            yield keys
            if keys != before:
                _write(self._path, keys)
        finally:
            os.close(folder)


def _new_key() -> SigningKey:
    return SigningKey(secrets.token_urlsafe(KEY_BYTES))


def _read(path: Path) -> list[SigningKey]:
    lines = [_LINE.fullmatch(line) for line in path.read_text().splitlines()]
    keys = [SigningKey(line[1], int(line[2] or _UNKNOWN_S)) for line in lines if line is not None]
    if not keys or len(keys) < len(lines):
        raise InvalidSettings(f"{path} holds no keys; put it back, or remove it for a new one.")
    return keys


def _write(path: Path, keys: Sequence[SigningKey], *, is_first: bool = False) -> None:
    """Write the whole file in one step; of two processes that create it, only one does."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{key.secret} {key.last_expiry_s}\n" for key in keys)
        file.flush()
        os.fsync(descriptor)
        if not is_first:  # the file stays the server's own, even when another user rotates
            status = path.stat()
            with suppress(PermissionError):
                os.fchown(descriptor, status.st_uid, status.st_gid)
    if not is_first:
        draft.replace(path)
        return
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
