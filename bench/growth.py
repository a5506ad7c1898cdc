"""Measure what grows with what is stored: the same work beside little and beside much, in turns.

`python bench/growth.py`; about two minutes. `README.md` says how to read what it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvloop
from ag_ui.core import RunAgentInput
from filling import USER, add_threads, make_database
from servers import running

from isolane.agents.function import adapt_function
from isolane.app import open_gateway
from isolane.context import EventId, UserExecutionContext
from isolane.contracts import Admitted, RunDraft, RunEnd, Terms
from isolane.doors.gateway import Gateway
from isolane.ids import new_request_id
from isolane.logs import configure_logs
from isolane.settings import Settings
from isolane.testing.server import free_port

FEW_THREADS, MANY_THREADS = 100, 100_000
FEW_MESSAGES, MANY_MESSAGES = 100, 10_000
RATIO_MAX = 1.2
"""Factor by which an operation may take longer beside much data than beside little."""
START_MAX_S = 2.0
ROUNDS = 30
APPENDS = 20
"""Repeats in each round."""
RESUMED = 1_000
STARTS = 3
START = "run start"
PAGE = 50
"""Threads in a list, and messages in a page: the same work beside little and beside much."""
LIVE = "live-"
"""Prefix of the ids of the threads that are measured."""

Times = Mapping[str, Sequence[float]]


async def silent(run: RunAgentInput) -> AsyncIterator[str]:
    """Say one word."""
    del run
    yield "Done."


@dataclass
class Place:
    """One thread to work in, and what things took there, in seconds."""

    gateway: Gateway
    context: UserExecutionContext
    takes: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    run_id: str = ""
    """The run that was begun last."""

    async def time(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Note what a piece of work takes."""
        began_s = time.perf_counter()
        await work()
        self.takes[name].append(time.perf_counter() - began_s)

    async def play(self) -> None:
        """Do everything once."""
        await self.append_some()
        await self.time("resume of 1,000", self.resume)
        await self.time("page of a thread", self.load_page)
        await self.time("thread list", self.load_list)
        await self.time(START, self.start)
        await self.finish()

    async def append_some(self) -> None:
        """Commit events of a run that no agent speaks in, and end it."""
        run = self.new_run()
        draft = RunDraft("default", (), None, {})
        admitted = await self.gateway.storage.book.admit(run, draft, Terms())
        if not isinstance(admitted, Admitted) or admitted.begun is None:
            raise TypeError(f"{admitted} has not begun")
        append = partial(self.gateway.feed.append, admitted.begun.lease)
        # Untimed: the start of the run before it has read the whole history, which is freed now.
        await append([b'{"type":"RUN_STARTED"}'], batch=1)
        said = [b'{"type":"CUSTOM","name":"said"}']
        for batch in range(2, APPENDS + 2):
            await self.time("append", partial(append, said, batch=batch))
        end = RunEnd(run.run_key.run_id, "success", None, (), round(time.time() * 1000))
        await append([b'{"type":"RUN_FINISHED"}'], batch=APPENDS + 2, end=end)

    def new_run(self) -> UserExecutionContext:
        """Return the context of another run."""
        self.run_id = new_request_id()
        return self.context.for_run(self.run_id)

    async def resume(self) -> None:
        """Read the last thousand entries, as a device does that comes back."""
        key = self.context.thread_key
        head = (await self.gateway.feed.load_bounds(key)).head
        after = EventId(head.epoch, head.seq - RESUMED)
        records = self.gateway.feed.follow(key, after=after)
        async for record in records:
            if record.id == head:
                break
        await records.aclose()

    async def load_page(self) -> None:
        """Read the newest messages of the thread."""
        await self.gateway.storage.store.load_snapshot(self.context.thread_key, limit=PAGE)

    async def load_list(self) -> None:
        """Read the first page of the user's threads."""
        await self.gateway.storage.store.load_threads(USER, before=None, limit=PAGE)

    async def start(self) -> None:
        """Have a run taken on."""
        run = self.new_run()
        question = {"id": run.run_key.run_id, "role": "user", "content": "Well?"}
        await self.gateway.service.start(run, _ask(run, question))

    async def finish(self) -> None:
        """Wait for the end of the run that was started."""
        run = self.context.for_run(self.run_id)
        async for _ in self.gateway.service.follow(run):
            pass


def _ask(run: UserExecutionContext, question: object) -> RunAgentInput:
    return RunAgentInput.model_validate(
        {
            "threadId": run.thread_id,
            "runId": run.run_id,
            "state": {},
            "messages": [question],
            "tools": [],
            "context": [],
            "forwardedProps": {},
        }
    )


