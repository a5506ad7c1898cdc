"""What every authenticator promises; what is special about one is in its own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.live.issuer import Issuer, network

from isolane.auth.local import LocalIssuer
from isolane.auth.providers import Issuers, Provider
from isolane.clock import now_ms
from isolane.contracts import Authenticator, SigningKey, ensure
from isolane.engines.memory.signing_keys import LocalSigningKeys
from isolane.errors import Unauthenticated
from isolane.settings import ProviderSettings


@dataclass
class Credentials:
    """An authenticator, and how to get tokens that it should take."""

    authenticator: Authenticator
    issue: Callable[[str, int], str]
    prefix: str = ""
    """What stands before a subject in its user's id."""


def _make_local() -> LocalIssuer:
    ring = LocalSigningKeys(SigningKey("k" * 43))
    return LocalIssuer(ring, issuer="isolane", audience=None, clock=now_ms, foreign=["corp"])


@asynccontextmanager
async def _local() -> AsyncIterator[Credentials]:
    issuer = _make_local()
    yield Credentials(issuer, lambda name, expires_s: issuer.issue(name, expires_s=expires_s))


@asynccontextmanager
async def _provider() -> AsyncIterator[Credentials]:
    corp = Issuer()
    async with network(corp) as http:
        provider = Provider(ProviderSettings(**corp.settings), http, clock=now_ms)
        yield Credentials(
            Issuers(_make_local(), {"corp": provider}),
            lambda name, expires_s: corp.token(name, expires_s=expires_s),
            prefix="corp|",
        )
        await provider.keys.close()


@asynccontextmanager
async def _local_beside_a_provider() -> AsyncIterator[Credentials]:
    async with _local() as local, _provider() as provider:
        yield Credentials(provider.authenticator, local.issue)


@pytest.fixture(
    params=[_local, _provider, _local_beside_a_provider],
    ids=["local", "provider", "local beside a provider"],
)
async def credentials(request: pytest.FixtureRequest) -> AsyncIterator[Credentials]:
    opened: AbstractAsyncContextManager[Credentials] = request.param()
    async with opened as made:
        yield made


def test_it_keeps_its_contract(credentials: Credentials) -> None:
    ensure(credentials.authenticator, Authenticator)


async def test_a_token_speaks_for_its_user_until_it_dies(credentials: Credentials) -> None:
    before = now_ms()
    identity = await credentials.authenticator.authenticate(credentials.issue("alice", 60))
    assert identity is not None
    assert identity.user_id == f"{credentials.prefix}alice"
    assert identity.expires_at is not None
    assert before + 59_000 <= identity.expires_at <= now_ms() + 60_000


async def test_each_token_speaks_for_its_own_user_only(credentials: Credentials) -> None:
    tokens = {user_id: credentials.issue(user_id, 60) for user_id in ("alice", "bob", "a:b")}
    for _ in range(2):
        for user_id, token in tokens.items():
            identity = await credentials.authenticator.authenticate(token)
            assert identity is not None
            assert identity.user_id == credentials.prefix + user_id


async def test_an_expired_token_is_expired(credentials: Credentials) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await credentials.authenticator.authenticate(credentials.issue("alice", -10))
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
    identity = await credentials.authenticator.authenticate(good)
    assert identity is not None
    assert identity.user_id == f"{credentials.prefix}alice"
