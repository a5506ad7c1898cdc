"""From `name=module:attribute` to an agent."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.house import ask, context_of

from isolane.agents.loading import adapt, load_agents
from isolane.errors import AgentRefused
from isolane.service.run import Stop

SOURCE = """
async def agent(input):
    yield "hi"

class Box:
    inner = agent

box = Box()
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "agents_of_a_test.py").write_text(SOURCE)
    (tmp_path / "broken_agents_of_a_test.py").write_text("import no_such_module_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("agents_of_a_test", "broken_agents_of_a_test"):
        sys.modules.pop(name, None)


def test_the_working_folder_is_importable_and_the_first_is_the_default() -> None:
    agents = load_agents(("agents_of_a_test:agent", "second=agents_of_a_test:box.inner"))
    assert list(agents) == ["default", "second"]
    assert agents["second"].__name__ == "agent"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "spec", ["", "x", "agents_of_a_test", ":", "a:", ":b", "=a:b", "name=", "name=x"]
)
def test_a_spec_of_another_form_is_told_the_form(spec: str) -> None:
    with pytest.raises(AgentRefused, match="module:attribute"):
        load_agents((spec,))


@pytest.mark.parametrize(
    "spec, what",
    [
        ("no_such_module_of_a_test:agent", "can't import no_such_module_of_a_test"),
        ("broken_agents_of_a_test:agent", "no_such_module_anywhere"),
        ("agents_of_a_test:missing", "has no missing"),
        ("agents_of_a_test:box.missing", "has no box.missing"),
    ],
)
def test_what_is_not_there_is_named(spec: str, what: str) -> None:
    with pytest.raises(AgentRefused) as caught:
        load_agents((spec,))
    assert what in str(caught.value)
    assert spec in str(caught.value)


def test_a_name_is_given_once() -> None:
    with pytest.raises(AgentRefused, match="the name default is taken"):
        load_agents(("agents_of_a_test:agent", "agents_of_a_test:agent"))


async def test_an_agent_of_pydantic_ai_is_known_by_its_type() -> None:
    from pydantic_ai import Agent  # noqa: PLC0415 - an optional engine
    from pydantic_ai.models.test import TestModel  # noqa: PLC0415

    agent = adapt(Agent(TestModel(custom_output_text="hello")), name="model")
    context = context_of("r")
    stream: AsyncIterator[object] = agent.run(ask(context, "hi"), context, Stop())
    kinds = [getattr(event, "type", None) for event in [value async for value in stream]]
    assert "TEXT_MESSAGE_CONTENT" in kinds
    with pytest.raises(AgentRefused, match=r"^model is the class Agent"):
        adapt(Agent, name="model")