async def work_in(wanted: Sequence[tuple[Path, str]]) -> list[Times]:
    """Do the same in each of these threads, in turns, and return what it took there."""
    async with AsyncExitStack() as stack:
        folders = dict.fromkeys(data for data, _ in wanted)
        gateways = {data: await stack.enter_async_context(_open(data)) for data in folders}
        user = UserExecutionContext(user_id=USER)
        places = [Place(gateways[data], user.for_thread(thread)) for data, thread in wanted]
        for place in places:
            await place.play()  # the first time is of caches
            place.takes.clear()
        for number in range(ROUNDS):
            for place in places if number % 2 else reversed(places):
                await place.play()
        return [place.takes for place in places]


def _open(data: Path) -> AbstractAsyncContextManager[Gateway]:
    agents = {"default": adapt_function(silent, name="silent")}
    return open_gateway(Settings(data=data, drain_timeout_s=0), agents)


def start_server(data: Path) -> tuple[float, float]:
    """Return what a start takes in seconds, and what the process holds then in MiB."""
    port = free_port()
    began_s = time.perf_counter()
    where = ["--port", str(port), "--data", str(data)]
    with running(
        [sys.executable, "-m", "isolane", "serve", *where], data / "isolane.log", port
    ) as pid:
        took_s = time.perf_counter() - began_s
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return took_s, int(resident.split()[1]) / 1024


def compare_starts(data: Sequence[Path]) -> list[Times]:
    """Start a server on each folder a few times, in turns."""
    start_server(data[0])
    found: list[defaultdict[str, list[float]]] = [defaultdict(list) for _ in data]
    for _ in range(STARTS):
        for takes, folder in zip(found, data, strict=True):
            start_s, resident_mib = start_server(folder)
            takes["start of the server"].append(start_s)
            takes["memory after it"].append(resident_mib)
    return list(found)


def fill(folder: Path) -> list[Path]:
    """Make the two databases, and in each the threads that are worked in."""
    folders = [folder / name for name in ("few", "many")]
    for data, count in zip(folders, (FEW_THREADS, MANY_THREADS), strict=True):
        make_database(data)
        add_threads(data, count, prefix="quiet-")
        add_threads(data, 1, prefix=f"{LIVE}small-", holds=_runs_of(FEW_MESSAGES))
    add_threads(folders[0], 1, prefix=f"{LIVE}long-", holds=_runs_of(MANY_MESSAGES))
    return folders


def _runs_of(messages: int) -> tuple[int, int, int]:
    """Return what a thread holds: a question and an answer in each run, and a thousand entries."""
    runs = messages // 2
    return runs, max(RESUMED // runs, 4), 2


def show(
    title: str, columns: Sequence[str], takes: Sequence[Times], *, free: Sequence[str] = ()
) -> bool:
    """Print the figures side by side; return whether all but the free ones stay as they are."""
    print(f"{title:<24}{columns[0]:>12}{columns[1]:>12}{'ratio':>8}")
    is_flat = True
    for name in takes[0]:
        for quantile in (0.5, 0.99) if name == "append" else (0.5,):
            few, many = (_quantile(one[name], quantile) for one in takes)
            label = f"{name} p{quantile * 100:g}" if name == "append" else name
            ratio = many / few
            is_flat = is_flat and (ratio <= RATIO_MAX or name in free)
            print(f"{label:<24}{_tell(name, few):>12}{_tell(name, many):>12}{ratio:>8.2f}")
    print()
    return is_flat


def _quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


def _tell(name: str, value: float) -> str:
    return f"{value:.0f} MiB" if name.startswith("memory") else f"{value * 1000:.2f} ms"


def main() -> int:
    """Fill, measure and print; return 1 when something grows with what is stored."""
    parser = argparse.ArgumentParser(description="Measure what grows with what is stored.")
    parser.add_argument("--folder", type=Path, help="where the databases are; a disk, not a tmpfs")
    options = parser.parse_args()
    configure_logs("console")  # to stderr, apart from the figures
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        few, many = fill(Path(folder))
        starts = compare_starts([few, many])
        small, long = f"{LIVE}small-0", f"{LIVE}long-0"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            beside = runner.run(work_in([(few, small), (many, small)]))
            within = runner.run(work_in([(few, small), (few, long)]))
    threads, messages = ("100", "100,000"), ("100", "10,000")
    is_flat = [
        show("threads", threads, beside),
        show("messages in a thread", messages, within, free=(START,)),
        show("threads", threads, starts),
    ]
    start_s = _quantile(starts[1]["start of the server"], 0.5)
    print(f"the server starts in {start_s:.2f} s, and may take {START_MAX_S:.0f}")
    return 0 if all(is_flat) and start_s <= START_MAX_S else 1


if __name__ == "__main__":
    sys.exit(main())
