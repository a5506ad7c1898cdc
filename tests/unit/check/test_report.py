"""How people and programs read what was found."""

from __future__ import annotations

import json

from isolane.check.finding import SHOWN_CHARACTERS, Broken, Evidence, Finding, Round, Verdict
from isolane.check.report import summarise, to_json, to_lines

HELD = Round(
    [
        Finding("name", Verdict.HELD, 1.25, "127.0.0.1"),
        Finding("tls", Verdict.SKIPPED, 0, "none is asked for"),
    ],
    None,
)
BROKEN = Round(
    [Finding("name", Verdict.HELD, 1, "::1"), Finding("tcp", Verdict.BROKE, 2, "no connection")],
    Evidence("SYN", "nothing", "a connection", ["tcp: no connection", "TimeoutError: "]),
    "threads left behind: t",
)


def test_what_held_is_a_table_and_a_sentence() -> None:
    first, second, last = to_lines(HELD)
    assert first.split() == ["held", "name", "1.2", "ms", "127.0.0.1"]
    assert second.split()[:2] == ["skipped", "tls"]
    assert last.strip() == summarise(HELD) == "held: 1 layers in 0.0 s; skipped: tls"


def test_what_broke_is_told_from_the_surface_to_the_root() -> None:
    lines = to_lines(BROKEN)
    assert summarise(BROKEN) == "broken at tcp: no connection"
    assert "The layer `tcp` is broken." in lines
    assert [line.strip() for line in lines[-3:]] == [
        "tcp: no connection",
        "<- TimeoutError:",
        "threads left behind: t",
    ]


def test_a_program_reads_one_object() -> None:
    held, broken = (json.loads(to_json("http://h:1", 3, taken)) for taken in (HELD, BROKEN))
    assert (held["held"], held["brokenAt"], held["evidence"]) == (True, None, None)
    assert (broken["held"], broken["brokenAt"], broken["rounds"]) == (False, "tcp", 3)
    assert broken["evidence"]["chain"] == ["tcp: no connection", "TimeoutError: "]
    assert [layer["verdict"] for layer in broken["layers"]] == ["held", "broke"]


def test_evidence_is_bounded() -> None:
    broken = Broken("too much", came="x" * 100_000)
    assert len(broken.came) == SHOWN_CHARACTERS + 1
