"""How fast a user's frames are read."""

from __future__ import annotations

import pytest

from isolane.doors.rate import check_rate
from isolane.engines.memory.limits import LocalLimits
from isolane.errors import LimitExceeded


def test_frames_are_limited_to_so_many_a_minute() -> None:
    limits = LocalLimits({"framesPerMinute": 5}, clock=lambda: 0)
    for _ in range(5):
        check_rate(limits, "alice")
    with pytest.raises(LimitExceeded, match="framesPerMinute is limited to 5") as caught:
        check_rate(limits, "alice")
    assert (caught.value.retry_after_ms or 0) >= 100
    check_rate(limits, "bob")
