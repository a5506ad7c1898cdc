"""Runs that were deleted a moment ago: kept for a while, some per user, at no growing cost."""

from __future__ import annotations

from tests.house import ManualClock, count_lines

from isolane.context import RunKey
from isolane.runs.recent import REMEMBERED_MS, REMEMBERED_PER_USER, RecentRuns


def test_run_is_remembered_for_its_time_and_as_its_users_only() -> None:
    clock = ManualClock()
    recent = RecentRuns(clock)
    recent.remember(RunKey("ada", "r-1"))
    recent.remember(RunKey("ada", "r-2"))
    assert RunKey("bob", "r-1") not in recent
    assert RunKey("ada", "r-1") in recent
    clock.now += REMEMBERED_MS + 1
    assert RunKey("ada", "r-2") not in recent


def test_oldest_of_a_user_goes_and_no_other_users() -> None:
    recent = RecentRuns(ManualClock())
    recent.remember(RunKey("bob", "r-0"))
    for number in range(REMEMBERED_PER_USER):
        recent.remember(RunKey("ada", f"r-{number}"))
    recent.remember(RunKey("ada", "r-0"))  # anew, so it is the youngest
    recent.remember(RunKey("ada", "one more"))
    assert RunKey("ada", "r-1") not in recent
    assert RunKey("ada", "r-0") in recent
    assert RunKey("bob", "r-0") in recent


def test_it_costs_the_same_beside_many_others() -> None:
    def cost(others: int) -> int:
        recent = RecentRuns(ManualClock())
        for number in range(others):
            recent.remember(RunKey(f"user-{number % (others // 2)}", f"r-{number}"))
        return count_lines(lambda: recent.remember(RunKey("user-0", "new"))) + count_lines(
            lambda: RunKey("user-0", "new") in recent
        )

    assert cost(10) == cost(2_000)


def test_nothing_is_kept_of_what_is_over() -> None:
    clock = ManualClock()
    recent = RecentRuns(clock)
    for number in range(100):
        recent.remember(RunKey(f"user-{number}", "r"))
    clock.now += REMEMBERED_MS + 1
    assert RunKey("user-0", "r") not in recent
    assert len(recent) == 0
