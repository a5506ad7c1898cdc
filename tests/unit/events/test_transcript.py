"""The fold of events into messages: what `@ag-ui/client` makes of the same stream."""

from __future__ import annotations

import tracemalloc
from copy import deepcopy

from isolane.events.patch import patched
from isolane.events.transcript import Message, Transcript

Event = dict[str, object]


def text(act: str, message_id: str = "m", **more: object) -> Event:
    return {"type": f"TEXT_MESSAGE_{act}", "messageId": message_id, **more}


def call(act: str, call_id: str = "c", **more: object) -> Event:
    return {"type": f"TOOL_CALL_{act}", "toolCallId": call_id, **more}


def folded(*events: Event, known: tuple[str, ...] = ()) -> list[Message]:
    transcript = Transcript(known_ids=known)
    for event in events:
        transcript.add(event)
    return transcript.messages()


def tool_call(call_id: str, arguments: str) -> Message:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def test_deltas_become_one_message() -> None:
    events = [text("START", role="assistant"), text("CONTENT", delta="He"),
              text("CONTENT", delta="llo"), text("END")]  # fmt: skip
    assert folded(*events) == [{"id": "m", "role": "assistant", "content": "Hello"}]


def test_messages_stand_in_the_order_of_their_starts() -> None:
    events = [text("START", "a"), text("START", "b"), text("CONTENT", "b", delta="2"),
              text("CONTENT", "a", delta="1")]  # fmt: skip
    assert [(m["id"], m["content"]) for m in folded(*events)] == [("a", "1"), ("b", "2")]


def test_a_message_that_says_nothing_is_left_out() -> None:
    assert folded(text("START"), text("END")) == []


def test_what_a_stopped_run_said_so_far_stands() -> None:
    assert folded(text("START"), text("CONTENT", delta="He"))[0]["content"] == "He"


def test_a_call_joins_the_message_it_names() -> None:
    events = [
        text("START"), text("CONTENT", delta="x"),
        call("START", toolCallName="f", parentMessageId="m"), call("ARGS", delta='{"a"'),
        call("ARGS", delta=":1}"), call("END"),
    ]  # fmt: skip
    assert folded(*events) == [
        {"id": "m", "role": "assistant", "content": "x", "toolCalls": [tool_call("c", '{"a":1}')]}
    ]


def test_a_call_without_a_message_gets_one() -> None:
    alone = folded(call("START", toolCallName="f"), call("ARGS", delta="{}"))
    named = folded(call("START", toolCallName="f", parentMessageId="p"), call("ARGS", delta="{}"))
    assert alone == [{"id": "c", "role": "assistant", "toolCalls": [tool_call("c", "{}")]}]
    assert named == [{"id": "p", "role": "assistant", "toolCalls": [tool_call("c", "{}")]}]


def test_a_result_is_a_tools_message() -> None:
    result: Event = {
        "type": "TOOL_CALL_RESULT", "messageId": "r", "toolCallId": "c", "content": "",
    }  # fmt: skip
    assert folded(result) == [{"id": "r", "role": "tool", "toolCallId": "c", "content": ""}]


def test_reasoning_is_a_message_of_its_own() -> None:
    events: list[Event] = [
        {"type": "REASONING_MESSAGE_START", "messageId": "r", "role": "reasoning"},
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r", "delta": "hm"},
    ]
    assert folded(*events) == [{"id": "r", "role": "reasoning", "content": "hm"}]


def test_an_activity_is_replaced_unless_it_says_otherwise() -> None:
    first: Event = {
        "type": "ACTIVITY_SNAPSHOT", "messageId": "a", "activityType": "plan", "content": {"n": 1},
    }  # fmt: skip
    second: Event = {**first, "content": {"n": 2}}
    assert [m["content"] for m in folded(first, second)] == [{"n": 2}]
    assert [m["content"] for m in folded(first, {**second, "replace": False})] == [{"n": 1}]


def test_a_snapshot_of_messages_replaces_what_stood_and_adds_no_history() -> None:
    snapshot: Event = {
        "type": "MESSAGES_SNAPSHOT",
        "messages": [
            {"id": "old", "role": "user", "content": "before"},
            {"id": "new", "role": "assistant", "content": "after"},
        ],
    }
    messages = folded(text("START"), text("CONTENT", delta="x"), snapshot, known=("old",))
    assert [message["id"] for message in messages] == ["new"]


def test_words_after_a_snapshot_go_on_where_it_stood() -> None:
    snapshot: Event = {
        "type": "MESSAGES_SNAPSHOT",
        "messages": [{"id": "m", "role": "assistant", "content": "Hel"}],
    }
    messages = folded(
        text("START"), text("CONTENT", delta="Hel"), snapshot, text("CONTENT", delta="lo")
    )
    assert messages[0]["content"] == "Hello"


