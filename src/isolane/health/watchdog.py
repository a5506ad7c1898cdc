"""A thread that reports which task blocks an event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from isolane.errors import chain_of

TICK_S: Final = 0.1
"""Seconds between two looks."""
PATIENCE_TICKS: Final = 6
"""Looks without a beat of the loop after which it counts as blocked. Looks are counted, not
seconds: when the whole machine stalls, the watchdog stalls too, and blames nobody."""
CALM_S: Final = 1.0
"""Seconds that a loop must run freely before it counts as healthy again."""
FRAMES_MAX: Final = 40
"""Maximum number of frames of a reported stack."""

_log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Watched:
    """One watched loop and its beats.

    Only the loop writes `beats`; only the watchdog writes the rest.
    """

    name: str
    loop: asyncio.AbstractEventLoop
    thread_id: int
    beats: int = 0
    seen_beats: int = 0
    silent_ticks: int = 0
    blocked_since_s: float | None = None
    calm_at_s: float = 0.0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    def beat(self) -> None:
        """Count a beat of the loop, and schedule the next one."""
        self.beats += 1
        self.timer = self.loop.call_later(TICK_S, self.beat)


class Watchdog:
    """Watches event loops, and logs the stack of a loop that is blocked.

    A block is one log record, within a second of its start, with the task and the stack of the
    loop's thread. A second record reports its end.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """Begin without a loop; `now_s` is a monotonic clock in seconds."""
        self._now_s = now_s
        self._watched: list[_Watched] = []
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self.blocks = 0
        """Count of blocks so far."""

    def watch(self, name: str) -> Callable[[], None]:
        """Watch the calling loop; the result ends the watch and must be called on the same loop."""
        watched = _Watched(name, asyncio.get_running_loop(), threading.get_ident())
        watched.beat()
        with self._lock:
            self._watched.append(watched)

        def forget() -> None:
            with self._lock:
                self._watched.remove(watched)
            if watched.timer is not None:
                watched.timer.cancel()

        return forget

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._look_on, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and wait for it. Idempotent."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def get_blocked(self) -> list[str]:
        """Return the names of the loops that are blocked, or were a moment ago."""
        now_s = self._now_s()
        with self._lock:
            return [one.name for one in self._watched if now_s < one.calm_at_s]

    def _look_on(self) -> None:
        while not self._is_over.wait(TICK_S):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - after any error the next look must still come
                _log.error("watchdog_failed", chain=chain_of(error))

    def look(self) -> None:
        """Look at every loop once; the thread does so at each tick."""
        with self._lock:
            watched = tuple(self._watched)
        for one in watched:
            self._judge(one)

    def _judge(self, one: _Watched) -> None:
        now_s = self._now_s()
        if one.beats != one.seen_beats:
            one.seen_beats = one.beats
            one.silent_ticks = 0
            if one.blocked_since_s is not None:
                blocked_ms = round((now_s - one.blocked_since_s) * 1000)
                one.blocked_since_s = None
                _log.warning("event_loop_freed", loop=one.name, blocked_ms=blocked_ms)
            return
        one.silent_ticks += 1
        if one.silent_ticks < PATIENCE_TICKS:
            return
        one.calm_at_s = now_s + CALM_S
        if one.blocked_since_s is None:
            one.blocked_since_s = now_s - PATIENCE_TICKS * TICK_S
            self.blocks += 1
            _log.error(
                "event_loop_blocked", loop=one.name, task=_task_of(one), stack=_stack_of(one)
            )


def _task_of(one: _Watched) -> str | None:
    """Return the name of the loop's current task; an agent's task has the run's id in its name."""
    task = asyncio.current_task(one.loop)
    return None if task is None else task.get_name()


def _stack_of(one: _Watched) -> str:
    """Return the stack of the loop's thread, the innermost call last."""
    frame = sys._current_frames().get(one.thread_id)  # noqa: SLF001 - Python has no public function for it
    summary = traceback.extract_stack(frame, limit=FRAMES_MAX) if frame is not None else ()
    # One text, because the log's writer for people adds it to its own.
    return "\n".join(f"{place.filename}:{place.lineno} {place.name}" for place in summary)
