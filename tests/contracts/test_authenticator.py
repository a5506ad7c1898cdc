"""What every authenticator promises; what is special about one is in its own tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from isolane.auth.local import LocalIssuer
from isolane.clock import now_ms
from isolane.contracts import Authenticator, ensure
from isolane.errors import Unauthenticated


@dataclass
class Credentials:
    """An authenticator, and how to get tokens that it should take."""

    authenticator: Authenticator
    issue: Callable[[str, int], str]


def _local() -> Credentials:
    issuer = LocalIssuer("k" * 43, issuer="isolane", audience=None, clock=now_ms)
    return Credentials(
        issuer, lambda user_id, expires_s: issuer.issue(user_id, expires_s=expires_s)
    )


@pytest.fixture(params=[_local], ids=["local"])
def credentials(request: pytest.FixtureRequest) -> Credentials:
    made: Credentials = request.param()
    return made


def test_it_keeps_its_contract(credentials: Credentials) -> None:
    ensure(credentials.authenticator, Authenticator)


async def test_a_token_speaks_for_its_user_until_it_dies(credentials: Credentials) -> None:
    before = now_ms()
    identity = await credentials.authenticator.authenticate(credentials.issue("alice", 60))
    assert identity.user_id == "alice"
    assert identity.expires_at is not None
    assert before + 59_000 <= identity.expires_at <= now_ms() + 60_000


async def test_each_token_speaks_for_its_own_user_only(credentials: Credentials) -> None:
    tokens = {user_id: credentials.issue(user_id, 60) for user_id in ("alice", "bob", "a:b")}
    for _ in range(2):
        for user_id, token in tokens.items():
            assert (await credentials.authenticator.authenticate(token)).user_id == user_id


async def test_an_expired_token_is_expired(credentials: Credentials) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await credentials.authenticator.authenticate(credentials.issue("alice", -1))
    assert caught.value.reason == "expired"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\0", "\ud800", "x" * (1 << 20)], ids=range(6))
async def test_nonsense_is_invalid_and_not_repeated(token: str, credentials: Credentials) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await credentials.authenticator.authenticate(token)
    assert caught.value.reason == "invalid"
    assert len(str(caught.value)) < 200


async def test_bad_tokens_of_anyone_lock_nobody_out(credentials: Credentials) -> None:
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            await credentials.authenticator.authenticate("bad")
    good = credentials.issue("alice", 60)
    assert (await credentials.authenticator.authenticate(good)).user_id == "alice"
