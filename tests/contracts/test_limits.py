"""What every keeper of limits promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolane.clock import now_ms
from isolane.contracts import Limits, ensure
from isolane.engines.memory.limits import LocalLimits
from isolane.errors import LimitExceeded

PUBLISHED = {"connectionsPerUser": 2, "runsPerUser": 1, "framesPerMinute": 5}
ENGINES = [LocalLimits]


@pytest.fixture(params=ENGINES, ids=["local"])
def limits(request: pytest.FixtureRequest) -> Limits:
    made: Limits = request.param(PUBLISHED, clock=now_ms)
    return made


def test_it_keeps_its_contract(limits: Limits) -> None:
    ensure(limits, Limits)


def test_the_published_number_is_the_enforced_one(limits: Limits) -> None:
    for _ in range(3):
        limits.take("alice", "connectionsPerUser")
        limits.take("alice", "connectionsPerUser")
        with pytest.raises(LimitExceeded, match="connectionsPerUser is limited to 2") as caught:
            limits.take("alice", "connectionsPerUser")
        assert caught.value.retry_after_ms is not None
        limits.give_back("alice", "connectionsPerUser")
        limits.give_back("alice", "connectionsPerUser")


def test_who_was_refused_holds_no_more_than_before(limits: Limits) -> None:
    limits.take("alice", "runsPerUser")
    for _ in range(10):
        with pytest.raises(LimitExceeded):
            limits.take("alice", "runsPerUser")
    limits.give_back("alice", "runsPerUser")
    limits.take("alice", "runsPerUser")


def test_users_and_limits_are_counted_apart(limits: Limits) -> None:
    limits.take("alice", "runsPerUser")
    limits.take("bob", "runsPerUser")
    limits.take("alice", "connectionsPerUser")


def test_a_rate_is_refused_with_when_to_come_back(limits: Limits) -> None:
    for _ in range(5):
        limits.hit("alice", "framesPerMinute")
    with pytest.raises(LimitExceeded, match="framesPerMinute is limited to 5") as caught:
        limits.hit("alice", "framesPerMinute")
    assert 0 < (caught.value.retry_after_ms or 0) <= 60_000
    limits.hit("bob", "framesPerMinute")


@pytest.mark.parametrize("engine", ENGINES, ids=["local"])
@given(st.lists(st.booleans(), max_size=40))
def test_any_taking_and_giving_keeps_the_count(
    engine: type[LocalLimits], moves: list[bool]
) -> None:
    limits: Limits = engine(PUBLISHED, clock=now_ms)
    held = 0
    for takes in moves:
        if takes and held < 2:
            limits.take("alice", "connectionsPerUser")
            held += 1
        elif takes:
            with pytest.raises(LimitExceeded):
                limits.take("alice", "connectionsPerUser")
        elif held:
            limits.give_back("alice", "connectionsPerUser")
            held -= 1
