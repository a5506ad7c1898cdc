"""The pages say what the code says: settings, codes, limits and links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from isolane import errors
from isolane.errors import IsolaneError
from isolane.settings import PREFIX, Settings

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"], key=str)
SET_BY_OTHER_MEANS: Final = {"ISOLANE_MODEL"}
"""What the guide reads, which is no setting of the gateway."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(name: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    section = read(name).partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def anchors(page: Path) -> set[str]:
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_every_setting_is_in_the_table_with_its_default() -> None:
    told = {row[0].strip("`"): row[1].strip("`") for row in rows("docs/operations.md", "Settings")}
    assert set(told) == {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float) or name in {"data", "policy"}:
            default = field.default
            text = f"{default:g}" if isinstance(default, float) else str(default).lower()
            assert told[f"{PREFIX}{name.upper()}"] == text, name


def test_every_limit_is_in_the_table_with_its_default() -> None:
    told = {row[0].strip("`"): int(row[1]) for row in rows("docs/protocol.md", "Limits of a user")}
    assert told == Settings().published_limits


def leaves(kind: type[IsolaneError]) -> set[type[IsolaneError]]:
    below = {leaf for child in kind.__subclasses__() for leaf in leaves(child)}
    return {kind, *below}


def test_every_code_is_in_the_table_with_its_status() -> None:
    assert errors.IsolaneError is IsolaneError
    told: dict[str, tuple[str, str]] = {}
    for cells in rows("docs/protocol.md", "Codes"):
        for code in re.findall(r"`(\w+)`", cells[0]):
            told[code] = cells[1], cells[2]
    own = {leaf for leaf in leaves(IsolaneError) if leaf.__module__ == errors.__name__}
    assert set(told) == {leaf.code for leaf in own}
    for leaf in own:
        close, status = told[leaf.code]
        assert status in {"-", str(leaf.http_status)}, leaf
        if leaf.close_code is not None and leaf.code != "not_found":
            assert str(leaf.close_code) in close, leaf


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists() or found.suffix == ".png", target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_is_named_exists(page: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | SET_BY_OTHER_MEANS
    assert set(re.findall(r"ISOLANE_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8"))) <= known


def test_every_promise_names_tests_that_exist() -> None:
    text = read("docs/guarantees.md")
    promises = [part for part in text.split("\n## ")[1:] if not part.startswith("Not there yet")]
    assert len(promises) == 10
    for promise in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)`", promise)
        assert named, promise
        assert [name for name in named if not (ROOT / name).is_file()] == []


def test_threats_are_numbered_and_each_names_tests_that_exist() -> None:
    threats = re.findall(r"^\| (T\d+) \|.*\| (.+) \|$", read("docs/threats.md"), re.MULTILINE)
    assert [number for number, _ in threats] == [f"T{n + 1}" for n in range(len(threats))]
    assert len(threats) >= 28
    for number, held_by in threats:
        named = re.findall(r"`(tests/[\w/]+\.py)`", held_by)
        assert named, number
        assert [name for name in named if not (ROOT / name).is_file()] == []


def test_files_that_the_deploy_page_names_exist() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]+\w", read("docs/deploy.md")))
    told_to_make = {"deploy/docker/isolane.env"}
    assert {name for name in named - told_to_make if not (ROOT / name).is_file()} == set()
    shipped = {str(file.relative_to(ROOT)) for file in ROOT.glob("deploy/*/*") if file.is_file()}
    text = read("docs/deploy.md")
    assert {name for name in shipped if Path(name).name not in text} == {
        "deploy/docker/Dockerfile.dockerignore"
    }
