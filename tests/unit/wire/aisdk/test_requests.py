"""What a page of AI SDK asks, in AG-UI's words."""

from __future__ import annotations

from typing import Any

import pytest

from isolane.errors import InvalidInput, RunConflict
from isolane.wire.aisdk.requests import Chat, read_chat, to_frame

Frame = dict[str, Any]


def user(*parts: Frame, message_id: str = "u") -> Frame:
    return {"id": message_id, "role": "user", "parts": [*parts]}


def text(words: str) -> Frame:
    return {"type": "text", "text": words}


def assistant(*parts: object) -> Frame:
    return {"id": "a", "role": "assistant", "parts": [*parts]}


def read(*messages: Frame, body: Frame | None = None, **request: object) -> Chat:
    return read_chat("t", {"messages": [*messages], **request}, body or {})


def framed(
    chat: Chat,
    *,
    calls: tuple[str, ...] = (),
    questions: tuple[str, ...] = (),
    rewinds: bool = False,
) -> Frame:
    answers = {call_id: f"tool_{call_id}" for call_id in calls}
    return to_frame(chat, "r", open_calls=answers, questions=questions, rewinds=rewinds)


def test_a_question() -> None:
    frame = framed(read(user(text("Hi"))))
    assert frame == {
        "threadId": "t",
        "runId": "r",
        "messages": [{"id": "u", "role": "user", "content": "Hi"}],
        "forwardedProps": {},
    }


def test_parts_of_a_question() -> None:
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"}
    paper = {"type": "file", "mediaType": "text/plain", "url": "https://a/b", "filename": "b"}
    data = {"type": "data-place", "id": "1", "data": {"x": 1}, "transient": True}
    frame = framed(read(user(text("Look"), image, paper, data, {"type": "unheard-of"})))
    source = {"type": "data", "value": "AAAA", "mimeType": "image/png"}
    other = {"type": "url", "value": "https://a/b", "mimeType": "text/plain"}
    assert frame["messages"][0]["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image", "source": source},
        {"type": "document", "source": other, "metadata": {"filename": "b"}},
    ]
    assert frame["forwardedProps"]["data"] == [{"type": "data-place", "id": "1", "data": {"x": 1}}]


def test_data_alone_is_a_question() -> None:
    assert framed(read(user({"type": "data-x", "data": 1})))["messages"][0]["content"] == ""


def test_earlier_questions_come_along_and_the_assistants_words_do_not() -> None:
    frame = framed(read(user(text("1")), assistant(text("no")), user(text("2"), message_id="v")))
    assert [message["content"] for message in frame["messages"]] == ["1", "2"]


def test_what_is_asked_again_goes_back_to_it() -> None:
    frame = framed(read(user(text("1")), trigger="regenerate-message"), rewinds=True)
    assert frame["forwardedProps"] == {"policy": "interrupt", "rewindTo": "u"}
    body = {"policy": "reject", "forwardedProps": {"rewindTo": "another", "own": 1}}
    frame = framed(read(user(text("1")), body=body), rewinds=True)
    assert frame["forwardedProps"] == {"own": 1, "policy": "reject", "rewindTo": "u"}
    assert "rewindTo" not in framed(read(user(text("1")), body=body))["forwardedProps"]


def test_what_a_page_adds_goes_where_agui_has_it() -> None:
    body = {"tools": [], "context": [], "state": {"n": 1}, "metadata": {"m": 1}, "userId": "eve"}
    frame = framed(read(user(text("1")), body=body))
    assert (frame["tools"], frame["context"], frame["state"]) == ([], [], {"n": 1})
    assert frame["forwardedProps"] == {"metadata": {"m": 1}}
    assert "userId" not in frame


OUTPUT = {"type": "tool-look", "toolCallId": "c", "state": "output-available", "output": {"a": 1}}
ERROR = {"type": "dynamic-tool", "toolName": "f", "toolCallId": "d", "state": "output-error",
         "errorText": "no"}  # fmt: skip


def test_outputs_that_the_thread_waits_for() -> None:
    chat = read(user(text("1")), assistant(OUTPUT, ERROR))
    tool = {"role": "tool", "toolCallId": "c", "id": "tool_c", "content": '{"a": 1}'}
    assert framed(chat, calls=("c",))["messages"] == [tool]
    failed = {"role": "tool", "toolCallId": "d", "id": "tool_d", "content": "no", "error": "no"}
    assert framed(chat, calls=("c", "d"))["messages"] == [tool, failed]
    with pytest.raises(RunConflict):
        framed(chat)


