"""Measure what the gateway costs, beside its peers and in the same rounds.

`python bench/costs.py [--quick] [--source CHECKOUT]`; `README.md` says how to read what it prints.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import msgspec
from figures import FULL, QUICK, Effort, Faults, Figure, Load, Measured
from generator import Generator, build
from loads import all_loads
from machine import Cores, on_core
from servers import (
    CHECKOUT,
    PEERS,
    PEERS_PYTHON,
    Server,
    make_tokens,
    read_commit,
    serve_isolane,
    serve_peer,
)
from table import to_lines

USERS = 10_200
"""Most connections at once, and some newcomers beside them."""
OWN = "isolane"

Serve = Callable[[], AbstractContextManager[Server]]
Results = defaultdict[Figure, defaultdict[str, dict[int, Measured]]]


class Bench:
    """Measures the servers in turns: for each load one after the other, then the next load."""

    def __init__(self, servers: Mapping[str, Serve], generator: Generator, effort: Effort) -> None:
        """Know how each server is started."""
        self._servers = servers
        self._generator = generator
        self._effort = effort
        self.results: Results = defaultdict(lambda: defaultdict(dict))
        self.faults: list[str] = []

    def run(self, loads: list[Load]) -> None:
        """Measure every load of every server, in each round; all servers run meanwhile."""
        with ExitStack() as stack:
            standing = {n: stack.enter_context(serve()) for n, serve in self._servers.items()}
            for number in range(self._effort.rounds):
                for load in (load for load in loads if number < load.rounds_max):
                    for name in self._order(number):
                        if standing[name].has_log or not load.needs_log:
                            self._measure(number, load, standing[name])

    def _order(self, number: int) -> list[str]:
        """Return the servers in another order for each round, so that none is always first."""
        names = list(self._servers)
        start = number % len(names)
        return names[start:] + names[:start]

    def _measure(self, number: int, load: Load, server: Server) -> None:
        began_s = time.monotonic()
        try:
            with self._fresh(server) if load.is_fresh else _as_it_is(server) as measured:
                found = load.measure(measured, self._generator, self._effort)
        except (Faults, ConnectionError) as fault:
            self.faults.append(f"round {number + 1}, {load.name}, {server.name}: {fault}")
            return
        for figure, value in found.items():
            self.results[figure][server.name][number] = value
        told = ", ".join(f"{figure.name} {value.value:.4g}" for figure, value in found.items())
        took_s = time.monotonic() - began_s
        print(f"{number + 1} {server.name:<16} {took_s:>5.1f} s  {told}", file=sys.stderr)

    def _fresh(self, server: Server) -> AbstractContextManager[Server]:
        return self._servers[server.name]()


@contextmanager
def _as_it_is(server: Server) -> Iterator[Server]:
    yield server


def find_servers(options: argparse.Namespace, folder: Path, core: int | None) -> dict[str, Serve]:
    """Return how each server is started, by name."""
    found: dict[str, Serve] = {}
    for peer in PEERS:
        found[peer] = lambda peer=peer: serve_peer(peer, folder, core)  # type: ignore[misc]
    for source in dict.fromkeys([CHECKOUT, *(source.resolve() for source in options.source)]):
        name = OWN if source == CHECKOUT else f"{OWN}@{source.name}"
        found[name] = _start_isolane(name, source, folder, core, {})
    if options.agent_threads:
        env = {"ISOLANE_AGENT_THREADS": str(options.agent_threads)}
        found[f"{OWN}+threads"] = _start_isolane(f"{OWN}+threads", CHECKOUT, folder, core, env)
    wanted = options.servers or found
    return {name: serve for name, serve in found.items() if name in wanted}


def _start_isolane(
    name: str, source: Path, folder: Path, core: int | None, env: Mapping[str, str]
) -> Serve:
    tokens: list[str] = []

    def serve() -> AbstractContextManager[Server]:
        if not tokens:
            tokens.extend(make_tokens(USERS, source))
        data = Path(tempfile.mkdtemp(dir=folder))
        return serve_isolane(
            data, "agent:stream", tokens, name=name, source=source, core=core, env=env
        )

    return serve


def show(bench: Bench, options: argparse.Namespace, before: str) -> None:
    """Print the tables, what went wrong, which commits ran, and what else the machine did."""
    for figure, rounds in bench.results.items():
        own = [name for name in rounds if name.startswith(OWN)]
        order = [name for name in (*PEERS, *own) if name in rounds]
        print("\n".join(to_lines(figure, {name: rounds[name] for name in order}, own)))
    print("\n".join(f"not counted: {fault}" for fault in bench.faults))
    sources = [CHECKOUT, *options.source]
    print("commits:", ", ".join(f"{source.name} {read_commit(source)}" for source in sources))
    print(f"load average before: {before}, after: {read_load()}; {os.cpu_count()} cores")


def read_load() -> str:
    """Return the load average of one, five and fifteen minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def raise_file_limit() -> None:
    """Let the servers that are started hold as many sockets as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(options: argparse.Namespace) -> Bench:
    """Build, start, measure, and end all servers."""
    cores = Cores.choose()
    if cores.server is None:
        print("one core: the generator's work is in every figure of time", file=sys.stderr)
    raise_file_limit()
    effort = QUICK if options.quick else FULL
    loads = [load for load in all_loads() if not options.loads or load.name in options.loads]
    effort = effort if options.rounds is None else replace_rounds(effort, options.rounds)
    where = options.folder or CHECKOUT / ".build"
    where.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=where, prefix="bench-") as name, on_core(cores.others):
        folder = Path(name)
        build(folder, "generator", "epoll_server")
        servers = find_servers(options, folder, cores.server)
        bench = Bench(servers, Generator(folder, cores.others), effort)
        bench.run(loads)
    return bench


def replace_rounds(effort: Effort, rounds: int) -> Effort:
    """Return the effort with another number of rounds."""
    return Effort(rounds, *(getattr(effort, name) for name in Effort.__slots__[1:]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what the gateway costs.")
    parser.add_argument("--quick", action="store_true", help="one round of short windows")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument(
        "--source",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKOUT",
        help="measure the Isolane of another checkout beside this one; may be repeated",
    )
    parser.add_argument(
        "--agent-threads",
        type=int,
        default=0,
        metavar="N",
        help="also measure this checkout with its agents on N loops of their own",
    )
    parser.add_argument("--servers", type=_split, default=[], metavar="A,B", help="only these")
    parser.add_argument("--loads", type=_split, default=[], metavar="A,B", help="only these")
    parser.add_argument("--folder", type=Path, help="where the logs are kept; a disk, not a tmpfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure here")
    options = parser.parse_args()
    if not PEERS_PYTHON.exists():
        parser.error("the peers are not installed: `make bench` does it")
    before = read_load()
    bench = measure(options)
    show(bench, options, before)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.encode(_to_rows(bench.results)))


def _to_rows(results: Results) -> list[dict[str, object]]:
    return [
        {"figure": figure.name, "server": name, "round": number, **measured._asdict()}
        for figure, rounds in results.items()
        for name, found in rounds.items()
        for number, measured in found.items()
    ]


def _split(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
