"""Whether an agent keeps its users apart, as an assertion: who mixes them is found."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ag_ui.core import RunAgentInput

from isolane import UserExecutionContext
from isolane.agents.check import CheckAgent
from isolane.errors import AgentRefused
from isolane.testing import ScriptedAgent, assert_keeps_users_apart


class Notebook:
    """Remembers what was said, by whatever `key_of` makes of a question."""

    def key_of(self, input: RunAgentInput, context: UserExecutionContext) -> str:  # noqa: A002, ARG002
        return input.thread_id

    def __init__(self) -> None:
        self.notes: defaultdict[str, list[str]] = defaultdict(list)

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002
        context: UserExecutionContext,
    ) -> AsyncIterator[object]:
        notes = self.notes[self.key_of(input, context)]
        notes.append(str(input.messages[-1].content))
        for value in self.say(" ".join(notes)):
            yield value

    def say(self, text: str) -> list[object]:
        return [text]


class ByRun(Notebook):
    def key_of(self, input: RunAgentInput, context: UserExecutionContext) -> str:  # noqa: A002, ARG002
        return input.run_id


class ByUser(Notebook):
    raw_ids = True

    def key_of(self, input: RunAgentInput, context: UserExecutionContext) -> str:  # noqa: A002
        return f"{context.user_id} {input.thread_id}"


class Shared(Notebook):
    def key_of(self, input: RunAgentInput, context: UserExecutionContext) -> str:  # noqa: A002, ARG002
        return "everybody"


class Raw(Notebook):
    raw_ids = True


class RawByRun(ByRun):
    raw_ids = True


class LetterByLetter(Raw):
    def say(self, text: str) -> list[object]:
        return [*text]


class InItsState(Raw):
    def say(self, text: str) -> list[object]:
        return [{"type": "STATE_SNAPSHOT", "snapshot": {"notes": [text]}}]


@pytest.mark.parametrize("make", [Notebook, ByUser])
async def test_who_keeps_users_apart_passes(make: type[Notebook]) -> None:
    await assert_keeps_users_apart(make())


@pytest.mark.parametrize("make", [Shared, Raw, RawByRun, LetterByLetter, InItsState])
async def test_who_mixes_users_is_found_wherever_it_shows(make: type[Notebook]) -> None:
    with pytest.raises(AssertionError, match=r"bob was told ada-.*mixes the memories of users"):
        await assert_keeps_users_apart(make(), must_remember=False)


async def test_agent_that_never_tells_shows_nothing() -> None:
    with pytest.raises(AssertionError, match="doesn't tell ada the word that ada told it"):
        await assert_keeps_users_apart(ScriptedAgent("I say nothing."))
    await assert_keeps_users_apart(ScriptedAgent("I say nothing."), must_remember=False)


async def test_agent_of_ones_own_words_is_spoken_to_in_them() -> None:
    steps: list[Any] = [["remember", "{mark}"]]
    await assert_keeps_users_apart(CheckAgent(), tell=json.dumps(steps), ask='[["recall"]]')


async def test_run_that_fails_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="run of ada failed with agent_error"):
        await assert_keeps_users_apart(ScriptedAgent(ValueError("no model")))


async def test_what_is_no_agent_and_what_tells_no_word_is_refused() -> None:
    with pytest.raises(AgentRefused, match="agent is of type str"):
        await assert_keeps_users_apart("sea:agent")
    with pytest.raises(ValueError, match=r"tell has no \{mark\}"):
        await assert_keeps_users_apart(Notebook(), tell="Remember me.")
