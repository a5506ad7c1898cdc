"""An agent may name its run by either side's ids; a client sees its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isolane.agents.naming import Naming
from isolane.context import RunIds
from isolane.errors import AgentProtocolError
from isolane.events.event import Event, encode_event

CLIENT = RunIds("t", "r", "p")
AGENT = RunIds(
    "7d1f4c0e-52a6-4a55-9d0b-0a5c3c1f8e11",
    "b2a7e8d4-6d0c-4f6b-8f4e-9a3d5e7c1b22",
    "0c9e6a1b-3f57-4d88-a1c2-6e8f7b9d0c33",
)
NAMING = Naming(CLIENT, AGENT)
RAW = Naming(CLIENT, CLIENT)


def finished(ids: RunIds, **more: object) -> dict[str, Any]:
    return {"type": "RUN_FINISHED", "threadId": ids.thread_id, "runId": ids.run_id, **more}


def started(ids: RunIds) -> dict[str, Any]:
    return {**finished(ids), "type": "RUN_STARTED", "parentRunId": ids.parent_run_id}


@pytest.mark.parametrize("make", [finished, started])
@pytest.mark.parametrize("ids", [CLIENT, AGENT, RunIds("t", AGENT.run_id, "p")])
def test_event_names_its_run_by_either_ids(make: Callable[[RunIds], Event], ids: RunIds) -> None:
    assert NAMING.to_client(make(ids)) == make(CLIENT)


@pytest.mark.parametrize("naming", [NAMING, RAW])
@pytest.mark.parametrize("field", ["threadId", "runId"])
@pytest.mark.parametrize("other", ["other", "", None, 7, [], AGENT.parent_run_id])
def test_event_of_another_run_is_the_agents_fault(
    naming: Naming, field: str, other: object
) -> None:
    with pytest.raises(AgentProtocolError, match=f"^RUN_FINISHED names another {field}$"):
        naming.to_client({**finished(CLIENT), field: other})


@pytest.mark.parametrize("field", ["threadId", "runId"])
def test_who_asked_for_the_clients_ids_has_no_others(field: str) -> None:
    with pytest.raises(AgentProtocolError, match=f"another {field}"):
        RAW.to_client({**finished(CLIENT), field: finished(AGENT)[field]})


def test_thread_and_run_are_not_exchanged_for_one_another() -> None:
    with pytest.raises(AgentProtocolError, match="another runId"):
        NAMING.to_client({**finished(CLIENT), "runId": AGENT.thread_id})


def test_field_that_any_event_may_have_beside_its_own_is_mapped_too() -> None:
    event = {"type": "CUSTOM", "name": "n", "value": 1, "runId": AGENT.run_id}
    assert NAMING.to_client(event) == {**event, "runId": "r"}


@pytest.mark.parametrize("place", ["rawEvent", "event"])
def test_what_a_framework_says_itself_has_the_clients_ids(place: str) -> None:
    said = {
        "metadata": {"thread_id": AGENT.thread_id, "ns": [f"run:{AGENT.run_id}|1", 1.5, None]},
        AGENT.run_id: True,
        "parent": AGENT.parent_run_id,
    }
    mapped = {
        "metadata": {"thread_id": "t", "ns": ["run:r|1", 1.5, None]},
        "r": True,
        "parent": "p",
    }
    event = {"type": "RAW", "event": {}, place: said}
    assert NAMING.to_client(event) == {**event, place: mapped}
    assert RAW.to_client(event) == event


@pytest.mark.parametrize(
    "event",
    [
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": AGENT.run_id, "delta": AGENT.thread_id},
        {"type": "STATE_SNAPSHOT", "snapshot": {"thread": AGENT.thread_id}},
        {"type": "CUSTOM", "name": "n", "value": AGENT.thread_id, "event": AGENT.thread_id},
        finished(CLIENT, outcome={"type": "interrupt", "interrupts": [{"id": AGENT.run_id}]}),
    ],
    ids=lambda event: event["type"],
)
def test_what_a_client_may_send_back_stays_the_agents_own(event: dict[str, Any]) -> None:
    assert NAMING.to_client(event) == event


@pytest.mark.parametrize("client", ['"', "\\", "\n", "é", "\u2028"])
def test_clients_id_of_any_letters_breaks_nothing(client: str) -> None:
    naming = Naming(RunIds("t", "r", client), AGENT)
    event = {"type": "RAW", "event": {}, "rawEvent": [AGENT.parent_run_id]}
    assert naming.to_client(event)["rawEvent"] == [client]


def nested(depth: int) -> object:
    value: object = AGENT.run_id
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "said",
    [float("nan"), {1}, object(), nested(200_000), [float("inf"), AGENT.run_id]],
    ids=["nan", "set", "object", "depth", "infinity"],
)
def test_what_json_cannot_say_is_refused_as_it_ever_was(said: object) -> None:
    event = {"type": "RAW", "event": {}, "rawEvent": said}
    with pytest.raises(AgentProtocolError, match="RAW holds what JSON can't say"):
        encode_event(NAMING.to_client(event), max_bytes=1 << 20)


def test_number_that_only_one_encoder_can_write_hides_no_id() -> None:
    event = {"type": "RAW", "event": [2**70, AGENT.run_id]}
    assert NAMING.to_client(event)["event"] == [2**70, "r"]


def test_agents_own_objects_are_not_changed() -> None:
    said = {"thread_id": AGENT.thread_id}
    NAMING.to_client({"type": "RAW", "event": said})
    assert said == {"thread_id": AGENT.thread_id}
