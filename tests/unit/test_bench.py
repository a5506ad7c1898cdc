"""The bench counts right: what its generator reports is what a server really said."""

from __future__ import annotations

import http
import os
import re
import shutil
import socket
import threading
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from figures import Figure, Goal, Measured
from generator import Generator, Window, build
from pace import Pace
from servers import CHECKOUT, PLAIN, Server, serve_peer
from table import ratio_of, to_lines
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
CONNECTIONS: Final = 5


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    build(folder, "generator", "epoll_server")
    return folder


@pytest.fixture
def generator(programs: Path) -> Generator:
    return Generator(programs)


@pytest.fixture
def yardstick(programs: Path) -> Iterator[Server]:
    with serve_peer("epoll", programs, core=None) as server:
        yield server


@contextmanager
def saying(seqs: Sequence[int], *, words: str = "") -> Iterator[Server]:
    """Answer each question with entries of these numbers, and an end of the last one's number."""

    def answer(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):  # the generator hangs up without a goodbye
            for _ in connection:
                for seq in seqs[:-1]:
                    connection.send(to_entry(seq, f'"delta":"due=1 at=1 {words}"'))
                connection.send(to_entry(seqs[-1], '"type":"RUN_FINISHED"'))

    with serve(answer, sock=listen()) as server:
        yield from _beside(server)


def to_entry(seq: int, chunk: str) -> str:
    return f'{{"id":"e-{seq}","chunk":{{{chunk}}}}}'


@contextmanager
def refusing() -> Iterator[Server]:
    def refuse(connection: ServerConnection, _request: Request) -> Response:
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "no\n")

    with serve(lambda _: None, sock=listen(), process_request=refuse) as server:
        yield from _beside(server)


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _beside(server: object) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever)  # type: ignore[attr-defined]
    thread.start()
    try:
        port = server.socket.getsockname()[1]  # type: ignore[attr-defined]
        yield Server("test", port, os.getpid(), PLAIN)
    finally:
        server.shutdown()  # type: ignore[attr-defined]
        thread.join()


@needs_compiler
@pytest.mark.parametrize("pace", [Pace(0, 1, 40), Pace(0, 8, 40), Pace(2000, 3, 40)], ids=str)
def test_each_event_of_the_yardstick_is_counted_once(
    generator: Generator, yardstick: Server, pace: Pace
) -> None:
    report = generator.finish(yardstick, CONNECTIONS, pace, at_once=2)
    assert report.faults == ""
    assert report.ready == report.ended == CONNECTIONS
    assert report.events == CONNECTIONS * pace.events
    assert report.ends is not None
    assert report.ends.count == CONNECTIONS
    assert report.ends.cpu_s > 0


@needs_compiler
def test_a_window_counts_what_came_within_it(generator: Generator, yardstick: Server) -> None:
    report = generator.stream(yardstick, CONNECTIONS, Pace(0), settle_s=0.01, window_s=0.1)
    assert report.faults == ""
    assert isinstance(report.window, Window)
    assert 0 < report.window.events < report.events
    assert report.window.cpu_s > 0
    late = report.window.since_due
    assert 0 < late.p50_ms <= late.p99_ms <= late.max_ms


@needs_compiler
def test_idle_connections_are_counted_by_stage(generator: Generator, yardstick: Server) -> None:
    report = generator.idle(yardstick, [2, CONNECTIONS], settle_s=0.01)
    assert [stage.ready for stage in report.stages] == [2, CONNECTIONS]
    assert all(stage.resident_kib > 0 for stage in report.stages)
    assert report.events == 0


@needs_compiler
@pytest.mark.parametrize(
    "seqs, gaps",
    [([1, 2, 3], 0), ([1, 3, 4], 1), ([1, 2, 2, 3], 1), ([2, 3], 1), ([1, 3, 2], 2)],
    ids=["whole", "missing", "doubled", "without a beginning", "out of order"],
)
def test_ids_that_do_not_follow_are_gaps(
    generator: Generator, seqs: Sequence[int], gaps: int
) -> None:
    with saying(seqs) as server:
        report = generator.finish(server, 1, Pace(0, 1, 1), at_once=1)
    assert report.gaps == gaps
    assert report.events == len(seqs) - 1


@needs_compiler
@pytest.mark.parametrize("size", [10, 1_000, 1_000_000], ids=["7 bits", "16 bits", "64 bits"])
def test_events_of_any_length_are_counted_also_in_pieces(generator: Generator, size: int) -> None:
    with saying([1, 2, 3, 4], words="x" * size) as server:
        report = generator.finish(server, 2, Pace(0, 1, 1), at_once=2)
    assert report.faults == ""
    assert (report.ended, report.events) == (2, 6)


@needs_compiler
def test_refused_upgrades_are_no_connections(generator: Generator) -> None:
    with refusing() as server:
        report = generator.finish(server, 2, Pace(0, 1, 1), at_once=2)
    assert report.ready == 0
    assert report.refused == 2
    assert report.faults


def test_without_a_compiler_one_sentence_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^The bench needs a C compiler [^.]+\.$"):
        build(tmp_path, "generator")


def test_a_ratio_is_of_the_same_round() -> None:
    own = {0: Measured(2.0), 1: Measured(30.0), 2: Measured(6.0)}
    peer = {0: Measured(1.0), 1: Measured(10.0)}
    assert ratio_of(own, peer) == pytest.approx(2.5)
    assert ratio_of(own, {}) is None


def test_goals_stand_beside_the_figures() -> None:
    figure = Figure("flood", "what", (Goal(5), Goal(3, "epoll"), Goal(0.9, "starlette")))
    rounds = {"epoll": {0: Measured(1.0)}, "starlette": {0: Measured(4.0)}}
    lines = to_lines(figure, {**rounds, "isolane": {0: Measured(3.8)}}, ["isolane"])
    assert lines[-2] == (
        "  isolane: 3.8 (goal <= 5: met), 3.80 x epoll (goal <= 3: missed), "
        "0.95 x starlette (goal <= 0.9: missed)"
    )


def test_a_goal_may_be_the_least() -> None:
    figure = Figure("runs", "what", (Goal(300, is_least=True),))
    assert "300 (goal >= 300: met)" in to_lines(figure, {"a": {0: Measured(300)}}, ["a"])[-2]
    assert "299 (goal >= 300: missed)" in to_lines(figure, {"a": {0: Measured(299)}}, ["a"])[-2]


def test_a_pace_is_its_text() -> None:
    for pace in (Pace(0), Pace(20, 8), Pace(2.5, 1, 100)):
        assert Pace.parse(str(pace)) == pace


def read_pins(name: str) -> dict[str, str]:
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+?)(?:\[\w+\])?==([\w.]+)", text, re.MULTILINE))


def test_peers_are_pinned_with_hashes_and_on_the_same_server() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = [
        re.split(r"\W\W", name)[0] for name in tomllib.loads(text)["dependency-groups"]["peers"]
    ]
    pins, own = read_pins("bench/peers.lock"), read_pins("requirements/server.lock")
    assert set(wanted) <= set(pins)
    assert (CHECKOUT / "bench/peers.lock").read_text(encoding="utf-8").count("--hash=") >= len(pins)
    assert {name: pins[name] for name in pins if name in own} == {
        name: own[name] for name in own if name in pins
    }
