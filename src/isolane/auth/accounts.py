"""Local accounts: names and passwords that this gateway keeps itself."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import Connection, delete, insert, select

from isolane.clock import Clock
from isolane.database import Database, accounts, sessions
from isolane.errors import InvalidInput, NotFound, Unauthenticated
from isolane.ids import check_user_id

T = TypeVar("T")

PASSWORD_MIN_CHARACTERS: Final = 8
PASSWORD_MAX_BYTES: Final = 1024
HASHING_THREADS: Final = 2
"""argon2id takes some 64 MiB and 50 ms a password: more at once would starve everything else."""


@dataclass(frozen=True, slots=True)
class Account:
    """One local account; `created_at` in milliseconds since 1970."""

    user_id: str
    created_at: int


class Accounts:
    """The accounts of one gateway."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        """Keep accounts in `database`."""
        self._database = database
        self._clock = clock
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="isolane-hash")
        self._decoy: str | None = None

    async def add(self, name: str, password: str) -> Account:
        """Make an account; raises `InvalidInput` when the name is taken or the password short."""
        user_id = check_user_id("username", name)
        _check_password(password)
        hashed = await self._hash(partial(self._hasher.hash, password))
        account = Account(user_id, self._clock())
        await self._database.write(partial(_insert, account, hashed))
        return account

    async def verify(self, name: str, password: str) -> str:
        """Return the user id that name and password stand for; raises `Unauthenticated`.

        An unknown name costs as much time as a wrong password.
        """
        name = _normal(name)
        if len(password.encode(errors="replace")) > PASSWORD_MAX_BYTES:
            raise Unauthenticated("invalid", "the password is too long to be one")
        found = await self._database.read(partial(_load_hash, name))
        hashed = found if found is not None else await self._load_decoy()
        if not await self._hash(partial(self._matches, hashed, password)) or found is None:
            raise Unauthenticated("invalid", "name or password is wrong")
        return name

    async def load_all(self) -> list[Account]:
        """Return all accounts by name."""
        return await self._database.read(_load_all)

    async def remove(self, name: str) -> None:
        """Remove an account and its sessions; raises `NotFound`."""
        if not await self._database.write(partial(_delete, _normal(name))):
            raise NotFound(f"no account is called {name}")

    def close(self) -> None:
        """End the hashing threads."""
        self._threads.shutdown()

    async def _hash(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _load_decoy(self) -> str:
        if self._decoy is None:
            self._decoy = await self._hash(partial(self._hasher.hash, "nobody's password"))
        return self._decoy

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (Argon2Error, InvalidHashError):
            return False


def _normal(name: str) -> str:
    """Return the name as accounts are kept under it: there are two ways to write an accent."""
    return unicodedata.normalize("NFC", name)


def _check_password(password: str) -> None:
    if len(password) < PASSWORD_MIN_CHARACTERS:
        raise InvalidInput("password", f"must have {PASSWORD_MIN_CHARACTERS} characters or more")
    if len(password.encode()) > PASSWORD_MAX_BYTES:
        raise InvalidInput("password", f"must have {PASSWORD_MAX_BYTES} bytes or fewer")


def _insert(account: Account, hashed: str, connection: Connection) -> None:
    if _load_hash(account.user_id, connection) is not None:
        raise InvalidInput("username", f"{account.user_id!r} is taken")
    row = {"user_id": account.user_id, "created_at": account.created_at}
    connection.execute(insert(accounts).values(**row, password_hash=hashed))


def _load_hash(name: str, connection: Connection) -> str | None:
    query = select(accounts.c.password_hash).where(accounts.c.user_id == name)
    return connection.execute(query).scalar_one_or_none()


def _load_all(connection: Connection) -> list[Account]:
    query = select(accounts.c.user_id, accounts.c.created_at).order_by(accounts.c.user_id)
    return [Account(user_id, created_at) for user_id, created_at in connection.execute(query)]


def _delete(name: str, connection: Connection) -> bool:
    connection.execute(delete(sessions).where(sessions.c.user_id == name))
    return connection.execute(delete(accounts).where(accounts.c.user_id == name)).rowcount > 0
