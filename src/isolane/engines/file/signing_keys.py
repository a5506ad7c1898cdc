"""Signing keys in a file of the data folder.

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
from pathlib import Path
from typing import Final

import structlog

from isolane.contracts.signing_keys import SigningKey, new_key, rotated, taken
from isolane.settings import InvalidSettings

_LINE: Final = re.compile(r"([!-~]+)(?: (\d{1,12}))?")
_UNKNOWN_S: Final = 253_402_300_799
"""Expiry for a key without one in the file, because a person added the key: the year 9999."""

_log = structlog.get_logger(__name__)


class FileSigningKeys:
    """Signing keys in a file that only its owner can read. The first start creates it.

    No method waits: the file is small and on this machine.
    """

    def __init__(self, path: Path) -> None:
        """Read the keys in `path`, or create the first one.

        Raises:
            InvalidSettings: The file has something else in it.
            OSError: The file can't be read or created.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, [new_key()], is_first=True)
        self._stamp: tuple[int, int] | None = None
        self._keys = tuple(_read(path))
        self._complaint = ""

    async def load(self) -> Sequence[SigningKey]:
        """Return the keys in the file now; see `SigningKeys.load`."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._keys, self._stamp = tuple(_read(self._path)), stamp
        except (OSError, InvalidSettings) as error:
            self._complain(str(error))
        return self._keys

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:  # logged once, and not per token
            _log.warning("signing_keys_reload_failed", reason=reason)
        self._complaint = reason

    async def take(self, expiry_s: int) -> SigningKey:
        """Return the newest key; see `SigningKeys.take`.

        Raises:
            InvalidSettings: The file has something else in it.
            OSError: The file can't be written.
        """
        with self._change() as keys:
            keys[0] = taken(keys[0], expiry_s)
            return keys[0]

    async def rotate(self, *, now_s: int, forget: bool = False) -> None:
        """Sign with a new key from now on; see `SigningKeys.rotate`.

        Raises:
            InvalidSettings: The file has something else in it.
            OSError: The file can't be written.
        """
        with self._change() as keys:
            keys[:] = rotated(keys, now_s=now_s, forget=forget)

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
