"""Large answers are counted by user until they are read."""

from __future__ import annotations

import pytest

from isolane.doors.answers import UnreadAnswers
from isolane.errors import LimitExceeded

MOST = 100


def test_what_a_user_leaves_unread_is_bounded_and_given_back() -> None:
    unread = UnreadAnswers(send_timeout_s=60, most_bytes=MOST)
    with unread.hold("ann", 60), unread.hold("ann", 40):
        with pytest.raises(LimitExceeded, match="not read yet is limited to 100"):
            unread.check("ann")
        unread.check("bob")
        with unread.hold("bob", 99):
            assert unread.total_bytes == 199
    assert unread.total_bytes == 0
    unread.check("ann")


def test_answer_of_any_size_is_one_too_many_only_beside_others() -> None:
    unread = UnreadAnswers(send_timeout_s=60, most_bytes=MOST)
    with unread.hold("ann", 1000):
        with pytest.raises(LimitExceeded), unread.hold("ann", 1):
            pass
        with unread.hold("bob", 1), pytest.raises(LimitExceeded), unread.hold("bob", 1000):
            pass
    with unread.hold("ann", 1000):
        pass
    assert unread.total_bytes == 0
