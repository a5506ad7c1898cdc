"""The audit tells what is known, what nobody could tell, and what went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[2]
NODE_FOLDERS: Final = ("page", "clients/typescript", "clients/agui", "tests/live/node")
LOCK: Final = "requirements/dev.lock"


class Told(NamedTuple):
    """What a stub prints, and how it ends."""

    out: str = ""
    err: str = ""
    code: int = 0


def judgement(fix: str | None = None, **known: list[str]) -> str:
    """Return what pip-audit prints when each package was judged, with these ids against it."""
    fixes = [] if fix is None else [fix]
    packages = [
        {"name": name, "version": "1.0", "vulns": [{"id": i, "fix_versions": fixes} for i in ids]}
        for name, ids in known.items()
    ]
    return json.dumps({"dependencies": packages, "fixes": []})


UNJUDGED: Final = {"name": "b", "skip_reason": "Dependency not found on PyPI"}
NPM_REPORT: Final = "# npm audit report\n\nbraces  <3.0.3\nSeverity: high\n"

PIP_CLEAN: Final = Told(judgement(a=[], b=[]), "No known vulnerabilities found")
NPM_CLEAN: Final = Told("found 0 vulnerabilities")
FITS: Final = Told("jinja==2.0")


def audit(folder: Path, *, pip: Told = PIP_CLEAN, npm: Told = NPM_CLEAN, uv: Told = FITS) -> Told:
    """Run the audit as `make newest` does, with these in place of the programs that ask."""
    for name, told in {"pip-audit": pip, "npm": npm, "uv": uv}.items():
        stub = folder / name
        prints = f"printf %s {quote(told.out)}; printf %s {quote(told.err)} >&2"
        stub.write_text(f'#!/bin/sh\necho "$@" >>"$0.asked"\n{prints}; exit {told.code}\n')
        stub.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.prefix) / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        ["/bin/sh", "scripts/audit", "npm"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return Told(done.stdout, done.stderr, done.returncode)


def asked(folder: Path) -> Mapping[str, list[str]]:
    """Return what the stubs were asked, a line a call."""
    return {
        name: (folder / f"{name}.asked").read_text().splitlines() for name in ("pip-audit", "npm")
    }


def test_clean_locks_pass_and_every_lock_is_asked_about(tmp_path: Path) -> None:
    told = audit(tmp_path)
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines() == [
        f"{place}: nothing is known against it" for place in (LOCK, *NODE_FOLDERS)
    ]
    calls = asked(tmp_path)
    assert [f"--requirement {LOCK} " in call for call in calls["pip-audit"]] == [True]
    assert [call.split()[1] for call in calls["npm"]] == list(NODE_FOLDERS)
    assert all(call.endswith(" audit") for call in calls["npm"])


def test_package_that_a_newer_version_mends_fails_and_is_named(tmp_path: Path) -> None:
    told = audit(tmp_path, pip=Told(judgement("2.0", a=[], jinja=["PYSEC-1", "PYSEC-2"]), code=1))
    assert told.code == 1
    assert "jinja 1.0 PYSEC-1 mended in 2.0: MUST" in told.err
    assert "PYSEC-2" in told.err
    assert f"{LOCK}: MUST be mended" in told.err
    assert told.out.count("nothing is known") == len(NODE_FOLDERS)


@pytest.mark.parametrize(
    "fix, uv, mark",
    [
        (None, FITS, "no version yet: nothing to do yet"),
        ("2.0", Told("", "unsatisfiable", 1), "2.0: no version that fits yet"),
    ],
    ids=["no fix", "a fix that our requirements exclude"],
)
def test_package_that_the_lock_cannot_mend_is_told_and_passes(
    tmp_path: Path, fix: str | None, uv: Told, mark: str
) -> None:
    told = audit(tmp_path, pip=Told(judgement(fix, jinja=["PYSEC-1"]), code=1), uv=uv)
    assert (told.code, told.err) == (0, "")
    assert f"jinja 1.0 PYSEC-1 mended in {mark}" in told.out
    assert f"{LOCK}: something is known against it" in told.out


def test_package_of_npm_that_a_newer_version_mends_fails_and_is_shown(tmp_path: Path) -> None:
    told = audit(tmp_path, npm=Told(NPM_REPORT + "fix available via `npm audit fix`\n", code=1))
    assert told.code == 1
    assert "braces" in told.err
    assert told.err.count("MUST be mended") == len(NODE_FOLDERS)


def test_package_of_npm_without_a_fix_is_told_and_passes(tmp_path: Path) -> None:
    told = audit(tmp_path, npm=Told(NPM_REPORT + "No fix available\n", code=1))
    assert (told.code, told.err) == (0, "")
    assert told.out.count("something is known against it") == len(NODE_FOLDERS)


def test_what_must_be_mended_fails_also_when_the_rest_was_not_judged(tmp_path: Path) -> None:
    packages = [*json.loads(judgement("2.0", a=["PYSEC-1"]))["dependencies"], UNJUDGED]
    told = audit(tmp_path, pip=Told(json.dumps({"dependencies": packages}), code=1))
    assert told.code == 1
    assert "PYSEC-1" in told.err


@pytest.mark.parametrize(
    "pip",
    [
        Told("", "requests.exceptions.ProxyError: Max retries exceeded", 1),
        Told("", "pip_audit._service.interface.ServiceError", 1),
        Told("", "ERROR: ConnectionError: Could not connect to PyPI's vulnerability feed", 1),
        Told("", "", 124),
    ],
    ids=["no way out", "another answer", "no connection", "too slow"],
)
def test_a_silent_registry_is_told_and_passes(tmp_path: Path, pip: Told) -> None:
    npm = Told("undefined", "npm error audit endpoint returned an error", 1)
    told = audit(tmp_path, pip=pip, npm=npm)
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines() == [
        f"{place}: not asked: no answer" for place in (LOCK, *NODE_FOLDERS)
    ]


def test_a_mirror_without_advisories_is_not_taken_for_a_clean_lock(tmp_path: Path) -> None:
    unjudged = json.dumps({"dependencies": [UNJUDGED, UNJUDGED], "fixes": []})
    told = audit(tmp_path, pip=Told(unjudged, "No known vulnerabilities found"))
    assert told.code == 0
    assert told.out.splitlines()[0] == f"{LOCK}, 2 of 2 not judged: not asked: no answer"


@pytest.mark.parametrize(
    "pip, npm, place, why",
    [
        (Told("", "error: no such file", 2), NPM_CLEAN, LOCK, "no such file"),
        (PIP_CLEAN, Told("", "npm error code ENOLOCK", 1), NODE_FOLDERS[0], "ENOLOCK"),
    ],
    ids=["pip-audit", "npm"],
)
def test_an_audit_that_goes_wrong_is_not_taken_for_silence(
    tmp_path: Path, pip: Told, npm: Told, place: str, why: str
) -> None:
    told = audit(tmp_path, pip=pip, npm=npm)
    assert told.code == 1
    assert f"{place}: could not be asked" in told.err
    assert why in told.err
