"""A provider's keys: asked for seldom, by one at a time, and never in the way of known keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from jwt.algorithms import ECAlgorithm
from tests.house import ManualClock, until
from tests.live.issuer import Key, jwks_of, new_key

from isolane.auth.keys import (
    DOCUMENT_MAX_BYTES,
    FETCH_INTERVAL_MS,
    KEYS_MAX,
    REFRESH_MS,
    KeyCache,
)
from isolane.errors import IsolaneError, Unauthenticated, Unavailable

KNOWN = new_key(kid="known")
NEXT = new_key(kid="next")


@dataclass
class Source:
    """What the cache fetches from: says what it is told to, or nothing until it is let go."""

    document: bytes = jwks_of(KNOWN)
    is_down: bool = False
    asked_at: list[int] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering.set()

    async def fetch(self) -> bytes:
        self.asked_at.append(self.clock())
        await self.answering.wait()
        if self.is_down:
            raise Unavailable("it is down")
        return self.document

    def publish(self, *keys: Key | dict[str, Any]) -> None:
        listed = [key.jwk if isinstance(key, Key) else key for key in keys]
        self.document = json.dumps({"keys": listed}).encode()

    def pass_interval(self) -> None:
        self.clock.now += FETCH_INTERVAL_MS


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def cache(source: Source) -> AsyncIterator[KeyCache]:
    cache = KeyCache(source.fetch, clock=source.clock)
    yield cache
    await cache.close()


async def answer(cache: KeyCache, key_id: str | None, algorithm: str = "ES256") -> str:
    """Return `found`, or how the search for a key failed."""
    try:
        await cache.find(key_id, algorithm)
    except Unauthenticated as error:
        return error.reason
    except IsolaneError as error:
        return error.code
    return "found"


@asynccontextmanager
async def waiting(cache: KeyCache, source: Source, *key_ids: str) -> AsyncIterator[list[Any]]:
    """Let each of these wait for a fetch that hangs; the block may change its mind about it."""
    source.answering.clear()
    before = len(source.asked_at)
    tasks = [asyncio.create_task(answer(cache, key_id)) for key_id in key_ids]
    await until(lambda: len(source.asked_at) > before)
    assert not any(task.done() for task in tasks)
    yield tasks
    source.answering.set()
    await asyncio.wait(tasks)


# --- how often ------------------------------------------------------------------------------------


async def test_nobody_is_asked_before_a_token_comes(cache: KeyCache, source: Source) -> None:
    assert source.asked_at == []
    assert await answer(cache, "known") == "found"
    assert len(source.asked_at) == cache.fetches == 1


async def test_a_hundred_who_come_at_once_wait_for_one_fetch(
    cache: KeyCache, source: Source
) -> None:
    async with waiting(cache, source, *["known"] * 50, *["unknown"] * 50) as tasks:
        assert len(source.asked_at) == 1
    assert [task.result() for task in tasks] == ["found"] * 50 + ["invalid"] * 50
    assert len(source.asked_at) == 1


async def test_ten_thousand_unknown_key_ids_cause_one_fetch_an_interval(
    cache: KeyCache, source: Source
) -> None:
    interval = FETCH_INTERVAL_MS
    began = source.clock.now
    for number in range(10_000):  # in 100 s of the clock
        source.clock.now = began + number * 10
        assert await answer(cache, f"unknown-{number}") == "invalid"
        assert await answer(cache, "known") == "found"
    gaps = [later - sooner for sooner, later in pairwise(source.asked_at)]
    assert len(source.asked_at) == 4
    assert all(interval <= gap < interval + 10 for gap in gaps)


async def test_known_keys_serve_while_a_fetch_for_an_unknown_one_hangs(
    cache: KeyCache, source: Source
) -> None:
    await answer(cache, "known")
    source.pass_interval()
    async with waiting(cache, source, "unknown"):
        async with asyncio.timeout(1):
            assert await answer(cache, "known") == "found"


async def test_another_algorithm_than_allowed_asks_nobody(cache: KeyCache, source: Source) -> None:
    for algorithm in ("none", "HS256", "ES384", "PS256", "RS512", "", "es256"):
        assert await answer(cache, "known", algorithm) == "invalid"
    assert source.asked_at == []


async def test_clock_that_is_set_back_stops_no_fetch(cache: KeyCache, source: Source) -> None:
    await answer(cache, "known")
    source.publish(NEXT)
    source.clock.now -= 3_600_000
    assert await answer(cache, "next") == "found"


# --- who waits ------------------------------------------------------------------------------------


async def test_who_gives_up_waiting_takes_nobody_along(cache: KeyCache, source: Source) -> None:
    async with waiting(cache, source, *["known"] * 3) as (first, second, third):
        for gone in (first, second):  # the one that began the fetch, and one that joined it
            gone.cancel()
            await asyncio.wait({gone})
            assert gone.cancelled()
    assert third.result() == "found"
    assert len(source.asked_at) == 1


async def test_fetch_that_failed_is_tried_again_by_who_comes_after_the_interval(
    cache: KeyCache, source: Source
) -> None:
    source.is_down = True
    async with waiting(cache, source, *["known"] * 20) as tasks:
        pass
    assert {task.result() for task in tasks} == {"unavailable"}
    source.is_down = False
    source.clock.now += FETCH_INTERVAL_MS - 1
    assert await answer(cache, "known") == "unavailable"
    source.clock.now += 1
    assert await answer(cache, "known") == "found"
    assert len(source.asked_at) == 2


async def test_closing_ends_a_fetch_that_hangs(source: Source) -> None:
    cache = KeyCache(source.fetch, clock=source.clock)
    async with waiting(cache, source, "known") as (task,):
        async with asyncio.timeout(1):
            await cache.close()
            await asyncio.wait({task})


async def test_fetch_that_outlasts_the_interval_is_still_the_only_one(
    cache: KeyCache, source: Source
) -> None:
    async with waiting(cache, source, "known"):
        source.clock.now += 10 * FETCH_INTERVAL_MS
        late = asyncio.create_task(answer(cache, "known"))
        await asyncio.sleep(0)  # its first turn, in which it would ask
        await asyncio.sleep(0)  # and the first turn of the fetch that it would start
        assert len(source.asked_at) == 1
        source.answering.set()
        assert await late == "found"


# --- a provider that is down ----------------------------------------------------------------------


async def test_provider_that_goes_down_later_takes_nobody_along_whose_key_is_known(
    cache: KeyCache, source: Source
) -> None:
    await answer(cache, "known")
    source.is_down = True
    for _ in range(5):
        source.clock.now += REFRESH_MS
        assert await answer(cache, "unknown") == "unavailable"
        assert await answer(cache, "known") == "found"
    assert len(source.asked_at) == 6
    source.is_down = False
    source.pass_interval()
    assert await answer(cache, "unknown") == "invalid"


@pytest.mark.parametrize(
    "document",
    [
        b"", b"null", b"[]", b'{"keys": {}}', b'{"keys": 5}', b"{}", b"<html>", b"\xff\xfe",
        b'{"keys": [], "keys": []}', b"[" * 100_000,
        b'{"keys": [], "x": "' + b"x" * DOCUMENT_MAX_BYTES + b'"}',
    ],
    ids=range(11),
)  # fmt: skip
async def test_document_that_is_no_list_of_keys_changes_nothing(
    cache: KeyCache, source: Source, document: bytes
) -> None:
    right, source.document = source.document, document
    assert await answer(cache, "known") == "unavailable"
    source.document = right
    source.pass_interval()
    assert await answer(cache, "known") == "found"
    source.document = document
    source.pass_interval()
    assert await answer(cache, "unknown") == "unavailable"
    assert await answer(cache, "known") == "found"


# --- rotation -------------------------------------------------------------------------------------


async def test_new_key_of_the_provider_works_after_one_interval_at_most(
    cache: KeyCache, source: Source
) -> None:
    await answer(cache, "known")
    source.publish(KNOWN, NEXT)
    source.clock.now += FETCH_INTERVAL_MS - 1
    assert await answer(cache, "next") == "invalid"
    source.clock.now += 1
    assert await answer(cache, "next") == "found"
    assert await answer(cache, "known") == "found"


async def test_key_that_was_withdrawn_stops_with_the_refresh(
    cache: KeyCache, source: Source
) -> None:
    await answer(cache, "known")
    source.publish(NEXT)
    source.clock.now += REFRESH_MS - 1
    assert await answer(cache, "known") == "found"
    assert len(source.asked_at) == 1
    source.clock.now += 1
    source.answering.clear()
    assert await answer(cache, "known") == "found"  # the refresh is beside it
    await until(lambda: len(source.asked_at) == 2)
    source.answering.set()
    await until(lambda: "known" not in cache._keys)
    assert await answer(cache, "known") == "invalid"
    assert await answer(cache, "next") == "found"


async def test_key_of_the_same_name_is_the_one_that_is_published_now(
    cache: KeyCache, source: Source
) -> None:
    before = await cache.find("known", "ES256")
    source.publish(new_key(kid="known"))
    source.clock.now += REFRESH_MS
    await cache.find("known", "ES256")
    await until(lambda: cache._keys["known"] is not before)
    assert await cache.find("known", "ES256") is not before


# --- which keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_key_serves_its_own_algorithm_only(
    cache: KeyCache, source: Source, algorithm: str
) -> None:
    source.publish(new_key(algorithm, "k"))
    found = [
        each for each in ("EdDSA", "ES256", "RS256") if await answer(cache, "k", each) == "found"
    ]
    assert found == [algorithm]


async def test_token_may_name_no_key_when_there_is_one_only(
    cache: KeyCache, source: Source
) -> None:
    assert await answer(cache, None) == "found"
    source.publish(KNOWN, NEXT)
    source.clock.now += REFRESH_MS
    await answer(cache, "known")
    await until(lambda: "next" in cache._keys)
    assert await answer(cache, None) == "invalid"


async def test_key_without_a_name_is_for_tokens_that_name_none(
    cache: KeyCache, source: Source
) -> None:
    source.publish(new_key(kid=None), KNOWN)
    assert [await answer(cache, key_id) for key_id in (None, "known", "x")] == [
        "found",
        "found",
        "invalid",
    ]


def odd_keys() -> dict[str, Any]:
    """Return what may stand among a provider's keys and is none to check signatures with."""
    good = {"kid": "odd"}
    key = new_key(kid="odd")
    ec, rsa = key.jwk, new_key("RS256", "odd").jwk
    private = ECAlgorithm.to_jwk(key.private, as_dict=True)
    assert "d" in private
    return {
        "for encryption": {**ec, "use": "enc"},
        "for encryption by its operations": {**without(ec, "use"), "key_ops": ["encrypt"]},
        "private": {**private, "kid": "odd"},
        "too small": new_key("RS256", "odd", bits=1024).jwk,
        "secret": {**good, "kty": "oct", "k": "A" * 43},
        "secret that calls itself another": {**good, "kty": "oct", "k": "A" * 43, "alg": "ES256"},
        "none": {**good, "kty": "oct", "k": "AA", "alg": "none"},
        "another curve": {**good, "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
        "another algorithm": {**rsa, "alg": "PS256"},
        "for encryption by its algorithm": {**rsa, "alg": "RSA-OAEP"},
        "off the curve": {**ec, "y": ec["x"]},
        "numbers": {**rsa, "n": 5},
        "half a key": without(ec, "y"),
        "no kind": without(ec, "kty"),
        "odd kind": {**ec, "kty": ["EC"]},
        "odd algorithm": {**ec, "alg": {"x": 1}},
        "odd use": {**ec, "use": ["sig"]},
        "odd name": {**ec, "kid": ["odd"]},
        "name of no text": {**ec, "kid": 5},
        "text": "odd",
        "null": None,
        "list": [],
    }


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


@pytest.mark.parametrize("which", list(odd_keys()))
async def test_odd_key_is_passed_over_and_the_others_count(
    cache: KeyCache, source: Source, which: str
) -> None:
    source.publish(odd_keys()[which], KNOWN)
    for algorithm in ("ES256", "RS256"):
        assert await answer(cache, "odd", algorithm) == "invalid"
    assert await answer(cache, "known") == "found"
    assert await answer(cache, None) == "found", "it isn't counted among the keys"


async def test_no_more_keys_are_kept_than_a_hundred(cache: KeyCache, source: Source) -> None:
    small = without(KNOWN.jwk, "kid")
    source.publish(*({**small, "kid": str(number)} for number in range(KEYS_MAX + 50)))
    assert await answer(cache, str(KEYS_MAX - 1)) == "found"
    assert await answer(cache, str(KEYS_MAX)) == "invalid"
    assert len(cache._keys) == KEYS_MAX == 100


async def test_document_of_many_megabytes_is_refused_unread(
    cache: KeyCache, source: Source
) -> None:
    source.document = jwks_of(KNOWN) + b" " * DOCUMENT_MAX_BYTES
    assert await answer(cache, "known") == "unavailable"
    source.document = jwks_of(KNOWN).ljust(DOCUMENT_MAX_BYTES)
    source.pass_interval()
    assert await answer(cache, "known") == "found"
