"""The bench works against real servers, so that its loads can't rot. No figure is judged."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from costs import Bench
from figures import Effort
from generator import Generator, build
from loads import Sustained, all_loads
from pace import Pace
from servers import FOLDER, HOST, PLAIN, UVICORN, Server, make_tokens, running, serve_isolane

from isolane.testing.server import free_port

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
TINY: Final = Effort(
    rounds=1, settle_s=0.05, window_s=0.1, idle=(2, 5), repeats=2, back=20, idle_settle_s=0.1
)
USERS: Final = 250


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    build(tmp_path, "generator")
    return Generator(tmp_path)


@pytest.fixture
def starlette(tmp_path: Path) -> Iterator[Server]:
    """Stock Starlette, which is here as well as among the peers."""
    port = free_port()
    where = ["--host", HOST, "--port", str(port), "peers.starlette_app:app"]
    env = {"PYTHONPATH": str(FOLDER)}
    command = [sys.executable, *UVICORN, "--http", "h11", *where]  # httptools is the peers' only
    with running(command, tmp_path / "starlette.log", port, env=env) as pid:
        yield Server("starlette", port, pid, PLAIN)


def test_every_load_has_its_figures(tmp_path: Path, generator: Generator) -> None:
    tokens = make_tokens(USERS)
    count = iter(range(100))
    bench = Bench(
        {"isolane": lambda: serve_isolane(tmp_path / f"{next(count)}", "agent:stream", tokens)},
        generator,
        TINY,
    )
    bench.run([load for load in all_loads() if not isinstance(load, Sustained)])
    assert bench.faults == []
    assert {figure.name for figure in bench.results} == {
        *("flood", "bursts", "200x20", "50x20", "handshake", "idle-2", "idle-5"),
        *("resume-1000", "resume-10000", "start", "run-cpu", "runs", "back", "newcomer"),
    }
    for figure, rounds in bench.results.items():
        # The memory of five connections is less than a page now and then.
        assert rounds["isolane"][0].value > 0 or figure.name.startswith("idle")


def test_starlette_says_what_it_is_asked(generator: Generator, starlette: Server) -> None:
    for pace in (Pace(0, 8, 20), Pace(500, 1, 20)):
        report = generator.finish(starlette, 3, pace, at_once=3)
        assert report.faults == ""
        assert (report.ended, report.events) == (3, 3 * pace.events)
