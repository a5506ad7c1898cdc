"""Whether an answer answers: all that was asked, once, and nothing else."""

from __future__ import annotations

import pytest

from isolane.errors import InvalidInput, IsolaneError, RunConflict
from isolane.events.interrupts import check_answers

ASKED = [{"id": "a", "reason": "x"}, {"id": "b", "reason": "x"}]


def answers(*ids: str) -> list[dict[str, str]]:
    return [{"interruptId": one, "status": "resolved"} for one in ids]


@pytest.mark.parametrize("ids", [("a", "b"), ("b", "a")])
def test_all_of_them_in_any_order_is_an_answer(ids: tuple[str, ...]) -> None:
    check_answers(answers(*ids), ASKED)


@pytest.mark.parametrize(
    "ids, kind, says",
    [
        (("a",), InvalidInput, "b is left"),
        (("a", "b", "b"), InvalidInput, "b comes twice"),
        (("a", "b", "c"), RunConflict, "c waits for no answer here"),
        (("c",), RunConflict, "c waits for no answer here"),
    ],
)
def test_anything_else_is_told_what_is_wrong(
    ids: tuple[str, ...], kind: type[IsolaneError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        check_answers(answers(*ids), ASKED)


def test_nothing_asked_takes_no_answer() -> None:
    with pytest.raises(RunConflict):
        check_answers(answers("a"), [])
