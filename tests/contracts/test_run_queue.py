"""What every run queue promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.house import key_of

from isolane.contracts import RunQueue, ensure
from isolane.engines.memory.runqueue import LocalRunQueue
from isolane.errors import LimitExceeded

KEY = key_of()
ENGINES = [LocalRunQueue]


@pytest.fixture(params=ENGINES, ids=["local"])
def queue(request: pytest.FixtureRequest) -> RunQueue:
    made: RunQueue = request.param()
    return made


def test_it_keeps_its_contract(queue: RunQueue) -> None:
    ensure(queue, RunQueue)


def test_the_first_goes_now_and_the_others_in_order(queue: RunQueue) -> None:
    assert [queue.enter(KEY, run_id, most=5) for run_id in "abc"] == [0, 1, 2]
    assert queue.get_active(KEY) == "a"
    assert [queue.get_position(KEY, run_id) for run_id in "abcx"] == [0, 1, 2, None]
    assert queue.leave(KEY, "a") == "b"
    assert queue.get_active(KEY) == "b"
    assert queue.leave(KEY, "b") == "c"
    assert queue.leave(KEY, "c") is None
    assert queue.get_active(KEY) is None


def test_who_leaves_the_line_changes_nobodys_turn(queue: RunQueue) -> None:
    for run_id in "abc":
        queue.enter(KEY, run_id, most=5)
    assert queue.leave(KEY, "b") is None
    assert queue.get_active(KEY) == "a"
    assert queue.get_position(KEY, "c") == 1
    assert queue.leave(KEY, "never came") is None
    assert queue.leave(key_of("other"), "a") is None


def test_one_that_is_next_goes_before_all_who_wait(queue: RunQueue) -> None:
    assert queue.enter(KEY, "a", most=5, is_next=True) == 0
    assert queue.enter(KEY, "b", most=5) == 1
    assert queue.enter(KEY, "c", most=5, is_next=True) == 1
    assert [queue.get_position(KEY, run_id) for run_id in "acb"] == [0, 1, 2]
    assert queue.leave(KEY, "a") == "c"


@pytest.mark.parametrize("most", [0, 1, 5])
def test_so_many_may_wait_and_no_more(queue: RunQueue, most: int) -> None:
    for number in range(most + 1):
        assert queue.enter(KEY, str(number), most=most) == number
    for _ in range(3):
        with pytest.raises(LimitExceeded, match=f"queuedRunsPerThread is limited to {most}"):
            queue.enter(KEY, "over", most=most)
    assert queue.get_position(KEY, "over") is None
    queue.leave(KEY, "0")
    assert queue.enter(KEY, "over", most=most) == most


def test_threads_and_users_have_lines_of_their_own(queue: RunQueue) -> None:
    keys = [KEY, key_of("other"), key_of(user_id="bob"), key_of("c", user_id="a:b"), key_of("b:c")]
    assert [queue.enter(key, "same", most=0) for key in keys] == [0] * len(keys)
    queue.leave(KEY, "same")
    assert [queue.get_active(key) for key in keys] == [None, *["same"] * 4]


@pytest.mark.parametrize("engine", ENGINES, ids=["local"])
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=40))
def test_any_coming_and_going_is_that_of_a_line(
    engine: type[LocalRunQueue], moves: list[tuple[bool, str]]
) -> None:
    queue: RunQueue = engine()
    line: list[str] = []
    for comes, run_id in moves:
        if comes and run_id not in line:
            line.append(run_id)
            assert queue.enter(KEY, run_id, most=10) == len(line) - 1
        elif not comes:
            had_turn = line[:1] == [run_id]
            line = [other for other in line if other != run_id]
            assert queue.leave(KEY, run_id) == (line[0] if had_turn and line else None)
        assert queue.get_active(KEY) == (line[0] if line else None)
        assert [queue.get_position(KEY, other) for other in line] == list(range(len(line)))
