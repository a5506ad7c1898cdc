"""Aborts that came before their runs: kept for a while, some of each user's, at no growing cost."""

from __future__ import annotations

from tests.house import ManualClock, count_lines

from isolane.context import RunKey
from isolane.runs.aborts import REMEMBERED_MS, REMEMBERED_PER_USER, RecentRuns


def test_abort_is_taken_once_and_not_after_its_time() -> None:
    clock = ManualClock()
    aborts = RecentRuns(clock)
    aborts.remember(RunKey("ada", "r-1"))
    aborts.remember(RunKey("ada", "r-2"))
    assert RunKey("bob", "r-1") not in aborts
    assert RunKey("ada", "r-1") in aborts
    assert aborts.take(RunKey("ada", "r-1")) is not None
    assert aborts.take(RunKey("ada", "r-1")) is None
    clock.now += REMEMBERED_MS + 1
    assert RunKey("ada", "r-2") not in aborts
    assert aborts.take(RunKey("ada", "r-2")) is None


def test_oldest_of_a_user_goes_and_no_other_users() -> None:
    aborts = RecentRuns(ManualClock())
    aborts.remember(RunKey("bob", "r-0"))
    for number in range(REMEMBERED_PER_USER):
        aborts.remember(RunKey("ada", f"r-{number}"))
    aborts.remember(RunKey("ada", "r-0"))  # anew, so it is the youngest
    aborts.remember(RunKey("ada", "one more"))
    assert aborts.take(RunKey("ada", "r-1")) is None
    assert aborts.take(RunKey("ada", "r-0")) is not None
    assert aborts.take(RunKey("bob", "r-0")) is not None


def test_abort_costs_the_same_beside_many_others() -> None:
    def cost(others: int) -> int:
        aborts = RecentRuns(ManualClock())
        for number in range(others):
            aborts.remember(RunKey(f"user-{number % (others // 2)}", f"r-{number}"))
        return count_lines(lambda: aborts.remember(RunKey("user-0", "new"))) + count_lines(
            lambda: aborts.take(RunKey("user-0", "new"))
        )

    assert cost(10) == cost(2_000)


def test_nothing_is_kept_of_what_is_over() -> None:
    clock = ManualClock()
    aborts = RecentRuns(clock)
    for number in range(100):
        aborts.remember(RunKey(f"user-{number}", "r"))
    clock.now += REMEMBERED_MS + 1
    assert aborts.take(RunKey("user-0", "r")) is None
    assert len(aborts) == 0
