"""What Isolane needs fits beside agent frameworks, and the locks and pages say the same."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from scripts.beside import (
    FRAMEWORKS,
    NEWEST_FITS,
    REMEMBERING,
    ROOT,
    find_misfits,
    load_lock,
    load_requirements,
    read_pins,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def floor_of(requirement: Requirement) -> Version:
    (floor,) = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
    return floor


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_isolane_fits_beside_each_framework_at_the_pinned_versions(framework: str) -> None:
    assert list(find_misfits(load_lock(framework), load_requirements())) == []


@pytest.mark.parametrize(
    "needs, complaint",
    [
        ("websockets>=99", "Isolane needs websockets>=99, and what fits is "),
        ("pydantic<2", "Isolane needs pydantic<2, and what fits is "),
        ("no-such-package>=1", "Isolane needs no-such-package>=1, which its lock lacks"),
    ],
)
def test_requirement_that_shuts_a_framework_out_is_named(needs: str, complaint: str) -> None:
    (misfit,) = find_misfits(load_lock("LangGraph"), [Requirement(needs)])
    assert complaint in misfit


@pytest.mark.parametrize("framework", NEWEST_FITS)
def test_framework_that_fell_behind_its_newest_release_is_named(framework: str) -> None:
    lock = load_lock(framework)
    newer = replace(lock, newest={name: f"{version}.1" for name, version in lock.newest.items()})
    (misfit,) = find_misfits(newer, [])
    assert "the newest of the lock's day doesn't fit" in misfit


def test_each_framework_that_is_tried_has_pins_and_an_agent() -> None:
    assert REMEMBERING.keys() <= FRAMEWORKS.keys()
    agents = {path.name for path in (ROOT / "tests" / "beside").glob("*_agent.py")}
    assert agents == {f"{module}_agent.py" for module in REMEMBERING.values()}


def test_page_about_agents_has_the_versions_of_the_locks() -> None:
    page = read("docs/agents.md").partition("## Beside other frameworks\n")[2]
    section = page.partition("\n## ")[0]
    told = dict(re.findall(r"^\| ([\w ]+) \| (`.*) \|$", section, re.MULTILINE))
    pinned = {
        framework: ", ".join(
            f"`{name}` {version}" for name, version in load_lock(framework).own.items()
        )
        for framework in FRAMEWORKS
    }
    assert told == pinned


def test_lowest_lock_pins_each_floor() -> None:
    pins = read_pins(re.sub(r" \\\n.*", "", read("requirements/lowest.lock")))
    extras = PROJECT["optional-dependencies"]["pydantic-ai"]
    for requirement in (*load_requirements(), *map(Requirement, extras)):
        name = requirement.name.lower().replace("_", "-")
        assert Version(pins[name]) == floor_of(requirement), requirement


def test_page_about_embedding_has_the_versions_that_are_required() -> None:
    needs = {one.name: one for one in load_requirements()}
    told = read("docs/embedding.md")
    for label, name in {
        "FastAPI": "fastapi",
        "Starlette": "starlette",
        "pydantic": "pydantic",
    }.items():
        assert f"{label} {floor_of(needs[name])} or newer" in told
    assert f"uvicorn must be {floor_of(needs['uvicorn'])} to 0.54" in told
    assert not needs["uvicorn"].specifier.contains("0.55")
    assert needs["websockets"].specifier == Requirement("websockets>=15.0,<18").specifier


def test_classifiers_name_the_versions_of_python_that_the_pages_name() -> None:
    prefix = "Programming Language :: Python :: 3."
    tested = [one.removeprefix(prefix) for one in PROJECT["classifiers"] if one.startswith(prefix)]
    assert f"Python 3.{tested[0]} to 3.{tested[-1]} on Linux" in read("docs/embedding.md")
