"""A dictionary whose entries expire: for how long they are kept, and at what cost."""

from __future__ import annotations

import pytest
from tests.house import ManualClock, count_lines

from isolane.expiry import ExpiringDict

LIFETIME_MS = 1_000


def test_entry_is_kept_for_its_lifetime_and_no_longer() -> None:
    clock = ManualClock()
    kept: ExpiringDict[str, int] = ExpiringDict(LIFETIME_MS, clock=clock)
    kept.put("ada", 1)
    clock.now += LIFETIME_MS
    assert ("ada" in kept, kept.get("ada"), len(kept)) == (True, 1, 1)
    clock.now += 1
    assert ("ada" in kept, kept.get("ada"), len(kept)) == (False, None, 0)


def test_entry_that_is_put_again_lives_anew() -> None:
    clock = ManualClock()
    kept: ExpiringDict[str, int] = ExpiringDict(LIFETIME_MS, clock=clock)
    kept.put("ada", 1)
    kept.put("bob", 2)
    clock.now += LIFETIME_MS
    kept.put("ada", 3)
    clock.now += 1
    assert (kept.get("ada"), kept.get("bob"), len(kept)) == (3, None, 1)


def test_oldest_is_the_one_that_was_put_longest_ago() -> None:
    kept: ExpiringDict[str, int] = ExpiringDict(LIFETIME_MS, clock=ManualClock())
    for name in ("ada", "bob", "ada"):
        kept.put(name, 1)
    kept.remove_oldest()
    assert ("ada" in kept, "bob" in kept) == (True, False)
    assert kept.get("ada") == 1
    kept.remove_oldest()
    assert len(kept) == 0
    with pytest.raises(KeyError):
        kept.remove_oldest()


def test_look_costs_the_same_beside_many_others() -> None:
    def cost(others: int) -> int:
        kept: ExpiringDict[str, int] = ExpiringDict(LIFETIME_MS, clock=ManualClock())
        for number in range(others):
            kept.put(f"user-{number}", number)
        return count_lines(lambda: kept.put("ada", 1)) + count_lines(lambda: kept.get("ada"))

    assert cost(10) == cost(2_000)
