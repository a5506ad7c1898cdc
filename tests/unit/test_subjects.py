"""How the outside names a user, found again from the id."""

from __future__ import annotations

import pytest

from isolane.context import UserExecutionContext
from isolane.subjects import Subject, Subjects

CORP = "https://corp.example"
CLUB = "https://club.example"
KNOWN = Subjects(own_issuer="https://own.example", issuers={"corp": CORP, "club": CLUB})


@pytest.mark.parametrize(
    "user_id, found",
    [
        ("corp|ada", (CORP, "ada")),
        ("club|ada", (CLUB, "ada")),
        ("corp|abc%2Fdef%3D%3D", (CORP, "abc/def==")),
        ("corp|corp|ada", (CORP, "corp|ada")),
        ("corp|100%25", (CORP, "100%")),
        ("ada", ("https://own.example", "ada")),
        ("o%27brien", ("https://own.example", "o'brien")),
        ("crew|ada", ("https://own.example", "crew|ada")),
        ("corp", ("https://own.example", "corp")),
    ],
)
def test_issuer_and_subject_are_those_of_the_token(user_id: str, found: tuple[str, str]) -> None:
    assert KNOWN.find(user_id) == Subject(*found)


def test_without_issuers_the_whole_name_is_the_subject() -> None:
    assert Subjects().find("corp|a%2Fb") == Subject(None, "corp|a/b")
    assert Subjects(own_issuer="").find("ada") == Subject(None, "ada")


def test_context_hands_its_subject_on() -> None:
    context = UserExecutionContext(user_id="corp|a%2Fb", issuer=CORP, subject="a/b")
    run = context.for_thread("t").for_run("r").child()
    assert (run.issuer, run.subject) == (CORP, "a/b")


def test_context_without_a_subject_tells_the_name_that_its_id_is_made_of() -> None:
    context = UserExecutionContext(user_id="o%27brien")
    assert (context.issuer, context.subject) == (None, "o'brien")
