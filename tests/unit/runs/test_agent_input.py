"""The input of an agent: whole, made once, in turns, and not held a second time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, Final

import pytest
from tests.house import START, House, context_of, draft_of, key_of, open_house, until
from tests.unit.runs.test_models_once import Watched

from isolane.context import RunIds, UserExecutionContext
from isolane.contracts import BegunRun, Opening, RunLease, Seed, ThreadKind
from isolane.events.transcript import Message
from isolane.health.fairness import Turns
from isolane.runs import agent_input
from isolane.runs.agent_input import HISTORY_STEP, make_input, naming_of
from isolane.runs.draft import make_offer
from isolane.runs.run import Run
from isolane.testing import ScriptedAgent

LEASE: Final = RunLease(key_of(), "r", "0", 1, 1, 1)


def said(count: int) -> list[Message]:
    return [{"id": str(n), "role": "user", "content": f"word {n}"} for n in range(count)]


def run_of(user_id: str = "alice") -> Run:
    """Return a run that has begun."""
    context = context_of("r", user_id=user_id)
    begun = BegunRun((), (), START, LEASE, RunIds("thread", "run", None))
    return Run(context, draft_of(), ScriptedAgent(), begun=begun)


@pytest.mark.parametrize(
    "count", [0, 1, HISTORY_STEP - 1, HISTORY_STEP, HISTORY_STEP + 1, 3 * HISTORY_STEP]
)
async def test_history_of_any_length_is_whole_and_in_order(count: int) -> None:
    run = run_of()
    made = await make_input(run, said(count), naming_of(run), Turns())
    assert [message.content for message in made.messages] == [f"word {n}" for n in range(count)]


async def test_each_message_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pydantic looks at each message of a list again, although it is a model already."""
    whole, listed = Watched(agent_input._INPUT), Watched(agent_input._MESSAGES)
    monkeypatch.setattr(agent_input, "_INPUT", whole)
    monkeypatch.setattr(agent_input, "_MESSAGES", listed)
    run, history = run_of(), said(HISTORY_STEP + 1)
    await make_input(run, list(history), naming_of(run), Turns())
    assert [given["messages"] for given in whole.seen] == [[]]
    assert [message for step in listed.seen for message in step] == history


async def test_a_long_history_lets_others_have_each_pass_of_the_loop() -> None:
    passes = 0
    run = run_of()
    making = asyncio.create_task(make_input(run, said(20 * HISTORY_STEP), naming_of(run), Turns()))
    while not making.done():
        passes += 1
        await asyncio.sleep(0)
    assert passes >= 20


async def test_long_histories_of_many_users_share_the_passes_of_the_loop() -> None:
    turns = Turns()
    runs = [run_of(f"user-{number}") for number in range(5)]
    histories = [said(4 * HISTORY_STEP) for _ in runs]
    making = [
        asyncio.create_task(make_input(run, history, naming_of(run), turns))
        for run, history in zip(runs, histories, strict=True)
    ]
    await asyncio.sleep(0)  # all have made their first step
    left = [sum(map(len, histories))]
    while not all(task.done() for task in making):
        await asyncio.sleep(0)
        left.append(sum(map(len, histories)))
    steps = [before - after for before, after in pairwise(left)]
    assert max(steps) == HISTORY_STEP


def is_held(marker: str) -> bool:
    """Say whether the stored form of a message with this part is still in memory."""
    found = [one for one in gc.get_objects() if type(one) is dict and one.get("id") == marker]
    return any("encrypted_value" not in one for one in found)  # a model has this field


async def start_with_a_past(house: House, context: UserExecutionContext) -> None:
    """Run once on a new thread that begins with a message from outside."""
    content = [{"type": "text", "text": "long ago"}]
    seed = Seed([{"id": "seeded", "role": "user", "content": content}], is_claimed=False)
    opening = Opening(ThreadKind.CHAT, seed)
    offer = make_offer(agent="default", messages=[], opening=opening)
    await house.service.start_offer(context, offer)
    await house.events(context)


async def test_history_is_not_held_beside_the_agents_input() -> None:
    async def agent(input: Any) -> AsyncIterator[object]:  # noqa: A002, ANN401
        yield input.messages[0].content[0].text
        if input.messages[-1].id == "?":  # while the first run begins, its caller has the message
            await until(lambda: not is_held("seeded"))  # the database's thread lets go of it, too

    async with open_house({"default": agent}) as house:
        await start_with_a_past(house, context_of("1"))
        events = await house.run(context_of("2"), "?")
    assert events[2]["delta"] == "long ago"
    assert events[-1]["type"] == "RUN_FINISHED"
