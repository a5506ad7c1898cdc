"""What the question at the end of a run frame is to its thread."""

from __future__ import annotations

from typing import Any

import pytest
from ag_ui.core import RunAgentInput

from isolane.contracts import KnownMessage
from isolane.errors import InvalidInput, RunConflict
from isolane.runs.draft import to_offer
from isolane.runs.question import Offer


def user(message_id: str, content: object) -> dict[str, Any]:
    return {"id": message_id, "role": "user", "content": content}


ANSWER = {"id": "a", "role": "assistant", "content": "answer"}
RESULT = {"id": "x", "role": "tool", "toolCallId": "c", "content": "42"}
RULES = {"id": "s", "role": "system", "content": "obey"}


def offer_of(*messages: dict[str, Any], **more: object) -> Offer:
    given = {"threadId": "t", "runId": "r", "messages": messages, **more}
    return to_offer(RunAgentInput.model_validate(given), "default")


def known(content: object = "q", *, stands: bool = True, is_last: bool = True) -> KnownMessage:
    return KnownMessage(user("q", content), stands, is_last)


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    "messages, place",
    [
        ([user("q", "q")], 0),
        ([user("p", "p"), ANSWER, user("q", "q")], 2),
        ([user("q", "q"), RULES], 0),
        ([ANSWER, user("q", "q"), RULES, RULES], 1),
    ],
)
def test_question_is_the_users_message_that_ends_the_list(
    messages: list[dict[str, Any]], place: int
) -> None:
    question = offer_of(*messages).question
    assert question is not None
    assert (question.place, question.message) == (place, user("q", "q"))


@pytest.mark.parametrize("last", [ANSWER, RESULT])
def test_list_that_ends_in_something_else_asks_nothing(last: dict[str, Any]) -> None:
    assert offer_of(user("q", "q"), last).question is None
    assert offer_of().question is None
    assert offer_of(RULES).question is None


def test_messages_of_users_and_tools_are_taken() -> None:
    draft = offer_of(RULES, user("q", "q"), ANSWER, RESULT).draft
    assert list(draft.messages) == [user("q", "q"), RESULT]


@pytest.mark.parametrize("given", [{}, {"policy": None, "onDisconnect": None, "rewindTo": None}])
def test_null_names_nothing(given: dict[str, None]) -> None:
    offer = offer_of(user("q", "q"), forwardedProps=given)
    assert (offer.policy, offer.on_disconnect, offer.draft.rewind_to) == (None, None, None)
    assert offer.policy_for(offer.draft, default="interrupt") == "interrupt"


def test_new_question_is_asked_as_it_is() -> None:
    offer = offer_of(user("p", "p"), user("q", "q"))
    assert offer.settle(None, is_last=False) is offer.draft


def test_last_question_is_asked_again_without_the_rest_of_the_list() -> None:
    offer = offer_of(user("p", "p"), user("q", "q"), forwardedProps={"policy": "queue"})
    draft = offer.settle(known(), is_last=True)
    assert list(draft.messages) == [user("q", "q")]
    assert (draft.rewind_to, draft.asks_again) == ("q", True)
    assert offer.policy_for(draft, default="reject") == "interrupt"


@pytest.mark.parametrize(
    "named, default, policy",
    [("reject", "queue", "reject"), ("queue", "reject", "queue"), (None, "reject", "reject")],
)
def test_policy_is_what_the_frame_names_else_what_the_server_has(
    named: str | None, default: str, policy: str
) -> None:
    offer = offer_of(user("q", "q"), forwardedProps={"policy": named} if named else {})
    assert offer.policy_for(offer.draft, default=default) == policy


def test_question_that_is_asked_again_is_refused_on_a_busy_thread_where_the_frame_says_so() -> None:
    offer = offer_of(user("q", "q"), forwardedProps={"policy": "reject"})
    draft = offer.settle(known(), is_last=True)
    assert offer.policy_for(draft, default="queue") == "reject"


def test_earlier_question_is_a_conflict_that_says_what_would_be_right() -> None:
    with pytest.raises(RunConflict, match=r"forwardedProps\.rewindTo"):
        offer_of(user("p", "p"), ANSWER, user("q", "q")).settle(known(), is_last=False)


@pytest.mark.parametrize(
    "more",
    [
        {"forwardedProps": {"rewindTo": "q"}},
        {"resume": [{"interruptId": "i", "status": "resolved"}]},
    ],
)
def test_who_rewinds_or_answers_asks_nothing_again(more: dict[str, Any]) -> None:
    offer = offer_of(user("q", "q"), **more)
    assert offer.settle(known(), is_last=False) is offer.draft


def test_empty_resume_answers_nothing() -> None:
    assert offer_of(user("q", "q"), resume=[]).settle(known(), is_last=True).asks_again


@pytest.mark.parametrize(
    "one, other",
    [
        ("ab", parts("ab")),
        ("ab", parts("a", "b")),
        ("", []),
        (parts("a"), [{"type": "text", "text": "a"}, {"type": "text", "text": ""}]),
    ],
)
def test_same_words_in_another_shape_are_the_same_content(one: object, other: object) -> None:
    offer_of(user("q", one)).check_content(known(other))
    offer_of(user("q", other)).check_content(known(one))


PICTURE = {"type": "image", "source": {"type": "url", "value": "https://example.com/a.png"}}


@pytest.mark.parametrize(
    "one, other",
    [
        ("a", "b"),
        ("a", "a "),
        ("a", [*parts("a"), PICTURE]),
        ([PICTURE, *parts("a")], [*parts("a"), PICTURE]),
        ([PICTURE], [{**PICTURE, "source": {**PICTURE["source"], "value": "https://b"}}]),  # type: ignore[dict-item]
    ],
)
def test_known_id_with_other_content_names_its_field(one: object, other: object) -> None:
    offer = offer_of(ANSWER, user("q", one))
    stored = offer_of(user("q", other)).draft.messages[0]
    for stands in (True, False):
        with pytest.raises(InvalidInput) as caught:
            offer.check_content(KnownMessage(stored, stands, is_last_question=False))
        assert caught.value.field == "messages.1.id"


def test_id_of_an_answer_is_no_id_for_a_question() -> None:
    with pytest.raises(InvalidInput, match=r"messages\.0\.id"):
        offer_of(user("a", "answer")).check_content(KnownMessage(ANSWER, True, False))  # noqa: FBT003


def test_what_the_frame_takes_back_may_come_anew_in_other_words() -> None:
    edit = offer_of(user("q", "other words"), forwardedProps={"rewindTo": "q"})
    edit.check_content(known(stands=False))
    with pytest.raises(InvalidInput):  # it rewinds to a later one: this one stands still
        edit.check_content(known(stands=True))


def test_message_of_which_the_id_alone_is_kept_is_compared_with_nothing() -> None:
    offer_of(user("q", "q")).check_content(KnownMessage(None, False, False))  # noqa: FBT003


def test_two_questions_of_one_id_in_one_list_name_the_second() -> None:
    with pytest.raises(InvalidInput) as caught:
        offer_of(user("q", "one"), ANSWER, user("q", "two"), user("r", "last"))
    assert caught.value.field == "messages.2.id"
    assert len(offer_of(user("q", "one"), user("q", parts("one"))).draft.messages) == 2
