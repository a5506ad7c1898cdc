"""Local accounts: names and passwords that this gateway keeps itself."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import Connection, delete, insert, select, update

from isolane.auth import revocations
from isolane.auth.sessions import sign_out
from isolane.clock import Clock
from isolane.contracts import PLAIN
from isolane.engines.sqlite.file import Database, accounts
from isolane.errors import InvalidInput, NotFound, Unauthenticated
from isolane.ids import check_user_id, find_user_id
from isolane.subjects import SEPARATOR

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
    scopes: frozenset[str]


class Accounts:
    """The accounts of one gateway."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        """Keep accounts in `database`."""
        self._database = database
        self._clock = clock
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="isolane-hash")
        self._decoy: str | None = None

    async def add(self, name: str, password: str, *, scopes: Iterable[str] = PLAIN) -> Account:
        """Make an account; raises `InvalidInput` when the name is taken or the password short."""
        user_id = check_user_id("username", name)
        if SEPARATOR in user_id:
            raise InvalidInput("username", f"may not hold {SEPARATOR}: users of other issuers do")
        _check_password(password)
        hashed = await self._hash(partial(self._hasher.hash, password))
        account = Account(user_id, self._clock(), frozenset(scopes))
        await self._database.write(partial(_insert, account, hashed))
        return account

    async def verify(self, name: str, password: str) -> str:
        """Return the user id that name and password stand for; raises `Unauthenticated`.

        An unknown name costs as much time as a wrong password.
        """
        name = normalize(name)
        if len(password.encode(errors="replace")) > PASSWORD_MAX_BYTES:
            raise Unauthenticated("invalid", "the password is too long to be one")
        found = await self._database.read(partial(_load_hash, name), lane=f"sign-in {name}")
        hashed = found if found is not None else await self._load_decoy()
        if not await self._hash(partial(self._matches, hashed, password)) or found is None:
            raise Unauthenticated("invalid", "name or password is wrong")
        return name

    async def load_all(self) -> list[Account]:
        """Return all accounts by name."""
        return await self._database.read(_load_all)

    async def set_scopes(self, name: str, scopes: Iterable[str]) -> None:
        """Let an account do this and no more, from now on; raises `NotFound`.

        What was issued to the user before and may do more is revoked, sessions apart: they go on
        with less.
        """
        chosen = frozenset(scopes)
        work = partial(_update_scopes, normalize(name), chosen, self._clock())
        if not await self._database.write(work):
            raise NotFound(f"no account is called {name}")

    async def remove(self, name: str) -> None:
        """Remove an account, and revoke all that was issued to its user; raises `NotFound`."""
        if not await self._database.write(partial(_delete, normalize(name), self._clock())):
            raise NotFound(f"no account is called {name}")

    async def sign_out(self, user_id: str) -> None:
        """Revoke all that was issued to a user so far, who needs no account.

        Raises `InvalidContext` for what can't be a user id, nor the name of somebody who has one.
        """
        name = find_user_id("name", user_id)
        await self._database.write(partial(sign_out, name, self._clock()))

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
        except (Argon2Error, InvalidHashError, UnicodeEncodeError):  # half a pair is no letter
            return False


def normalize(name: str) -> str:
    """Return the name as accounts are kept under it: there are two ways to write an accent."""
    return unicodedata.normalize("NFC", name)


def _check_password(password: str) -> None:
    if len(password) < PASSWORD_MIN_CHARACTERS:
        raise InvalidInput("password", f"must have {PASSWORD_MIN_CHARACTERS} characters or more")
    try:
        size = len(password.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("password", "holds half a surrogate pair, which is no letter") from error
    if size > PASSWORD_MAX_BYTES:
        raise InvalidInput("password", f"must have {PASSWORD_MAX_BYTES} bytes or fewer")


def _insert(account: Account, hashed: str, connection: Connection) -> None:
    if _load_hash(account.user_id, connection) is not None:
        raise InvalidInput("username", f"{account.user_id!r} is taken")
    row = {"user_id": account.user_id, "created_at": account.created_at, "password_hash": hashed}
    connection.execute(insert(accounts).values(**row, scopes=_join(account.scopes)))


def _join(scopes: Iterable[str]) -> str:
    return " ".join(sorted(scopes))


def _load_hash(name: str, connection: Connection) -> str | None:
    query = select(accounts.c.password_hash).where(accounts.c.user_id == name)
    return connection.execute(query).scalar_one_or_none()


def _load_all(connection: Connection) -> list[Account]:
    columns = accounts.c.user_id, accounts.c.created_at, accounts.c.scopes
    rows = connection.execute(select(*columns).order_by(accounts.c.user_id))
    return [Account(user_id, made, frozenset(scopes.split())) for user_id, made, scopes in rows]


def _update_scopes(name: str, scopes: frozenset[str], now: int, connection: Connection) -> bool:
    own = update(accounts).where(accounts.c.user_id == name)
    if not connection.execute(own.values(scopes=_join(scopes))).rowcount:
        return False
    revocations.add(name, now, scopes, connection)
    return True


def _delete(name: str, now: int, connection: Connection) -> bool:
    if not connection.execute(delete(accounts).where(accounts.c.user_id == name)).rowcount:
        return False
    sign_out(name, now, connection)
    return True
