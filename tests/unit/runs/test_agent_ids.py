"""The ids that an agent is given: random, the thread's and the run's own, and kept with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from ag_ui.core import RunAgentInput
from tests.house import (
    House,
    ask,
    context_of,
    open_house,
    open_older,
    sqlite_url,
)

from isolane.agents.function import adapt_function
from isolane.agents.threads import AgentThreads
from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal
from isolane.engines.sqlite.database import open_database
from isolane.sql.threads import renumber
from isolane.testing import ScriptedAgent

Given = tuple[str, str, str | None]
"""Thread, run and parent as an agent was told them."""


class Witness:
    """Keeps what it was told, and repeats the ids in every event that may name them."""

    def __init__(self) -> None:
        self.inputs: list[RunAgentInput] = []
        self.contexts: list[UserExecutionContext] = []

    @property
    def given(self) -> list[Given]:
        return [(one.thread_id, one.run_id, one.parent_run_id) for one in self.inputs]

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002
        context: UserExecutionContext,
        stop: StopSignal,  # noqa: ARG002
    ) -> AsyncGenerator[object, None]:
        self.inputs.append(input)
        self.contexts.append(context)
        own = {"threadId": input.thread_id, "runId": input.run_id}
        asked = input.model_dump(mode="json", by_alias=True, exclude_none=True)
        yield {"type": "RUN_STARTED", **own, "parentRunId": input.parent_run_id, "input": asked}
        yield {"type": "RAW", "event": {"config": {**own, "of": [f"{input.run_id}:1"]}}}
        yield {"type": "STEP_STARTED", "stepName": "s", "rawEvent": own}
        yield {"type": "STEP_FINISHED", "stepName": "s", **own}
        yield {"type": "RUN_FINISHED", **own, "rawEvent": own}


def is_random(value: str) -> bool:
    return str(UUID(value)) == value and UUID(value).version == 4


async def told(
    house: House, witness: Witness, context: UserExecutionContext, **more: object
) -> Given:
    """Run once and return by which ids the agent was told of it."""
    events = await house.run(context, f"{context.run_id}?", **more)
    assert events[-1]["type"] == "RUN_FINISHED"
    return witness.given[-1]


async def test_two_users_with_equal_ids_are_two_threads_and_two_runs_for_the_agent() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        given = [
            await told(house, witness, context_of("r", user_id=user)) for user in ("ada", "bob")
        ]
    ids = [one for each in given for one in each[:2]]
    assert all(map(is_random, ids))
    assert len(set(ids)) == 4


async def test_thread_has_one_id_over_its_runs_and_each_run_its_own() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        first = await told(house, witness, context_of("1"))
        second = await told(house, witness, context_of("2"))
        rewound = await told(house, witness, context_of("3"), forwardedProps={"rewindTo": "2?"})
        other = await told(house, witness, context_of("4", thread_id="other"))
    assert first[0] == second[0] == rewound[0] != other[0]
    assert len({first[1], second[1], rewound[1], other[1]}) == 4


async def test_context_has_both() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        context = context_of("r")
        given = await told(house, witness, context)
    (seen,) = witness.contexts
    assert (seen.thread_key, seen.run_key) == (context.thread_key, context.run_key)
    assert (seen.agent_thread_id, seen.agent_run_id) == given[:2]


async def test_no_id_of_the_agent_reaches_the_log_or_the_messages() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        events = await house.run(context_of("r"), "hi", parentRunId="gone")
        ids = witness.given[0]
        raw, begun, finished = events[1:4]
        assert raw["event"] == {"config": {"threadId": "thread", "runId": "r", "of": ["r:1"]}}
        assert begun["rawEvent"] == {"threadId": "thread", "runId": "r"}
        assert (finished["threadId"], finished["runId"]) == ("thread", "r")
        said = json.dumps(events)
        assert not [one for one in ids if one is not None and one in said]


async def test_agent_may_name_its_run_as_the_client_does() -> None:
    end = {"type": "RUN_FINISHED", "threadId": "thread", "runId": "r", "result": 7}
    async with open_house({"default": ScriptedAgent(end)}) as house:
        events = await house.run(context_of("r"), "hi")
    assert events[-1] == {**end, "outcome": {"type": "success"}}


async def test_event_of_another_users_run_is_the_agents_fault() -> None:
    witness = Witness()
    async with open_house({"default": witness, "late": ScriptedAgent()}) as house:
        ada = await told(house, witness, context_of("r", user_id="ada"))

        async def forger(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
            yield {"type": "RUN_FINISHED", "threadId": ada[0], "runId": ada[1]}

        house.service._roster._own = {"default": adapt_function(forger, name="forger")}
        events = await house.run(context_of("r", user_id="bob"), "hi")
    assert events[-1]["code"] == "agent_protocol"
    assert ada[0] not in json.dumps(events)


# --- parents -------------------------------------------------------------------------------------


async def test_parent_is_told_by_the_id_that_the_agent_had_for_it_on_any_thread() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        first = await told(house, witness, context_of("1"))
        here = await told(house, witness, context_of("2"), parentRunId="1")
        there = await told(house, witness, context_of("3", thread_id="other"), parentRunId="1")
    assert first[2] is None
    assert here[2] == there[2] == first[1]


async def test_parent_that_waits_and_one_that_is_the_run_itself_are_known() -> None:
    witness, hold = Witness(), asyncio.Event()

    async def holding(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield "waiting"
        await hold.wait()

    async with open_house({"default": witness, "holding": holding}) as house:
        first, second, third = (context_of(run) for run in ("1", "2", "3"))
        await house.service.start(first, ask(first, "a"), agent="holding")
        await house.service.start(second, ask(second, "b"))
        await house.service.start(third, ask(third, "c", parentRunId="2"))
        hold.set()
        await house.events(third)
        own = await told(house, witness, context_of("4"), parentRunId="4")
    assert witness.given[1][2] == witness.given[0][1]
    assert own[2] == own[1]


async def test_run_that_answers_an_interrupt_goes_on_in_the_same_thread() -> None:
    seen: list[tuple[str, object]] = []

    async def asking(input: RunAgentInput) -> AsyncIterator[object]:  # noqa: A002
        seen.append((input.thread_id, input.resume))
        own = {"threadId": input.thread_id, "runId": input.run_id}
        if not input.resume:
            question = {"id": f"{input.run_id} asks", "reason": "approval"}
            outcome = {"type": "interrupt", "interrupts": [question]}
            yield {"type": "RUN_FINISHED", **own, "outcome": outcome}

    async with open_house({"default": asking}) as house:
        end = (await house.run(context_of("1"), "a"))[-1]
        (question,) = end["outcome"]["interrupts"]
        resume = [{"interruptId": question["id"], "status": "resolved", "payload": True}]
        events = await house.run(context_of("2"), resume=resume)
    assert (end["threadId"], end["runId"]) == ("thread", "1")
    assert events[-1]["outcome"] == {"type": "success"}
    (first, _), (second, answers) = seen
    assert first == second
    assert [answer.interrupt_id for answer in answers] == [question["id"]]  # type: ignore[attr-defined]


async def test_parent_of_another_user_is_told_as_one_that_nobody_has() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        adas = await told(house, witness, context_of("1", user_id="ada"))
        bob = [
            await told(house, witness, context_of(run, user_id="bob"), parentRunId=parent)
            for run, parent in (("2", "1"), ("3", "none"), ("4", "1"), ("5", adas[1]))
        ]
        carl = await told(house, witness, context_of("2", user_id="carl"), parentRunId="1")
    known = {*adas, *(one for each in bob for one in each[:2]), "1", "none"}
    parents = [each[2] for each in (*bob, carl)]
    assert known.isdisjoint(parents)
    assert parents[0] == parents[2]
    assert len(set(parents)) == 4
    assert all(UUID(str(parent)) for parent in parents)


# --- an agent that asks for the client's ids ---------------------------------------------------


async def test_agent_that_asks_for_the_clients_ids_gets_them_and_context_has_both() -> None:
    witness = Witness()
    witness.raw_ids = True  # type: ignore[attr-defined]  # how an object says it
    async with open_house({"default": witness}) as house:
        events = await house.run(context_of("r"), "hi", parentRunId="p")
    assert witness.given == [("thread", "r", "p")]
    assert is_random(str(witness.contexts[0].agent_thread_id))
    assert is_random(str(witness.contexts[0].agent_run_id))
    assert events[-1]["type"] == "RUN_FINISHED"


@pytest.mark.parametrize("wants_raw", [True, False])
async def test_agent_on_a_thread_of_its_own_gets_what_it_asks_for(wants_raw: bool) -> None:  # noqa: FBT001
    witness = Witness()
    witness.raw_ids = wants_raw  # type: ignore[attr-defined]  # as above
    threads = AgentThreads(1, watch=lambda _name: lambda: None)
    agent = threads.wrap(adapt_function(witness, name="agent"))
    try:
        async with open_house({"default": agent}) as house:
            events = await house.run(context_of("r"), "hi")
    finally:
        threads.close()
    assert events[-1]["type"] == "RUN_FINISHED"
    assert (witness.given[0][:2] == ("thread", "r")) is wants_raw
    assert witness.contexts[0].agent_run_id is not None


# --- as long as thread and run are there --------------------------------------------------------


async def test_deleted_thread_that_is_made_anew_has_another_id_and_so_have_its_runs() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        before = await told(house, witness, context_of("r"))
        await house.service.delete_thread(context_of())
        after = await told(house, witness, context_of("r"), parentRunId="gone")
    assert not {*before} & {*after}


async def test_parent_that_was_deleted_with_its_thread_is_known_no_more() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        gone = await told(house, witness, context_of("1", thread_id="other"))
        await house.service.delete_thread(context_of(thread_id="other"))
        child = await told(house, witness, context_of("2"), parentRunId="1")
    assert child[2] not in {None, "1", gone[1]}


async def test_queued_run_is_told_the_same_after_a_restart_and_a_renumbering(
    tmp_path: Path,
) -> None:
    url = sqlite_url(tmp_path)
    first, waiting = context_of("1"), context_of("2")
    hold = asyncio.Event()

    async def holding(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        yield "waiting"
        await hold.wait()

    async with open_house({"default": holding}, url=url) as house:
        await house.service.start(first, ask(first, "a"))
        await house.service.start(waiting, ask(waiting, "b", parentRunId="1"))
        before = await house.ground.database.read(load_agent_ids)
        house.draining.begin()  # as in a shutdown, in which nobody's turn comes
        await house.ground.database.write(renumber)
    witness = Witness()
    async with open_house({"default": witness}, url=url) as house:
        await house.service.recover()
        await house.events(waiting)
        assert await house.ground.database.read(load_agent_ids) == before
        given = witness.given
        assert given == [(before["thread"], before["2"], before["1"])]
        assert (await told(house, witness, context_of("3")))[0] == before["thread"]


def load_agent_ids(connection: sa.Connection) -> dict[str, str]:
    """Return the ids that agents are given, by those of the clients."""
    return dict(
        connection.exec_driver_sql(
            "SELECT thread_id, agent_thread_id FROM threads "
            "UNION ALL SELECT run_id, agent_run_id FROM runs"
        ).all()
    )


async def test_rows_of_an_earlier_version_get_an_id_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite_url(tmp_path)
    older = await open_older(url, "0008", monkeypatch)
    await older.write(fill_as_before)
    await older.close()
    newer = await open_database(url)
    try:
        ids = await newer.read(load_agent_ids)
    finally:
        await newer.close()
    assert len(ids) == 6
    assert all(map(is_random, ids.values()))
    assert len({*ids.values()}) == 6
    witness = Witness()
    async with open_house({"default": witness}, url=url) as house:
        await house.service.recover()
        await house.events(context_of("r2", thread_id="t0", user_id="u0"))
        given = await told(house, witness, context_of("new", thread_id="t1", user_id="u1"))
    assert witness.given[0] == (ids["t0"], ids["r2"], ids["r0"])
    assert given[0] == ids["t1"]


async def test_thread_whose_row_another_program_made_gets_an_id_that_it_keeps() -> None:
    witness = Witness()
    async with open_house({"default": witness}) as house:
        await told(house, witness, context_of("1"))
        await house.ground.database.write(
            lambda connection: connection.exec_driver_sql(
                "UPDATE threads SET agent_thread_id = NULL"
            )
        )
        second = await told(house, witness, context_of("2"))
        third = await told(house, witness, context_of("3"))
    assert is_random(second[0])
    assert second[0] == third[0]


def fill_as_before(connection: sa.Connection) -> None:
    """Have threads of three users, a run of each that ended, and two that wait."""
    thread = (
        "INSERT INTO threads "
        "(user_id, thread_id, epoch, trimmed_seq, title, created_at, updated_at)"
    )
    run = "INSERT INTO runs (user_id, run_id, thread_id, state, draft, created_at)"
    for number in range(2):
        connection.exec_driver_sql(f"{thread} VALUES ('u{number}', 't{number}', 'e', 0, '', 0, 0)")
    draft: dict[str, Any] = {"agent": "default", "messages": [], "rewind_to": None, "request": {}}
    child = {**draft, "request": {"parentRunId": "r0"}}
    for name, user, state, kept in (
        ("r0", 0, "ended", draft),
        ("r1", 1, "ended", draft),
        ("r2", 0, "queued", child),
        ("r3", 1, "ended", draft),
    ):
        row = (f"u{user}", name, f"t{user}", state, json.dumps(kept).encode())
        connection.exec_driver_sql(f"{run} VALUES (?, ?, ?, ?, ?, 0)", row)
