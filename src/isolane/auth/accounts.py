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
from isolane.errors import InvalidInput, NotFound, Unauthenticated
from isolane.ids import check_user_id, find_user_id
from isolane.sql.database import Database
from isolane.sql.tables import accounts
from isolane.subjects import SEPARATOR

T = TypeVar("T")

PASSWORD_MIN_CHARACTERS: Final = 8
"""Fewest characters of a password."""
PASSWORD_MAX_BYTES: Final = 1024
"""Maximum bytes of a password, so that hashing one is cheap."""
HASHING_THREADS: Final = 2
"""Threads that hash passwords. argon2id takes about 64 MiB and 50 ms per password, so more threads
would starve everything else."""


@dataclass(frozen=True, slots=True)
class Account:
    """One local account; `created_at` is in milliseconds since 1970."""

    user_id: str
    created_at: int
    scopes: frozenset[str]


class Accounts:
    """The local accounts of one gateway."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        """Keep accounts in `database`."""
        self._database = database
        self._clock = clock
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="isolane-hash")
        self._decoy: str | None = None

    async def add(self, name: str, password: str, *, scopes: Iterable[str] = PLAIN) -> Account:
        """Create an account and return it.

        Raises:
            InvalidInput: The name is taken or has `|`, or the password is too short or too long.
            InvalidContext: The name can't be a user id.
        """
        user_id = check_user_id("username", name)
        if SEPARATOR in user_id:
            raise InvalidInput("username", f"may not hold {SEPARATOR}: users of other issuers do")
        _check_password(password)
        hashed = await self._hash(partial(self._hasher.hash, password))
        account = Account(user_id, self._clock(), frozenset(scopes))
        await self._database.write(partial(_insert, account, hashed))
        return account

    async def verify(self, name: str, password: str) -> str:
        """Return the user id for a name and its password.

        An unknown name takes as much time as a wrong password.

        Raises:
            Unauthenticated: Name or password is wrong.
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
        """Return all accounts, sorted by name."""
        return await self._database.read(_load_all)

    async def set_scopes(self, name: str, scopes: Iterable[str]) -> None:
        """Set the scopes of an account from now on.

        Tokens and tickets with more scopes are revoked. Sessions go on with the new scopes.

        Raises:
            NotFound: There is no such account.
        """
        chosen = frozenset(scopes)
        work = partial(_update_scopes, normalize(name), chosen, self._clock())
        if not await self._database.write(work):
            raise NotFound(f"no account is called {name}")

    async def remove(self, name: str) -> None:
        """Delete an account, and revoke every credential of its user.

        Raises:
            NotFound: There is no such account.
        """
        if not await self._database.write(partial(_delete, normalize(name), self._clock())):
            raise NotFound(f"no account is called {name}")

    async def sign_out(self, user_id: str) -> None:
        """Revoke every credential of a user so far; the user needs no local account.

        Raises:
            InvalidContext: The text is no user id and no name of a user.
        """
        name = find_user_id("name", user_id)
        await self._database.write(partial(sign_out, name, self._clock()))

    def close(self) -> None:
        """Stop the hashing threads."""
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
        # UnicodeEncodeError: a password with half a surrogate pair
        except (Argon2Error, InvalidHashError, UnicodeEncodeError):
            return False


def normalize(name: str) -> str:
    """Return the name in normal form C, because one accent can be written in two ways."""
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
