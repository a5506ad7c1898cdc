"""Rates: what is counted for how long, and at what cost beside many others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.house import ManualClock, count_lines

from isolane.engines.memory.rates import HOUR_MS, MINUTE_MS, SlidingWindow

MOST = 4


def sliding(timer: ManualClock) -> Callable[[str], int]:
    window = SlidingWindow(MINUTE_MS, timer=timer)
    return lambda key: window.hit(key, MOST)


def fixed(timer: ManualClock) -> Callable[[str], int]:
    window = SlidingWindow(MINUTE_MS, timer=timer, is_fixed=True)
    return lambda key: window.hit(key, MOST)


each = pytest.mark.parametrize("make", [sliding, fixed])


@each
def test_as_many_pass_as_it_says_and_no_more(
    make: Callable[[ManualClock], Callable[[str], int]],
) -> None:
    timer = ManualClock()
    hit = make(timer)
    assert [hit("ada") for _ in range(MOST)] == [0] * MOST
    assert hit("ada") == MINUTE_MS
    assert hit("bob") == 0
    timer.now += HOUR_MS
    assert [hit("ada") for _ in range(MOST)] == [0] * MOST
    assert hit("ada") > 0


@each
def test_who_comes_back_when_told_to_is_let_in(
    make: Callable[[ManualClock], Callable[[str], int]],
) -> None:
    timer = ManualClock()
    hit = make(timer)
    for _ in range(5 * MOST):
        while wait_ms := hit("ada"):
            assert 0 < wait_ms <= MINUTE_MS
            timer.now += wait_ms
        timer.now += 7_001


@each
def test_one_costs_the_same_beside_many_others(
    make: Callable[[ManualClock], Callable[[str], int]],
) -> None:
    def cost(others: int) -> int:
        hit = make(ManualClock())
        for number in range(others):
            hit(f"user-{number}")
        return count_lines(lambda: hit("ada"))

    assert cost(10) == cost(2_000)


def test_a_sliding_window_counts_the_last_one_by_what_is_left_of_it() -> None:
    timer = ManualClock()
    window = SlidingWindow(MINUTE_MS, timer=timer)
    assert window.hit("ada", 100, cost=100) == 0
    timer.now += MINUTE_MS
    assert window.hit("ada", 100, cost=50) == MINUTE_MS // 2
    timer.now += MINUTE_MS // 2
    assert window.hit("ada", 100, cost=50) == 0


def test_nothing_is_kept_of_windows_that_are_over() -> None:
    timer = ManualClock()
    window = SlidingWindow(MINUTE_MS, timer=timer)
    for number in range(100):
        window.hit(number, 2)
    timer.now += 2 * MINUTE_MS + 1
    window.hit("ada", 2)
    assert len(window) == 1