def test_outputs_along_with_the_next_question() -> None:
    chat = read(assistant(OUTPUT), user(text("2")))
    assert [one["role"] for one in framed(chat, calls=("c",))["messages"]] == ["tool", "user"]


@pytest.mark.parametrize(
    "part",
    [
        {**OUTPUT, "providerExecuted": True},
        {**OUTPUT, "state": "input-available"},
        {**OUTPUT, "toolCallId": 1},
        {**OUTPUT, "type": "text"},
        {**ERROR, "errorText": None},
        "nonsense",
    ],
)
def test_what_is_no_answer(part: object) -> None:
    assert not read(assistant(part), user(text("2"))).has_answers


def approval(**approval: object) -> Frame:
    return {
        "type": "tool-look",
        "toolCallId": "c",
        "state": "x",
        "approval": {"id": "q", **approval},
    }


@pytest.mark.parametrize(
    "part, entry",
    [
        (approval(approved=True), {"status": "resolved", "payload": {"approved": True}}),
        (approval(approved=False, reason="no"),
         {"status": "resolved", "payload": {"approved": False, "reason": "no"}}),
        ({"type": "dynamic-tool", "toolName": "interrupt", "toolCallId": "q",
          "state": "output-available", "output": 7}, {"status": "resolved", "payload": 7}),
        ({"type": "dynamic-tool", "toolName": "interrupt", "toolCallId": "interrupt:q",
          "input": {"id": "q"}, "state": "output-error", "errorText": "no"},
         {"status": "cancelled"}),
    ],
)  # fmt: skip
def test_decisions(part: Frame, entry: Frame) -> None:
    chat = read(assistant(part))
    assert framed(chat, questions=("q",))["resume"] == [{"interruptId": "q", **entry}]
    with pytest.raises(RunConflict):
        framed(chat)


@pytest.mark.parametrize(
    "part", [approval(), approval(approved="yes"), approval(id=1, approved=True)]
)
def test_what_is_no_decision(part: Frame) -> None:
    assert not read(assistant(part), user(text("2"))).has_answers


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "javascript:1", "data:text/plain,x", "ftp://a", "", None, 7]
)
def test_other_addresses_of_files_are_refused(url: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(user({"type": "file", "mediaType": "text/plain", "url": url}))
    assert refused.value.field == "messages.0.parts.0.url"


def test_what_an_id_was_answered_before_is_not_the_answer_to_its_newer_call() -> None:
    tool = {"type": "tool-f", "toolCallId": "c"}
    before = assistant({**tool, "state": "output-available", "output": 1})
    chat = read(before, user(text("x")), assistant({**tool, "state": "input-available"}),
                user(text("y"), message_id="v"))  # fmt: skip
    assert chat.answers == []
    assert [one["role"] for one in framed(chat, calls=("c",))["messages"]] == ["user", "user"]
    again = read(before, assistant({**tool, "state": "output-available", "output": 2}))
    assert [one["content"] for one in framed(again, calls=("c",))["messages"]] == ["2"]


def test_what_a_question_was_answered_before_is_no_answer_to_a_newer_one_of_its_id() -> None:
    tool = {"type": "tool-f", "toolCallId": "c"}
    yes = {**tool, "approval": {"id": "q", "approved": True}, "state": "approval-responded"}
    asked = {**tool, "approval": {"id": "q"}, "state": "approval-requested"}
    chat = read(assistant(yes), user(text("x")), assistant(asked), user(text("y"), message_id="v"))
    assert chat.decisions == []
    question = {"type": "dynamic-tool", "toolName": "interrupt", "toolCallId": "q"}
    said = {**question, "state": "output-available", "output": 1}
    chat = read(assistant(said), user(text("x")), assistant({**question, "input": {"id": "q"}}))
    assert chat.decisions == []


def test_who_decides_half_and_says_something_else_leaves_the_other_half() -> None:
    tool = {"type": "tool-f", "toolCallId": "c", "state": "approval-responded"}
    yes = {**tool, "approval": {"id": "p", "approved": True}}
    resolved = {"interruptId": "p", "status": "resolved", "payload": {"approved": True}}
    frame = framed(read(assistant(yes), user(text("x"))), questions=("p", "q"))
    assert frame["resume"] == [resolved, {"interruptId": "q", "status": "cancelled"}]
    assert framed(read(assistant(yes)), questions=("p", "q"))["resume"] == [resolved]
    assert "resume" not in framed(read(user(text("x"))), questions=("p", "q"))
