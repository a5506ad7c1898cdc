"""Standard output and error through threads of their own, because their reader may be slow.

A pipe without a reader is full after 64 KiB. A write then blocks, and on the event loop it would
block everybody. So text waits here instead, and the oldest lines are dropped when there is too
much.
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
"""Maximum bytes per stream that wait for a reader. Above that the older half of the lines is
dropped."""
LINE_MAX_CHARACTERS: Final = 1 << 16
"""Characters of an unfinished line that are kept. A longer line is passed on without its end."""
STALL_S: Final = 3.0
"""Seconds for which the process's end waits for a reader that takes nothing."""

_log = structlog.get_logger(__name__)


class Output:
    """A text stream whose `write` and `flush` never wait for a reader."""

    def __init__(self, stream: TextIO, *, most_bytes: int = WAITING_MAX_BYTES) -> None:
        """Write to the descriptor of `stream`.

        Raises:
            OSError: The stream has no descriptor.
        """
        self._descriptor = stream.fileno()
        stream.flush()
        self._stream = stream
        self._most_bytes = most_bytes
        self._begun = ""
        self._begin_anew()
        self.dropped = 0
        """Count of dropped lines."""
        self._untold = 0
        self._is_direct = False
        os.register_at_fork(after_in_child=self._begin_in_child)
        Thread(target=self._write_for_ever, name=f"isolane-{stream.name}", daemon=True).start()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the stream
        """Return another attribute of the stream: its descriptor, its buffer, its encoding."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Accept `text`.

        Whole lines are passed on at once, a rest with its line's end or a `flush()`.
        """
        with self._changed:
            *lines, begun = (self._begun + text).split("\n")
            self._begun = begun
            for line in lines:
                self._take(f"{line}\n")
            if len(self._begun) > LINE_MAX_CHARACTERS:
                self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write the texts in order."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on an unfinished line, without waiting until it is written."""
        with self._changed:
            begun, self._begun = self._begun, ""
            if begun:
                self._take(begun)

    def finish(self, *, stall_s: float = STALL_S) -> None:
        """Wait until all is written, or until nothing was read for `stall_s`.

        A later text is written at once when there is a reader, and dropped otherwise.
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
        """Drop the older half of the lines; one line tells their number, so many go at a time."""
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
        """Write all bytes, or drop the rest when the reader is gone."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another user of the pipe has made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                with self._changed:
                    self.dropped += 1
                return

    def _begin_anew(self) -> None:
        self._changed = Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        """Bytes that wait, those of the running write included."""
        self._written = 0
        self._begun = ""

    def _begin_in_child(self) -> None:
        """Write without a thread, because a forked process has no threads of its parent."""
        self._begin_anew()
        self._is_direct = True


_outputs: Final[list[Output]] = []


def write_beside() -> None:
    """Start threads that write what this process says: prints, logs and tracebacks.

    A stream without a descriptor stays unchanged.
    """
    for name in ("stdout", "stderr"):
        stream: TextIO = getattr(sys, name)
        try:
            output = Output(stream)
        except (OSError, AttributeError):  # a closed stream, or a host's own object
            continue
        _outputs.append(output)
        setattr(sys, name, output)
        _redirect_logs(stream, cast("TextIO", output))
    atexit.register(finish_writing)


def finish_writing() -> None:
    """Wait until the streams are written, as long as there is a reader."""
    for output in _outputs:
        output.finish()


def count_dropped() -> int:
    """Return the number of lines that this process has dropped."""
    return sum(output.dropped for output in _outputs)


def _redirect_logs(old: TextIO, new: TextIO) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is old:
            handler.setStream(new)
