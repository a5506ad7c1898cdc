"""The context: valid by construction, and the addresses made of it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolane.context import (
    DEPTH_MAX,
    EventId,
    RunIds,
    RunKey,
    ThreadKey,
    UserExecutionContext,
)
from isolane.errors import InvalidContext, InvalidCursor
from isolane.ids import check_request_id


@pytest.mark.parametrize(
    "fields, name",
    [
        ({"user_id": ""}, "userId"),
        ({"user_id": None}, "userId"),
        ({"user_id": "undefined"}, "userId"),
        ({"user_id": "alice", "thread_id": "a b"}, "threadId"),
        ({"user_id": "alice", "thread_id": "t", "run_id": "x" * 129}, "runId"),
        ({"user_id": "alice", "run_id": "r"}, "runId"),
        ({"user_id": "alice", "connection_id": ""}, "connectionId"),
        ({"user_id": "alice", "agent_thread_id": "u"}, "agentThreadId"),
        ({"user_id": "alice", "thread_id": "t", "agent_thread_id": ""}, "agentThreadId"),
        ({"user_id": "alice", "thread_id": "t", "agent_run_id": "u"}, "agentRunId"),
        ({"user_id": "alice", "request_id": "mine"}, "requestId"),
        ({"user_id": "alice", "created_at": "now"}, "createdAt"),
        ({"user_id": "alice", "created_at": 2**60}, "createdAt"),
        ({"user_id": "alice", "depth": True}, "depth"),
        ({"user_id": "alice", "depth": -1}, "depth"),
        ({"user_id": "alice", "depth": DEPTH_MAX + 1}, "depth"),
    ],
)
def test_what_is_no_context_cannot_be_made(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidContext, match=f"^{name}: ") as caught:
        UserExecutionContext(**fields)
    assert isinstance(caught.value, ValueError)


def test_the_refusal_names_field_type_and_rule() -> None:
    with pytest.raises(InvalidContext) as caught:
        UserExecutionContext(user_id="alice", thread_id=7)  # type: ignore[arg-type]  # the mistake
    assert (caught.value.field, caught.value.type_name) == ("threadId", "int")
    assert str(caught.value) == "threadId: must be text (str), and this is of type int"


def test_a_request_id_is_ours_and_somebody_elses_is_its_parent() -> None:
    context = UserExecutionContext(user_id="alice", parent_request_id="trace-1")
    assert check_request_id("requestId", context.request_id) == context.request_id
    assert context.parent_request_id == "trace-1"
    assert UserExecutionContext(user_id="alice", parent_request_id="a b").parent_request_id is None


def test_a_context_never_changes() -> None:
    context = UserExecutionContext(user_id="alice")
    with pytest.raises(FrozenInstanceError):
        context.user_id = "bob"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        context.extra = 1  # type: ignore[attr-defined]


def test_each_descent_names_its_parent_and_keeps_its_user() -> None:
    socket = UserExecutionContext(user_id="alice", connection_id="conn_1")
    run = socket.for_thread("t").for_run("r")
    child = run.child()
    assert (run.user_id, run.connection_id, run.thread_id, run.run_id) == (
        "alice", "conn_1", "t", "r",
    )  # fmt: skip
    assert (child.thread_id, child.run_id) == ("t", "r")
    assert child.parent_request_id == run.request_id != child.request_id
    assert (socket.depth, run.depth, child.depth) == (0, 2, 3)


def test_another_thread_leaves_the_run_behind() -> None:
    run = UserExecutionContext(user_id="alice").for_thread("t").for_run("r")
    assert run.for_thread("u").run_id is None


def test_agents_context_has_both_ids_and_hands_none_to_another_thread_or_run() -> None:
    run = UserExecutionContext(user_id="alice").for_thread("t").for_run("r")
    given = run.for_agent(RunIds("agent-t", "agent-r"))
    assert (given.thread_key, given.run_key) == (run.thread_key, run.run_key)
    assert (given.request_id, given.depth) == (run.request_id, run.depth)
    for same in (given, given.child()):
        assert (same.agent_thread_id, same.agent_run_id) == ("agent-t", "agent-r")
    other_run = given.for_run("s")
    assert (other_run.agent_thread_id, other_run.agent_run_id) == ("agent-t", None)
    other_thread = given.for_thread("u")
    assert (other_thread.agent_thread_id, other_thread.agent_run_id) == (None, None)


def test_agents_context_says_whether_the_history_is_the_callers_word() -> None:
    run = UserExecutionContext(user_id="alice").for_thread("t").for_run("r")
    given = run.for_agent(RunIds("agent-t", "agent-r"), is_history_claimed=True)
    assert given.is_history_claimed
    assert given.child().is_history_claimed
    assert not given.for_thread("u").is_history_claimed
    assert not run.is_history_claimed
    assert not run.for_agent(RunIds("agent-t", "agent-r")).is_history_claimed


def test_contexts_descend_ten_times_and_no_further() -> None:
    context = UserExecutionContext(user_id="alice")
    for _ in range(DEPTH_MAX):
        context = context.child()
    with pytest.raises(InvalidContext, match="depth"):
        context.child()


def test_addresses_need_what_they_name() -> None:
    user = UserExecutionContext(user_id="alice")
    with pytest.raises(InvalidContext, match="threadId"):
        _ = user.thread_key
    with pytest.raises(InvalidContext, match="runId"):
        _ = user.for_thread("t").run_key
    run = user.for_thread("t").for_run("r")
    assert (run.thread_key, run.run_key) == (ThreadKey("alice", "t"), RunKey("alice", "r"))


def test_no_two_users_can_spell_the_same_address() -> None:
    assert ThreadKey("a:b", "c") != ThreadKey("a", "b:c")
    assert len({ThreadKey("a:b", "c"), ThreadKey("a", "b:c")}) == 2


@given(st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True), st.integers(0, 10**15 - 1))
def test_an_event_id_reads_back_as_it_was_written(epoch: str, seq: int) -> None:
    assert EventId.parse(str(EventId(epoch, seq))) == EventId(epoch, seq)


@pytest.mark.parametrize(
    "bad",
    ["", "e", "e-", "-1", "e--1", "e-01", "e-1\n", " e-1", "E-1", "e-1e3", "e-\u0661", "e-1.0",
     f"{'e' * 33}-1", f"e-1{'0' * 15}", "e-1-1", None, 5, b"e-1", ["e-1"], True],
)  # fmt: skip
def test_anything_else_is_no_cursor(bad: object) -> None:
    with pytest.raises(InvalidCursor):
        EventId.parse(bad)
