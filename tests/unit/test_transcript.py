"""The fold of events into messages: what `@ag-ui/client` makes of the same stream."""

from __future__ import annotations

from time import perf_counter

from isolane.transcript import Message, Transcript

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


def test_a_long_answer_costs_time_in_proportion() -> None:
    def cost(words: int) -> float:
        begin = perf_counter()
        transcript = Transcript()
        transcript.add(text("START"))
        for _ in range(words):
            transcript.add(text("CONTENT", delta="word " * 200))
        assert len(transcript.messages()[0]["content"]) == 1000 * words
        return perf_counter() - begin

    cost(100)
    assert cost(20_000) < 40 * max(cost(2_000), 0.001)  # 20 MB; copying all for each is 100 times


def test_events_that_leave_no_message_are_passed_over() -> None:
    assert folded({"type": "CUSTOM"}, {"type": "STEP_STARTED"}, {"type": "STATE_SNAPSHOT"}) == []
