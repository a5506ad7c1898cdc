"""An event loop whose order is chance, and chance is a number: one seed, one order of all awaits.

Whatever is ready may go next, for how many hops a task took to get ready is luck in real life too.
What asyncio promises is kept: the callbacks of one future come in the order they were added.
Nothing waits: while anything is ready time stands still, then it jumps to the next timer. Nothing
runs in a thread: work for an executor is done here, between two turns.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from bisect import insort
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURNS_MAX: Final = 200_000
"""Turns after which nothing is thought to end any more; a seed takes a few thousand."""
HOPS_S: Final = (0.0, 0.0, 0.0, 0.001, 0.02, 0.2)
"""What a hop to another thread and back may take. Nothing else runs out while time stands still, so
a hop that takes time lets the others get as far as they can."""


class Stuck(Exception):
    """Somebody waits for what nobody will do any more, or does the same for ever."""


class ShuffledLoop(asyncio.BaseEventLoop):
    """Runs one ready callback a turn, drawn by `chance`, which tests draw from as well."""

    _scheduled: list[asyncio.TimerHandle]  # asyncio's own heap of timers, which its stubs leave out

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)  # noqa: S311 - chance that can be repeated, no secrets
        self.turns = 0
        self.troubles: list[dict[str, Any]] = []
        """What asyncio had to complain of: errors that nobody collected."""
        self.set_exception_handler(lambda _loop, trouble: self.troubles.append(trouble))
        self._now_s = 0.0
        # Sorted by task and then by age: sets wake their waiters in an order that differs in each
        # process, and a seed must not.
        self._waiting: list[tuple[int, int, asyncio.Handle]] = []
        self._ages = count()
        self._numbers: WeakKeyDictionary[asyncio.Future[Any], int] = WeakKeyDictionary()
        self._lines: defaultdict[Executor | None, deque[Callable[[], None]]] = defaultdict(deque)

    def time(self) -> float:
        """Return the seconds that passed in this world."""
        return self._now_s

    async def pause(self) -> None:
        """Let others go first, for as long as chance will have it."""
        await asyncio.sleep(self.chance.choice(HOPS_S))

    # --- turns -----------------------------------------------------------------------------------

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Put a callback among those of which chance draws."""
        handle = asyncio.Handle(callback, args, self, context)
        self._add(handle)
        return handle

    call_soon_threadsafe = call_soon  # for the ends of generators: there is no other thread

    def _add(self, handle: asyncio.Handle) -> None:
        """Put it beside what else its task has to do; a task is numbered by its first step."""
        own = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        task = own if isinstance(own, asyncio.Task) else _future_of(handle)
        age = next(self._ages)
        number = self._numbers.setdefault(task, age) if isinstance(task, asyncio.Task) else 0
        insort(self._waiting, (number, age, handle))

    def _run_once(self) -> None:
        """Take one turn. asyncio calls this until it is stopped."""
        if not self._waiting:
            self._pass_time()
        self.turns += 1
        if self.turns == TURNS_MAX:
            raise Stuck(f"no end after {self.turns} turns, {self._now_s:g} s")
        _, _, handle = self._waiting.pop(self._draw())
        if not handle.cancelled():
            handle._run()

    def _draw(self) -> int:
        """Return the place of who goes next; where it is a future's callback, the oldest of it."""
        place = int(self.chance.random() * len(self._waiting))
        future = _future_of(self._waiting[place][2])
        if future is None:
            return place
        of_it = (i for i, (_, _, other) in enumerate(self._waiting) if _future_of(other) is future)
        return min(of_it, key=lambda i: self._waiting[i][1])

    def _pass_time(self) -> None:
        """Jump to the next timer."""
        timers = self._scheduled
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stuck(f"nothing is to come, and these wait: {asyncio.all_tasks(self)}")
        self._now_s = timers[0].when()
        while timers and timers[0].when() <= self._now_s:
            self._add(heapq.heappop(timers))

    # --- threads that are none -------------------------------------------------------------------

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Do the work some turns from now and tell of it still later.

        A pool of one thread works in order, a larger one in any. Who is cancelled before the work
        began has nothing done, who is cancelled later isn't told: both as with threads.
        """
        told: asyncio.Future[T] = self.create_future()
        work = partial(self._work, told, partial(func, *args))
        if isinstance(executor, ThreadPoolExecutor) and executor._max_workers == 1:
            self._lines[executor].append(work)
            if len(self._lines[executor]) == 1:
                self._hop(self._serve, self._lines[executor])
        else:
            self._hop(work)
        return told

    def _hop(self, callback: Callable[..., object], *args: object) -> None:
        after_s = self.chance.choice(HOPS_S)
        if after_s:
            self.call_later(after_s, callback, *args)
        else:
            self.call_soon(callback, *args)

    def _serve(self, line: deque[Callable[[], None]]) -> None:
        line[0]()
        line.popleft()
        if line:
            self._hop(self._serve, line)

    def _work(self, told: asyncio.Future[T], func: Callable[[], T]) -> None:
        if told.cancelled():
            return
        try:
            result = func()
        except Exception as error:  # noqa: BLE001 - goes to the one who asked
            self._hop(_tell, told, partial(told.set_exception, error))
        else:
            self._hop(_tell, told, partial(told.set_result, result))


def _tell(told: asyncio.Future[Any], say: Callable[[], None]) -> None:
    if not told.done():
        say()


def _future_of(handle: asyncio.Handle) -> asyncio.Future[Any] | None:
    """Return the future whose callback this is, if it is one's."""
    first = handle._args[0] if handle._args else None
    return first if asyncio.isfuture(first) else None
