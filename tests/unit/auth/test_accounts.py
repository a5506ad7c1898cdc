"""Local accounts: who has the password, what is kept of it, and what ends with the account."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, text
from tests.house import ManualClock

from isolane.auth.accounts import PASSWORD_MAX_BYTES, Accounts
from isolane.auth.revocations import Revocations
from isolane.contracts import PLAIN, Identity
from isolane.errors import InvalidInput, NotFound, Unauthenticated
from isolane.sql.database import Database

PASSWORD = "correct horse battery"


@pytest.fixture
async def accounts(database: Database, clock: ManualClock) -> AsyncIterator[Accounts]:
    accounts = Accounts(database, clock=clock)
    yield accounts
    accounts.close()


async def refusal(accounts: Accounts, name: str, password: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await accounts.verify(name, password)
    assert caught.value.reason == "invalid"
    return str(caught.value)


async def test_only_the_password_is_the_password(accounts: Accounts) -> None:
    await accounts.add("ada", PASSWORD)
    assert await accounts.verify("ada", PASSWORD) == "ada"
    for other in (PASSWORD.upper(), f"{PASSWORD} ", "", "\0"):
        await refusal(accounts, "ada", other)


async def test_unknown_name_is_told_in_the_words_of_a_wrong_password(accounts: Accounts) -> None:
    await accounts.add("ada", PASSWORD)
    wrong = await refusal(accounts, "ada", "not the password")
    assert await refusal(accounts, "eve", "not the password") == wrong
    long = await refusal(accounts, "ada", "x" * (PASSWORD_MAX_BYTES + 1))
    assert await refusal(accounts, "eve", "x" * (PASSWORD_MAX_BYTES + 1)) == long


async def test_unknown_name_costs_a_hashing_too(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    matched: list[str] = []
    matches = accounts._matches

    def count(hashed: str, password: str) -> bool:
        matched.append(hashed)
        return matches(hashed, password)

    monkeypatch.setattr(accounts, "_matches", count)
    await accounts.add("ada", PASSWORD)
    for name in ("ada", "eve"):
        await refusal(accounts, name, "not the password")
    known, unknown = [hashed.rsplit("$", 2)[0] for hashed in matched]
    assert known == unknown, "with the same parameters"


@pytest.mark.parametrize(
    "name, password, field",
    [
        ("ada", PASSWORD, "username"),
        ("corp|ada", PASSWORD, "username"),
        ("bob", "seven77", "password"),
        ("bob", "é" * PASSWORD_MAX_BYTES, "password"),
    ],
)
async def test_account_that_cannot_be_is_not_made(
    accounts: Accounts, name: str, password: str, field: str
) -> None:
    await accounts.add("ada", PASSWORD)
    with pytest.raises(InvalidInput) as caught:
        await accounts.add(name, password)
    assert caught.value.field == field
    assert password not in str(caught.value)
    assert [each.user_id for each in await accounts.load_all()] == ["ada"]


async def test_name_is_one_however_it_is_written(accounts: Accounts) -> None:
    composed, decomposed = (unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD"))
    await accounts.add(decomposed, PASSWORD)
    for name in (composed, decomposed):
        assert await accounts.verify(name, PASSWORD) == composed
    await accounts.set_scopes(decomposed, {"admin"})
    await accounts.remove(decomposed)
    assert await accounts.load_all() == []


async def test_account_may_do_what_it_was_told(accounts: Accounts) -> None:
    assert (await accounts.add("ada", PASSWORD)).scopes == PLAIN
    await accounts.add("eve", PASSWORD, scopes={"threads:read"})
    await accounts.set_scopes("ada", {"admin", "threads:read"})
    found = {each.user_id: each.scopes for each in await accounts.load_all()}
    assert found == {"ada": {"admin", "threads:read"}, "eve": {"threads:read"}}


async def test_who_is_nobody_is_not_found(accounts: Accounts) -> None:
    for change in (accounts.remove("eve"), accounts.set_scopes("eve", PLAIN)):
        with pytest.raises(NotFound, match="no account is called eve"):
            await change


@pytest.mark.parametrize("how", ["remove", "sign out"])
async def test_all_that_was_issued_ends(
    accounts: Accounts, database: Database, clock: ManualClock, how: str
) -> None:
    await accounts.add("ada", PASSWORD)
    await (accounts.remove("ada") if how == "remove" else accounts.sign_out("ada"))
    known = Revocations(database, clock=clock)
    await known.refresh()
    assert known.is_revoked(Identity("ada", issued_at=clock.now))
    assert not known.is_revoked(Identity("ada", issued_at=clock.now + 1))


async def test_who_has_no_account_is_signed_out_too(
    accounts: Accounts, database: Database, clock: ManualClock
) -> None:
    await accounts.sign_out("corp|ada")
    known = Revocations(database, clock=clock)
    await known.refresh()
    assert known.is_revoked(Identity("corp|ada", issued_at=clock.now))


async def test_no_password_is_kept(accounts: Accounts, database: Database) -> None:
    await accounts.add("ada", PASSWORD)

    def load(connection: Connection) -> str:
        return str(connection.execute(text("SELECT password_hash FROM accounts")).scalar_one())

    kept = await database.read(load)
    assert kept.startswith("$argon2id$")
    assert PASSWORD not in kept
