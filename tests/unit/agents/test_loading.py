"""From `name=module:attribute` to an agent."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.house import ask, context_of

from isolane.agents.loading import adapt, load_agents, load_checked_agents
from isolane.errors import AgentRefused
from isolane.runs.stop import Stop

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
    for name in ("agents_of_a_test", "broken_agents_of_a_test", "inner_agents_of_a_test"):
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


@pytest.mark.parametrize(
    "source, fault",
    [
        ("x = 1\n\ndef agent(:\n", "SyntaxError: "),
        ("x = 1\n\nimport no_such_thing\n", "ModuleNotFoundError: No module named"),
        ("x = 1\n\nraise ValueError('two\\nlines')\n", "ValueError: two lines"),
        ("import sys\n\nsys.exit(7)\n", "SystemExit: 7"),
        ("x = 1\n\nraise KeyboardInterrupt\n", "KeyboardInterrupt: no reason given"),
        ("import json\n\njson.loads('{')\n", "JSONDecodeError: "),  # raised in the library
        ("import os\n\nos.no_such_thing\n", "AttributeError: module 'os' has no attribute"),
        ("x = 1\n\neval('1 +')\n", "SyntaxError: "),
    ],
)
def test_module_that_fails_at_its_import_is_told_by_file_and_line(
    source: str, fault: str, tmp_path: Path
) -> None:
    (tmp_path / "broken_agents_of_a_test.py").write_text(source)
    with pytest.raises(AgentRefused) as caught:
        load_agents(("me=broken_agents_of_a_test:agent",))
    assert str(caught.value).startswith(
        "--agent me=broken_agents_of_a_test:agent: importing broken_agents_of_a_test failed in "
        f"broken_agents_of_a_test.py, line 3: {fault}"
    )
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_line_is_that_of_the_module_that_the_named_one_imports(tmp_path: Path) -> None:
    (tmp_path / "inner_agents_of_a_test.py").write_text("\n1 / 0\n")
    (tmp_path / "broken_agents_of_a_test.py").write_text("import inner_agents_of_a_test\n")
    with pytest.raises(AgentRefused, match=r"inner_agents_of_a_test\.py, line 2: ZeroDivision"):
        load_agents(("broken_agents_of_a_test:agent",))


@pytest.mark.parametrize(
    "spec, instead",
    [
        ("examples/echo.py:agent", "write examples.echo:agent"),
        ("./echo.py:agent", "write echo:agent"),
        ("echo.py:agent", "write echo:agent"),
        (".echo:agent", "write module:attribute"),
    ],
)
def test_path_of_a_file_is_told_as_a_module(spec: str, instead: str) -> None:
    with pytest.raises(AgentRefused, match=f"--agent {spec}: .*{instead}"):
        load_agents((spec,))


def test_what_is_no_agent_is_named_as_it_was_typed() -> None:
    for spec in ("agents_of_a_test:Box", "me=agents_of_a_test:Box"):
        with pytest.raises(AgentRefused, match=f"^--agent {spec} is the class Box"):
            load_checked_agents((spec,))
    assert list(load_checked_agents(("me=agents_of_a_test:agent",))) == ["me"]


def test_attribute_whose_reading_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken_agents_of_a_test.py").write_text(
        "def __getattr__(name):\n    raise RuntimeError('not today')\n"
    )
    with pytest.raises(AgentRefused, match=r"agent can't be read in .*line 2: .*not today"):
        load_agents(("broken_agents_of_a_test:agent",))


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


async def test_an_agent_of_pydantic_ai_says_which_ids_it_wants_as_any_other() -> None:
    from pydantic_ai import Agent  # noqa: PLC0415 - as above
    from pydantic_ai.models.test import TestModel  # noqa: PLC0415 - as above

    plain, raw, odd = (Agent(TestModel()) for _ in range(3))
    raw.raw_ids = True  # type: ignore[attr-defined]  # how an object says it
    odd.raw_ids = "no"  # type: ignore[attr-defined]  # the mistake
    assert [getattr(adapt(each, name="model"), "raw_ids") for each in (plain, raw)] == [  # noqa: B009 - of an Agent none is known
        False,
        True,
    ]
    with pytest.raises(AgentRefused, match=r"^model has a raw_ids of 'no'"):
        adapt(odd, name="model")
