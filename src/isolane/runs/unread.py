"""Runs that were asked over HTTP and have no reader any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from isolane.context import ThreadKey
from isolane.runs.ground import Ground
from isolane.runs.readers import UNREAD_S, HttpReader, OnDisconnect, Readers
from isolane.runs.run import Run

IsFollowed = Callable[[ThreadKey, str], bool]
"""Says whether an open socket follows the run of that id."""
Halt = Callable[[Run], None]
"""Stops a run."""

_log = structlog.get_logger(__name__)


class UnreadRuns:
    """Counts the readers of runs over HTTP, and stops runs that all readers have left."""

    def __init__(self, ground: Ground, *, is_followed: IsFollowed, halt: Halt) -> None:
        """Watch the runs of `ground`. A socket that follows a run is a reader, too."""
        self._live = ground.live
        self._draining = ground.draining
        self._is_followed = is_followed
        self._halt = halt
        self._readers = Readers()

    def enter(self, key: ThreadKey, run_id: str | None) -> HttpReader:
        """Count a request that reads a run, or all of its thread, until it leaves."""
        return self._readers.enter(key, run_id)

    def leave(self, reader: HttpReader) -> None:
        """Stop counting a request; see `AgentService.leave`. Idempotent."""
        if self._readers.leave(reader):
            for run in self._live.get_of_thread(reader.key):
                if reader.reads(run.run_id):
                    self.watch(run)

    def watch(self, run: Run) -> None:
        """Check in 2 s whether a run has a reader, if it is to be stopped without one."""
        if run.unread is not None:
            run.unread.cancel()
        key = run.context.thread_key
        may_stop = run.on_disconnect is OnDisconnect.STOP and not run.ended.is_set()
        if may_stop and not self._readers.has_reader(key, run.run_id):
            loop = asyncio.get_running_loop()
            run.unread = loop.call_later(UNREAD_S, self._stop, run)

    def stop_before(self, run: Run) -> None:
        """Stop the other runs of a run's thread that were asked over HTTP and have no reader."""
        for other in self._live.get_of_thread(run.context.thread_key):
            if other is not run and other.on_disconnect is not None:
                self._stop(other)

    def _stop(self, run: Run) -> None:
        """Stop a run without readers, except in a shutdown, which itself cuts all readers off."""
        if not (run.stop.is_set() or self._draining.has_begun or self._is_read(run)):
            _log.info("unread_run_stopped", run_id=run.run_id, user_id=run.context.user_id)
            self._halt(run)

    def _is_read(self, run: Run) -> bool:
        key = run.context.thread_key
        return self._readers.has_reader(key, run.run_id) or self._is_followed(key, run.run_id)
