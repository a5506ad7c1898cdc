"""What every engine of signing keys promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolane.contracts import SigningKeys, ensure
from isolane.engines.file.signing_keys import FileSigningKeys
from isolane.engines.memory.signing_keys import LocalSigningKeys

NOW_S = 1_800_000_000
HOUR_S = 3600

ENGINES: dict[str, Callable[[Path], SigningKeys]] = {
    "file": lambda folder: FileSigningKeys(folder / "signing.key"),
    "local": lambda _: LocalSigningKeys(),
}


@pytest.fixture(params=ENGINES)
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> SigningKeys:
    return ENGINES[request.param](tmp_path)


async def ids_of(keys: SigningKeys) -> list[str]:
    return [key.id for key in await keys.load()]


def test_it_keeps_its_contract(keys: SigningKeys) -> None:
    ensure(keys, SigningKeys)


async def test_first_key_is_there_from_the_start(keys: SigningKeys) -> None:
    (key,) = await keys.load()
    assert len(key.secret) >= 43  # 256 bits
    assert await keys.take(NOW_S) == (await keys.load())[0]
    assert await ids_of(keys) == [key.id]


async def test_printing_keys_prints_no_secret(keys: SigningKeys) -> None:
    (key,) = await keys.load()
    assert key.secret not in f"{key!r} {key} {keys!r} {keys}"
    assert key.id not in key.secret
    assert len(key.id) == 16


async def test_newest_key_signs(keys: SigningKeys) -> None:
    first = await keys.take(NOW_S + HOUR_S)
    await keys.rotate(now_s=NOW_S)
    second = await keys.take(NOW_S + HOUR_S)
    assert second.id != first.id
    assert await ids_of(keys) == [second.id, first.id]


async def test_older_key_is_dropped_at_the_rotation_after_its_last_token_expired(
    keys: SigningKeys,
) -> None:
    old = await keys.take(NOW_S + HOUR_S)
    await keys.take(NOW_S + 60)  # an earlier expiry changes nothing
    await keys.rotate(now_s=NOW_S)
    await keys.rotate(now_s=NOW_S + HOUR_S - 1)
    assert old.id in await ids_of(keys)
    await keys.rotate(now_s=NOW_S + HOUR_S)
    assert old.id not in await ids_of(keys)


async def test_key_that_signed_nothing_is_dropped_at_once(keys: SigningKeys) -> None:
    (unused,) = await ids_of(keys)
    await keys.rotate(now_s=NOW_S)
    (new,) = await ids_of(keys)
    assert new != unused


async def test_forgetting_drops_every_older_key(keys: SigningKeys) -> None:
    for _ in range(3):
        await keys.take(NOW_S + HOUR_S)
        await keys.rotate(now_s=NOW_S)
    before = await ids_of(keys)
    assert len(before) == 4
    await keys.rotate(now_s=NOW_S, forget=True)
    (new,) = await ids_of(keys)
    assert new not in before


async def test_keys_that_were_loaded_stay_as_they_were(keys: SigningKeys) -> None:
    """A caller compares what it loaded before with what it loads now."""
    await keys.take(NOW_S + HOUR_S)
    before = await keys.load()
    told = list(before)
    await keys.rotate(now_s=NOW_S)
    assert list(before) == told


@given(st.lists(st.integers(0, 253_402_300_799), min_size=1, max_size=6))
async def test_latest_expiry_counts(lives: list[int]) -> None:
    keys = LocalSigningKeys()
    for life in lives:
        await keys.take(life)
    assert (await keys.load())[0].last_expiry_s == max(lives)
