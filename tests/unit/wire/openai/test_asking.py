"""What requests of OpenAI's APIs ask for, and what of them is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ag_ui.core import RunAgentInput
from hypothesis import given
from hypothesis import strategies as st

from isolane.errors import InvalidInput
from isolane.wire.openai.asking import (
    CompletionAsked,
    ResponseAsked,
    get_instructions,
    get_unheard,
    read_completion,
    read_response,
)

Body = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ITEM = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
PNG = "data:image/png;base64,iVBO"


def completion(*messages: object, **more: object) -> CompletionAsked:
    return read_completion({"model": "a", "messages": list(messages), **more}, str)


def response(given: object, **more: object) -> ResponseAsked:
    return read_response({"model": "a", "input": given, **more}, str)


def content_of(part: object) -> object:
    return completion({"role": "user", "content": [part, part]}).added[0]["content"][0]


# --- lists ---------------------------------------------------------------------------------------


def test_the_last_block_is_added_and_the_rest_is_history() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Be "}]}
    caller = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    answer = {"role": "tool", "tool_call_id": "c", "content": "1"}
    asked = completion(system, USER, caller, answer, USER)
    assert asked.history == [
        {"id": "0", "role": "system", "content": "Be "},
        {"id": "1", "role": "user", "content": "Hi"},
        {"id": "2", "role": "assistant", "toolCalls": [CALL]},
    ]
    assert asked.added == [
        {"id": "3", "role": "tool", "toolCallId": "c", "content": "1"},
        {"id": "4", "role": "user", "content": "Hi"},
    ]


def test_of_a_list_whose_history_is_kept_only_what_is_new_counts() -> None:
    told = {"role": "developer", "content": "Rhyme."}
    asked = completion(USER, {"role": "assistant", "content": "x"}, USER, told, USER)
    assert [one["id"] for one in get_unheard(asked)] == ["2", "4"]
    assert get_instructions(asked.history) == ["Rhyme."]


def test_the_items_of_a_response_become_messages() -> None:
    said = {"type": "message", "role": "assistant", "id": "x", "status": "completed",
            "content": [{"type": "output_text", "text": "a", "annotations": []}]}  # fmt: skip
    thought = {"type": "reasoning", "summary": []}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    asked = response([USER, thought, said, ITEM, {**ITEM, "call_id": "d"}, output])
    assert asked.history == [
        {"id": "0", "role": "user", "content": "Hi"},
        {"id": "2", "role": "assistant", "content": "a",
         "toolCalls": [CALL, {**CALL, "id": "d"}]},
    ]  # fmt: skip
    assert asked.added == [{"id": "5", "role": "tool", "toolCallId": "c", "content": "1"}]


def test_a_text_alone_is_what_a_user_says() -> None:
    asked = response("Hi", instructions="Be brief.")
    assert asked.added == [{"id": "0", "role": "user", "content": "Hi"}]
    assert (asked.instructions, asked.is_stored, asked.is_continued) == ("Be brief.", True, False)


def test_approvals_answer_questions() -> None:
    given = {"type": "mcp_approval_response", "approval_request_id": "i", "approve": False}
    asked = response([given, {**given, "approve": True, "reason": "ok"}], previous_response_id="p")
    assert asked.added == []
    assert asked.resume == [
        {"interruptId": "i", "status": "resolved", "payload": {"approved": False}},
        {"interruptId": "i", "status": "resolved", "payload": {"approved": True, "reason": "ok"}},
    ]
    assert asked.is_continued


@pytest.mark.parametrize(
    "part, expected",
    [
        ({"type": "text", "text": "a"}, {"type": "text", "text": "a"}),
        ({"type": "input_text", "text": "a"}, {"type": "text", "text": "a"}),
        (
            {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
            {"type": "image", "source": {"type": "data", "value": "iVBO", "mimeType": "image/png"}},
        ),
        (
            {"type": "input_image", "image_url": "HTTPS://x/y.png"},
            {"type": "image", "source": {"type": "url", "value": "HTTPS://x/y.png"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}},
            {"type": "audio", "source": {"type": "data", "value": "AA", "mimeType": "audio/mpeg"}},
        ),
        (
            {"type": "file", "file": {"file_data": "AA", "filename": "a.pdf"}},
            {"type": "document", "metadata": {"filename": "a.pdf"},
             "source": {"type": "data", "value": "AA", "mimeType": "application/pdf"}},
        ),
        (
            {"type": "input_file", "file_data": "data:text/csv;charset=utf-8;base64,AA"},
            {"type": "document", "source": {"type": "data", "value": "AA", "mimeType": "text/csv"}},
        ),
        (
            {"type": "input_file", "file_url": "http://x/y"},
            {"type": "document", "source": {"type": "url", "value": "http://x/y"}},
        ),
    ],
)  # fmt: skip
def test_parts_become_parts(part: object, expected: object) -> None:
    assert content_of(part) == expected
    message = {"id": "m", "role": "user", "content": [expected]}
    RunAgentInput.model_validate({"threadId": "t", "runId": "r", "messages": [message]})


# --- parameters ----------------------------------------------------------------------------------


def test_tools_are_named_alike_in_both() -> None:
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    tools = [{"name": "f", "description": "", "parameters": {"type": "object"}}]
    assert completion(USER, tools=[{"type": "function", "function": function}]).tools == tools
    assert response("Hi", tools=[{"type": "function", **function}]).tools == tools
    assert response("Hi", tools=[{"type": "function", **function}], tool_choice="none").tools == []


def test_parameters_for_agents_are_handed_on() -> None:
    asked = completion(USER, temperature=0.5, user="somebody", logit_bias={"1": 2}, seed=None)
    assert asked.props == {"temperature": 0.5, "user": "somebody"}


def test_a_completion_says_how_it_is_answered() -> None:
    plain, wanted = completion(USER), completion(
        USER, stream=True, store=True, stream_options={"include_usage": True},
        metadata={"isolane_thread": "t"},
    )  # fmt: skip
    assert (plain.is_streamed, plain.is_stored, plain.tells_usage, plain.thread_id) == (
        False, False, False, None,
    )  # fmt: skip
    assert (wanted.is_streamed, wanted.is_stored, wanted.tells_usage, wanted.thread_id) == (
        True, True, True, "t",
    )  # fmt: skip


def test_a_conversation_is_named_by_id_or_object() -> None:
    assert response("Hi", conversation="t").conversation_id == "t"
    assert response("Hi", conversation={"id": "t"}).conversation_id == "t"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, body",
    [
        ("messages", {}),
        ("messages", {"messages": []}),
        ("messages", {"messages": [USER, {"role": "assistant", "content": "x"}]}),
        ("messages.0", {"messages": [5]}),
        ("messages.0.role", {"messages": [{"role": "function", "content": "x"}]}),
        ("messages.0.role", {"messages": [{"role": ["user"], "content": "x"}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": []}]}),
        ("messages.0.content.0.type", {"messages": [{"role": "user", "content": [{}]}]}),
        ("messages.0.tool_call_id", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages.0.function_call", {"messages": [{"role": "assistant", "function_call": {}}]}),
        (
            "messages.0.tool_calls.0.type",
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
        ),
        ("model", {"messages": [USER], "model": None}),
        ("n", {"messages": [USER], "n": 2}),
        ("n", {"messages": [USER], "n": True}),
        ("audio", {"messages": [USER], "audio": {"voice": "x"}}),
        ("modalities", {"messages": [USER], "modalities": ["text", "audio"]}),
        ("stream", {"messages": [USER], "stream": "yes"}),
        ("tools", {"messages": [USER], "tools": {"a": 1}}),
        ("tools.0.type", {"messages": [USER], "tools": [{"type": "custom"}]}),
        ("tools.0.name", {"messages": [USER], "tools": [{"type": "function", "function": {}}]}),
        ("metadata", {"messages": [USER], "metadata": "x"}),
    ],
)
def test_what_a_completion_cannot_have_is_named(field: str, body: Body) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_completion({"model": "a", **body}, str)
    assert refused.value.field == field


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_content_of_another_kind_says_what_would_do(role: str) -> None:
    message = {"role": role, "content": 5, "tool_call_id": "c"}
    with pytest.raises(InvalidInput, match="must be text or a list of parts"):
        read_completion({"model": "a", "messages": [message]}, str)


@pytest.mark.parametrize(
    "field, part",
    [
        ("type", {"type": "video"}),
        ("type", {"type": ["text"]}),
        ("image_url", {"type": "image_url", "image_url": "x"}),
        ("image_url.url", {"type": "image_url", "image_url": {"url": "ftp://x"}}),
        ("image_url.url", {"type": "image_url", "image_url": {"url": "data:image/png,x"}}),
        ("file_id", {"type": "input_image", "file_id": "f"}),
        ("file.file_id", {"type": "file", "file": {"file_id": "f"}}),
        ("file_url", {"type": "input_file", "file_url": "file:///etc/passwd"}),
        ("input_audio.format", {"type": "input_audio",
                                "input_audio": {"data": "", "format": "x"}}),
    ],
)  # fmt: skip
def test_what_a_part_cannot_have_is_named(field: str, part: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        content_of(part)
    assert refused.value.field == f"messages.0.content.0.{field}"


@pytest.mark.parametrize(
    "field, body",
    [
        ("input", {}),
        ("input", {"input": [ITEM]}),
        ("input.0.type", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("input.0.type", {"input": [{"type": ["message"], "role": "user", "content": "x"}]}),
        ("input.0.approve", {"input": [{"type": "mcp_approval_response"}]}),
        ("tools.0.type", {"input": "x", "tools": [{"type": "web_search"}]}),
        ("conversation", {"input": "x", "conversation": "t", "previous_response_id": "p"}),
        ("conversation.id", {"input": "x", "conversation": {}}),
        ("background", {"input": "x", "background": True, "store": False}),
        ("store", {"input": "x", "conversation": "t", "store": False}),
        ("instructions", {"input": "x", "instructions": [1]}),
    ],
)
def test_what_a_response_cannot_have_is_named(field: str, body: Body) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_response({"model": "a", **body}, str)
    assert refused.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(
        ["type", "role", "content", "text", "tool_calls", "function", "image_url", "file", "id"]
    ), inner | st.sampled_from(["user", "assistant", "message", "text", "file"]), max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(
    ["messages", "input", "tools", "n", "metadata", "stream_options", "conversation", "store"]
), JSON))  # fmt: skip
def test_anything_is_taken_or_refused(body: dict[str, Any]) -> None:
    for read in (read_completion, read_response):
        try:
            read({"model": "a", **body}, str)
        except InvalidInput:
            continue
