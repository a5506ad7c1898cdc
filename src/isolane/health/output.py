"""Standard output and error, written by a thread of their own: who reads them may be slow.

A pipe that nobody reads is full after 64 KiB. Whoever writes to it then waits, and on an event loop
that would be everybody. So what is written waits here instead, and the oldest of it goes when there
is too much.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import sys
from collections import deque
from collections.abc import Iterable
from functools import partial
from threading import Condition, Thread
from typing import Any, Final, TextIO, cast

import structlog

WAITING_MAX_BYTES: Final = 4 << 20
"""What waits for a reader, for each stream; above it the older half of the lines goes."""
LINE_MAX_CHARACTERS: Final = 1 << 16
"""What begins a line and is kept until the line ends; more goes on without the end."""
STALL_S: Final = 3.0
"""How long the end of the process waits for a reader that takes nothing."""

_log = structlog.get_logger(__name__)


class Output:
    """A text stream whose `write` and `flush` never wait for a reader."""

    def __init__(self, stream: TextIO, *, most_bytes: int = WAITING_MAX_BYTES) -> None:
        """Write to the descriptor of `stream`; raises `OSError` when it has none."""
        self._descriptor = stream.fileno()
        stream.flush()
        self._stream = stream
        self._most_bytes = most_bytes
        self._begun = ""
        self._begin_anew()
        self.dropped = 0
        """Lines that nobody will ever read."""
        self._untold = 0
        self._is_direct = False
        os.register_at_fork(after_in_child=self._begin_in_child)
        Thread(target=self._write_for_ever, name=f"isolane-{stream.name}", daemon=True).start()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        """Return what else the stream has: its descriptor, its buffer, how it encodes."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Take `text`; whole lines go on at once, the rest with its line's end or a `flush()`."""
        with self._changed:
            *lines, begun = (self._begun + text).split("\n")
            self._begun = begun
            for line in lines:
                self._take(f"{line}\n")
            if len(self._begun) > LINE_MAX_CHARACTERS:
                self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Take one text after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send on what has no line's end yet. It doesn't wait until that is written."""
        with self._changed:
            begun, self._begun = self._begun, ""
            if begun:
                self._take(begun)

    def finish(self, *, stall_s: float = STALL_S) -> None:
        """Wait until all is written, or until nobody has read for `stall_s`.

        What comes later is written at once where somebody reads, and is dropped where nobody does.
        """
        self.flush()
        with self._changed:
            while self._size:
                if not self._changed.wait_for(
                    partial(self._has_written_since, self._written), stall_s
                ):
                    return
            self._is_direct = True

    def _has_written_since(self, written: int) -> bool:
        return self._written != written

    def _take(self, line: str) -> None:
        data = line.encode(self._stream.encoding, errors="backslashreplace")
        if self._is_direct:
            self._write(data)
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size > self._most_bytes:
            self._drop_older_half()
        self._changed.notify_all()

    def _drop_older_half(self) -> None:
        """Let go of the oldest lines, many at a time: each time is told in a line."""
        while self._size > self._most_bytes // 2 and len(self._waiting) > 1:
            self._size -= len(self._waiting.popleft())
            self.dropped += 1
            self._untold += 1

    def _write_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting.popleft()
            self._write(data)
            with self._changed:
                self._size -= len(data)
                self._written += 1
                untold, self._untold = self._untold, 0
                self._changed.notify_all()
            if untold:
                _log.warning("log_lines_dropped", lines=untold, stream=self._stream.name)

    def _write(self, data: bytes) -> None:
        """Write it all, or none of the rest when there is nobody any more who could read it."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # whoever shares the pipe has made it so
                select.select([], [self._descriptor], [])
            except OSError:
                with self._changed:
                    self.dropped += 1
                return

    def _begin_anew(self) -> None:
        self._changed = Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        """Bytes that wait, those that are being written included."""
        self._written = 0
        self._begun = ""

    def _begin_in_child(self) -> None:
        """Write without a thread: a forked process has none of its parent's."""
        self._begin_anew()
        self._is_direct = True


_outputs: Final[list[Output]] = []


def write_beside() -> None:
    """Let threads write what this process says from now on, also its logs and its traceback.

    A stream without a descriptor is left as it is.
    """
    for name in ("stdout", "stderr"):
        stream: TextIO = getattr(sys, name)
        try:
            output = Output(stream)
        except (OSError, AttributeError):  # closed, or somebody's own
            continue
        _outputs.append(output)
        setattr(sys, name, output)
        _redirect_logs(stream, cast("TextIO", output))
    atexit.register(finish_writing)


def finish_writing() -> None:
    """Wait for what is being written, as long as somebody reads it."""
    for output in _outputs:
        output.finish()


def count_dropped() -> int:
    """Return how many lines of this process were dropped."""
    return sum(output.dropped for output in _outputs)


def _redirect_logs(old: TextIO, new: TextIO) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is old:
            handler.setStream(new)
