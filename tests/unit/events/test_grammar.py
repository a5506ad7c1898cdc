"""The legal order of a run's events, judged against a second writing of the client's rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.verifier import Event, IllegalStreamError, Verifier, verify

from isolane.errors import AgentProtocolError
from isolane.events.grammar import RunGrammar


def event(kind: str, **fields: object) -> Event:
    return {"type": kind, **fields}


def text(act: str, message_id: str = "m", **more: object) -> Event:
    return event(f"TEXT_MESSAGE_{act}", messageId=message_id, **more)


def call(act: str, call_id: str = "c", **more: object) -> Event:
    return event(f"TOOL_CALL_{act}", toolCallId=call_id, **more)


def reasoning(act: str, message_id: str = "m", **more: object) -> Event:
    return event(f"REASONING_{act}", messageId=message_id, **more)


def step(act: str, name: str = "s", **more: object) -> Event:
    return event(f"STEP_{act}", stepName=name, **more)


def subagent(act: str, run: str = "a", **more: object) -> Event:
    return event(f"SUBAGENT_{act}", subagentRunId=run, name="n", message="x", **more)


def passed(stream: Sequence[Event]) -> list[Event]:
    """Return what goes into the log for `stream`, its closing ends included."""
    grammar = RunGrammar()
    through = [legal for one in stream for legal in grammar.accept(one)]
    return [*through, *grammar.close()]


LEGAL: dict[str, list[Event]] = {
    "nothing": [],
    "text": [text("START"), text("CONTENT", delta="x"), text("END")],
    "two texts at once": [text("START", "a"), text("START", "b"), text("CONTENT", "a"),
                          text("END", "b"), text("END", "a")],
    "a text that opens again": [text("START"), text("END"), text("START"), text("END")],
    "call": [call("START", toolCallName="f"), call("ARGS", delta="{"), call("END"),
             event("TOOL_CALL_RESULT", messageId="r", toolCallId="c", content="1")],
    "a result without a call": [
        event("TOOL_CALL_RESULT", messageId="r", toolCallId="c", content=""),
    ],
    "reasoning": [reasoning("START"), reasoning("MESSAGE_START"), reasoning("MESSAGE_CONTENT"),
                  reasoning("MESSAGE_END"), reasoning("END")],
    "reasoning message alone": [reasoning("MESSAGE_START"), reasoning("MESSAGE_END")],
    "one id for text and reasoning": [
        text("START"), reasoning("START"), reasoning("END"), text("END"),
    ],
    "steps": [step("STARTED"), step("STARTED", "t"), step("FINISHED"), step("FINISHED", "t")],
    "a step once more": [step("STARTED"), step("FINISHED"), step("STARTED"), step("FINISHED")],
    "subagents": [subagent("STARTED"), subagent("STARTED", "b", parentSubagentRunId="a"),
                  subagent("ERROR"), subagent("FINISHED", "b")],
    "a parent that has finished": [
        subagent("STARTED"), subagent("FINISHED"),
        subagent("STARTED", "b", parentSubagentRunId="a"), subagent("FINISHED", "b"),
    ],
    "one step name in two subagents": [
        step("STARTED"), step("STARTED", subagentRunId="a"), step("FINISHED"),
        step("FINISHED", subagentRunId="a"),
    ],
    "a subagent's text": [text("START", subagentRunId="a"), text("CONTENT", delta="x"),
                          text("CONTENT", delta="y", subagentRunId="a"), text("END")],
    "a call of a subagent's message": [
        text("START", subagentRunId="a"), call("START", toolCallName="f", parentMessageId="m"),
        call("ARGS", delta="{}", subagentRunId="a"), call("END"), text("END"),
    ],
    "state, activity and the rest": [
        event("STATE_SNAPSHOT", snapshot={}), event("STATE_DELTA", delta=[]),
        event("MESSAGES_SNAPSHOT", messages=[]), event("ACTIVITY_DELTA", messageId="a", patch=[]),
        event("ACTIVITY_SNAPSHOT", messageId="a", content={}), event("RAW", event={}),
        event("CUSTOM", name="n", value=None),
        event("REASONING_ENCRYPTED_VALUE", entityId="m", subtype="message", encryptedValue=""),
    ],
}  # fmt: skip


@pytest.mark.parametrize("stream", LEGAL.values(), ids=LEGAL)
def test_a_legal_stream_passes_unchanged(stream: list[Event]) -> None:
    verify(stream)
    assert passed(stream) == stream


ILLEGAL: dict[str, list[Event]] = {
    "content without start": [text("CONTENT", delta="x")],
    "end without start": [text("END")],
    "start twice": [text("START"), text("START")],
    "content after end": [text("START"), text("END"), text("CONTENT", delta="x")],
    "end twice": [text("START"), text("END"), text("END")],
    "another id": [text("START", "a"), text("CONTENT", "b", delta="x")],
    "args without start": [call("ARGS", delta="x")],
    "call end without start": [call("END")],
    "call twice": [call("START"), call("START")],
    "reasoning content in a span only": [reasoning("START"), reasoning("MESSAGE_CONTENT")],
    "reasoning end without start": [reasoning("END")],
    "reasoning twice": [reasoning("START"), reasoning("START")],
    "step twice": [step("STARTED"), step("STARTED")],
    "step end without start": [step("FINISHED")],
    "another's step": [step("STARTED"), step("FINISHED", subagentRunId="a")],
    "subagent end without start": [subagent("FINISHED")],
    "subagent error without start": [subagent("ERROR")],
    "subagent twice": [subagent("STARTED"), subagent("STARTED")],
    "a spent subagent": [subagent("STARTED"), subagent("FINISHED"), subagent("STARTED")],
    "an unknown parent": [subagent("STARTED", parentSubagentRunId="z")],
    "its own parent": [subagent("STARTED", parentSubagentRunId="a")],
    "another subagent's content": [
        text("START", subagentRunId="a"), text("CONTENT", subagentRunId="b"),
    ],
    "a subagent's content in the parent's text": [
        text("START"), text("CONTENT", subagentRunId="a"),
    ],
    "opened again by another": [
        text("START", subagentRunId="a"), text("END"), text("START", subagentRunId="b"),
    ],
    "opened again by a subagent": [text("START"), text("END"), text("START", subagentRunId="a")],
    "a call opened again by another": [
        call("START", subagentRunId="a"), call("END"), call("START", subagentRunId="b"),
    ],
    "another's reasoning message in a span": [
        reasoning("START", subagentRunId="a"), reasoning("MESSAGE_START", subagentRunId="b"),
    ],
    "a call in another's message": [
        text("START"), call("START", parentMessageId="m", subagentRunId="a"),
    ],
    "the result's message opened by another": [
        event("TOOL_CALL_RESULT", messageId="m", toolCallId="c", content=""),
        text("START", subagentRunId="a"),
    ],
    "another's encrypted value": [
        text("START"),
        event("REASONING_ENCRYPTED_VALUE", entityId="m", subtype="message", subagentRunId="a"),
    ],
    "another's activity": [
        event("ACTIVITY_SNAPSHOT", messageId="m", content={}),
        event("ACTIVITY_DELTA", messageId="m", patch=[], subagentRunId="a"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("stream", ILLEGAL.values(), ids=ILLEGAL)
def test_what_clients_would_refuse_is_the_agents_fault(stream: list[Event]) -> None:
    with pytest.raises(IllegalStreamError):
        verify(stream)
    grammar = RunGrammar()
    for one in stream[:-1]:
        list(grammar.accept(one))
    with pytest.raises(AgentProtocolError):
        list(grammar.accept(stream[-1]))


@pytest.mark.parametrize(
    "kind", ["RUN_STARTED", "RUN_FINISHED", "RUN_ERROR", "NO_SUCH_EVENT", "", "THINKING_START"]
)
def test_what_is_not_an_agents_to_send_is_refused(kind: str) -> None:
    with pytest.raises(AgentProtocolError, match="not an agent's to send"):
        list(RunGrammar().accept(event(kind)))


@pytest.mark.parametrize(
    "broken", [event("TEXT_MESSAGE_START"), event("TEXT_MESSAGE_START", messageId=5),
               event("STEP_STARTED"), event("SUBAGENT_STARTED", name="x"),
               event("TOOL_CALL_CHUNK", toolCallId="c")],
    ids=["message", "number", "step", "subagent", "chunk"],
)  # fmt: skip
def test_what_lacks_its_id_is_refused(broken: Event) -> None:
    with pytest.raises(AgentProtocolError, match="needs a"):
        list(RunGrammar().accept(broken))


def test_a_refused_event_changes_nothing() -> None:
    grammar = RunGrammar()
    list(grammar.accept(text("START")))
    for wrong in (
        text("START"),
        text("CONTENT", "z", delta="x"),
        subagent("FINISHED"),
        call("END"),
    ):
        with pytest.raises(AgentProtocolError):
            list(grammar.accept(wrong))
    assert list(grammar.accept(text("CONTENT", delta="x"))) == [text("CONTENT", delta="x")]
    assert list(grammar.close()) == [text("END")]


# --- chunks --------------------------------------------------------------------------------------


def test_chunks_are_spelled_out() -> None:
    stream = [
        text("CHUNK", delta="He"),
        event("TEXT_MESSAGE_CHUNK", delta="llo"),
        call("CHUNK", toolCallName="f", parentMessageId="m", delta="{"),
        call("CHUNK", delta="}"),
        reasoning("MESSAGE_CHUNK", "r", delta="hm"),
    ]
    assert passed(stream) == [
        text("START", role="assistant"),
        text("CONTENT", delta="He"),
        text("CONTENT", delta="llo"),
        text("END"),
        call("START", toolCallName="f", parentMessageId="m"),
        call("ARGS", delta="{"),
        call("ARGS", delta="}"),
        call("END"),
        reasoning("MESSAGE_START", "r", role="reasoning"),
        reasoning("MESSAGE_CONTENT", "r", delta="hm"),
        reasoning("MESSAGE_END", "r"),
    ]


def test_another_id_ends_the_chunk_before() -> None:
    stream = [text("CHUNK", "a", delta="1", role="user"), text("CHUNK", "b", delta="2")]
    assert passed(stream) == [
        text("START", "a", role="user"),
        text("CONTENT", "a", delta="1"),
        text("END", "a"),
        text("START", "b", role="assistant"),
        text("CONTENT", "b", delta="2"),
        text("END", "b"),
    ]


def test_a_chunk_keeps_its_subagent() -> None:
    stream = [text("CHUNK", delta="1", subagentRunId="a"), text("CHUNK", delta="2")]
    through = passed(stream)
    verify(through)
    assert through[0] == text("START", subagentRunId="a", role="assistant")
    assert through[-1] == text("END", subagentRunId="a")


@pytest.mark.parametrize(
    "stream",
    [
        [event("TEXT_MESSAGE_CHUNK", delta="x")],
        [event("TOOL_CALL_CHUNK", toolCallName="f", delta="x")],
        [call("CHUNK", delta="x")],
        [
            text("CHUNK", delta="x"),
            event("STEP_STARTED", stepName="s"),
            event("TEXT_MESSAGE_CHUNK"),
        ],
        [text("START"), text("CHUNK", delta="x")],
    ],
    ids=["text id", "call id", "call name", "ended by a step", "open already"],
)
def test_a_first_chunk_says_what_it_begins(stream: list[Event]) -> None:
    grammar = RunGrammar()
    for one in stream[:-1]:
        list(grammar.accept(one))
    with pytest.raises(AgentProtocolError):
        list(grammar.accept(stream[-1]))


@pytest.mark.parametrize(
    "between",
    [event("RAW", event={}), event("ACTIVITY_SNAPSHOT", messageId="x", content={})],
    ids=lambda one: str(one["type"]),
)
def test_what_clients_let_pass_between_two_chunks_may_come_between(between: Event) -> None:
    through = passed([text("CHUNK", delta="1"), between, event("TEXT_MESSAGE_CHUNK", delta="2")])
    verify(through)
    assert "".join(one.get("delta", "") for one in through) == "12"


def test_each_producer_has_a_chunk_under_way_of_its_own() -> None:
    stream = [
        text("CHUNK", "m", delta="1"),
        text("CHUNK", "n", delta="a", subagentRunId="s"),
        event("TEXT_MESSAGE_CHUNK", delta="2"),
        event("TEXT_MESSAGE_CHUNK", delta="b", subagentRunId="s"),
        event("CUSTOM", name="n", value=None, subagentRunId="s"),
        event("TEXT_MESSAGE_CHUNK", delta="3"),
    ]
    through = passed(stream)
    verify(through)
    said = [
        (one["messageId"], one.get("delta", one["type"])) for one in through if "name" not in one
    ]
    assert said == [
        ("m", "TEXT_MESSAGE_START"), ("m", "1"), ("n", "TEXT_MESSAGE_START"), ("n", "a"),
        ("m", "2"), ("n", "b"), ("n", "TEXT_MESSAGE_END"), ("m", "3"), ("m", "TEXT_MESSAGE_END"),
    ]  # fmt: skip


def test_nameless_chunk_goes_on_with_the_only_one_there_is() -> None:
    stream = [
        text("CHUNK", "n", delta="a", subagentRunId="s"),
        event("TEXT_MESSAGE_CHUNK", delta="b"),
    ]
    content = [one for one in passed(stream) if "delta" in one]
    assert content == [text("CONTENT", "n", delta=one, subagentRunId="s") for one in "ab"]


def test_chunk_that_may_be_anybodys_is_refused() -> None:
    grammar = RunGrammar()
    for owner in ("s", "u"):
        list(grammar.accept(text("CHUNK", owner, subagentRunId=owner, delta="x")))
    with pytest.raises(AgentProtocolError, match="names none"):
        list(grammar.accept(event("TEXT_MESSAGE_CHUNK", delta="x")))


@pytest.mark.parametrize(
    "first,second",
    [
        (text("CHUNK"), {"role": "user"}),
        (text("CHUNK", name="Ann"), {"name": "Bob"}),
        (text("CHUNK"), {"subagentRunId": "s"}),
        (call("CHUNK", toolCallName="f"), {"toolCallName": "g"}),
        (call("CHUNK", toolCallName="f"), {"parentMessageId": "p"}),
    ],
    ids=["role", "name", "subagent", "tool", "parent"],
)
def test_a_chunk_may_repeat_what_the_first_said_and_not_contradict_it(
    first: Event, second: Event
) -> None:
    grammar = RunGrammar()
    list(grammar.accept(first))
    list(grammar.accept(first))
    with pytest.raises(AgentProtocolError, match="not that of its first chunk"):
        list(grammar.accept(first | second))


def test_a_chunk_takes_along_what_it_carries_beside_its_words() -> None:
    stream = [text("CHUNK", metadata={"a": 1}, rawEvent=5), text("CHUNK", metadata={"usage": 2})]
    assert passed(stream) == [
        text("START", role="assistant", metadata={"a": 1}),
        text("CONTENT", delta="", metadata={"a": 1}, rawEvent=5),
        text("CONTENT", delta="", metadata={"usage": 2}),
        text("END"),
    ]


# --- what could not be written -------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        text("START"),
        call("START", toolCallName="f"),
        reasoning("MESSAGE_START"),
        step("STARTED"),
        subagent("STARTED"),
        text("CHUNK", delta="x"),
    ],
    ids=lambda one: str(one["type"]),
)
def test_what_was_never_written_was_never_said(start: Event) -> None:
    grammar = RunGrammar()
    offered = grammar.accept(start)
    next(offered)  # and then the log refuses it
    del offered
    assert list(grammar.close()) == []
    assert len(list(grammar.accept(start))) >= 1  # so that it may be said again


# --- the end -------------------------------------------------------------------------------------


def test_close_ends_everything_newest_first_and_only_once() -> None:
    grammar = RunGrammar()
    for one in (subagent("STARTED"), step("STARTED", subagentRunId="a"), text("START"),
                call("START"), reasoning("START"), reasoning("MESSAGE_START"),
                text("CHUNK", "chunk", delta="x")):  # fmt: skip
        list(grammar.accept(one))
    assert list(grammar.close()) == [
        text("END", "chunk"),
        reasoning("MESSAGE_END"),
        reasoning("END"),
        call("END"),
        text("END"),
        step("FINISHED", subagentRunId="a"),
        event("SUBAGENT_FINISHED", subagentRunId="a"),
    ]
    assert list(grammar.close()) == []


def test_an_end_names_whoever_owns_what_ends() -> None:
    """A result or a snapshot may give what is open to another, or back to the parent."""
    message = {"id": "m", "role": "assistant", "content": ""}
    result = event("TOOL_CALL_RESULT", messageId="m", toolCallId="c", content="", subagentRunId="b")
    given_back = event("MESSAGES_SNAPSHOT", messages=[message])
    for between, owner in ((result, {"subagentRunId": "b"}), (given_back, {})):
        through = passed([text("START", subagentRunId="a"), between])
        verify(through)
        assert through[-1] == text("END", **owner)


def test_only_an_assistants_tool_calls_have_an_owner() -> None:
    odd = {"id": "m", "role": "user", "content": "x", "toolCalls": 5}
    assert passed([event("MESSAGES_SNAPSHOT", messages=[odd])])[0]["messages"] == [odd]


# --- the fuzzer ----------------------------------------------------------------------------------

_IDS = st.sampled_from(["a", "b"])
_OWNER: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {}, {"subagentRunId": "s"}, {"subagentRunId": "u"}]
)


@st.composite
def events(draw: st.DrawFn, *, chunks: bool) -> Event:
    kinds = [
        "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END",
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT",
        "REASONING_START", "REASONING_END", "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END", "REASONING_ENCRYPTED_VALUE",
        "STEP_STARTED", "STEP_FINISHED", "SUBAGENT_STARTED", "SUBAGENT_FINISHED",
        "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA", "CUSTOM",
    ]  # fmt: skip
    if chunks:
        kinds += ["TEXT_MESSAGE_CHUNK", "TOOL_CALL_CHUNK", "REASONING_MESSAGE_CHUNK"]
    kind, one = draw(st.sampled_from(kinds)), draw(_IDS)
    if kind.startswith("SUBAGENT"):
        parent = {"parentSubagentRunId": draw(st.sampled_from(["s", "u"]))}
        run = draw(st.sampled_from(["s", "u"]))
        return event(kind, subagentRunId=run, name="n", **(parent if draw(st.booleans()) else {}))
    owner = draw(_OWNER)
    if kind.startswith("STEP"):
        return event(kind, stepName=one, **owner)
    if kind == "REASONING_ENCRYPTED_VALUE":
        subtype = draw(st.sampled_from(["message", "tool-call"]))
        return event(kind, entityId=one, subtype=subtype, encryptedValue="x", **owner)
    fields: dict[str, Any] = {"delta": draw(st.sampled_from(["x", ""])), **owner}
    if kind.startswith("TOOL_CALL"):
        fields |= {"toolCallId": one, "toolCallName": "f"}
        parent = {"parentMessageId": draw(_IDS)}
        fields |= parent if draw(st.booleans()) else {}
    if kind == "TOOL_CALL_RESULT":
        fields |= {"messageId": draw(_IDS), "content": ""}
    if not kind.startswith("TOOL_CALL"):
        fields |= {"messageId": one}
    if kind.endswith("_CHUNK") and draw(st.booleans()):
        fields.pop("messageId", None)
        fields.pop("toolCallId", None)
    return event(kind, **fields)


@given(st.lists(events(chunks=True), max_size=40))
def test_whatever_is_let_through_is_legal_for_the_client(stream: list[Event]) -> None:
    grammar, through = RunGrammar(), []
    for one in stream:
        try:
            for legal in grammar.accept(one):
                through.append(legal)  # noqa: PERF402 - what came before an error counts
        except AgentProtocolError:
            continue
    verify([*through, *grammar.close()])


@given(st.lists(events(chunks=False), max_size=40))
def test_whatever_the_client_takes_passes_unchanged(stream: list[Event]) -> None:
    verifier, grammar = Verifier(), RunGrammar()
    for one in stream:
        try:
            verifier.take(one)
        except IllegalStreamError:
            continue
        assert list(grammar.accept(one)) == [one]