def test_arguments_after_a_snapshot_go_on_where_it_stood() -> None:
    snapshot: Event = {
        "type": "MESSAGES_SNAPSHOT",
        "messages": [{"id": "c", "role": "assistant", "toolCalls": [tool_call("c", '{"a"')]}],
    }
    messages = folded(
        call("START", toolCallName="f"), call("ARGS", delta='{"a"'), snapshot,
        call("ARGS", delta=":1}"),
    )  # fmt: skip
    assert messages[0]["toolCalls"] == [tool_call("c", '{"a":1}')]


def test_a_message_that_opens_again_goes_on() -> None:
    events = [text("START"), text("CONTENT", delta="a"), text("END"),
              text("START"), text("CONTENT", delta="b"), text("END")]  # fmt: skip
    assert [message["content"] for message in folded(*events)] == ["ab"]


def test_looking_changes_nothing() -> None:
    transcript = Transcript()
    transcript.add(text("START"))
    transcript.add(text("CONTENT", delta="a"))
    first = transcript.messages()
    transcript.add(text("CONTENT", delta="b"))
    assert (first[0]["content"], transcript.messages()[0]["content"]) == ("a", "ab")


def test_a_long_answer_is_joined_only_when_it_is_asked_for() -> None:
    """18 MB in words of one object: a join before its time, or for each word, would copy them."""
    word, words = "word " * 200, 18_000
    transcript = Transcript()
    transcript.add(text("START"))
    transcript.add(call("START", toolCallName="f"))
    tracemalloc.start()
    for _ in range(words):
        transcript.add(text("CONTENT", delta=word))
        transcript.add(call("ARGS", delta=word))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said, called = transcript.messages()
    assert len(said["content"]) == words * len(word)
    assert len(called["toolCalls"][0]["function"]["arguments"]) == words * len(word)
    assert most < 2_000_000


def test_a_small_change_to_a_large_activity_copies_only_the_way_to_it() -> None:
    content = {"large": {str(n): [n] for n in range(1000)}, "l": []}
    after = patched(content, [{"op": "add", "path": "/l/-", "value": 1}])
    assert after == {**content, "l": [1]}
    assert after["large"] is content["large"]
    assert content["l"] == []


def test_events_that_leave_no_message_are_passed_over() -> None:
    assert folded({"type": "CUSTOM"}, {"type": "STEP_STARTED"}, {"type": "STATE_SNAPSHOT"}) == []


def test_what_another_role_says_stands_even_when_it_is_nothing() -> None:
    """A message without content would be none: the next run could not be given it."""
    assert folded(text("START", role="user")) == [{"id": "m", "role": "user", "content": ""}]


def test_a_sealed_silence_stands() -> None:
    sealed: Event = {
        "type": "REASONING_ENCRYPTED_VALUE", "subtype": "message", "entityId": "m",
        "encryptedValue": "x",
    }  # fmt: skip
    assert [message["encryptedValue"] for message in folded(text("START"), sealed)] == ["x"]


def test_a_result_stands_behind_its_call() -> None:
    result: Event = {"type": "TOOL_CALL_RESULT", "toolCallId": "c", "content": "1"}
    events = [
        call("START", toolCallName="f"), text("START"), text("CONTENT", delta="x"),
        {**result, "messageId": "r"}, {**result, "messageId": "s"},
    ]  # fmt: skip
    assert [message["id"] for message in folded(*events)] == ["c", "r", "s", "m"]


def test_a_call_of_an_earlier_runs_message_stands_by_itself() -> None:
    events = [call("START", toolCallName="f", parentMessageId="old"), call("ARGS", delta="{}")]
    assert [message["id"] for message in folded(*events, known=("old",))] == ["c"]


def test_folding_leaves_the_events_as_they_are() -> None:
    message = {"id": "m", "role": "assistant", "content": "x", "toolCalls": [tool_call("c", "{")]}
    snapshot: Event = {"type": "MESSAGES_SNAPSHOT", "messages": [message]}
    events = [
        snapshot, text("CONTENT", delta="y", metadata={"a": 1}), text("END"),
        call("START", toolCallName="other"), call("ARGS", delta="}", metadata={"a": 1}),
    ]  # fmt: skip
    before = deepcopy(events)
    assert folded(*events)[0]["content"] == "xy"
    assert events == before


def test_patch_of_something_endlessly_deep_changes_nothing() -> None:
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    snapshot: Event = {
        "type": "ACTIVITY_SNAPSHOT", "messageId": "a", "activityType": "p", "content": {"d": deep},
    }  # fmt: skip
    test: Event = {
        "type": "ACTIVITY_DELTA", "messageId": "a", "activityType": "q",
        "patch": [{"op": "test", "path": "/d", "value": [deep]}],
    }  # fmt: skip
    assert folded(snapshot, test)[0]["activityType"] == "p"
