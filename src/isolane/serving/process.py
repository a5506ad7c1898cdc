"""Settings of the server's process: threads, memory and open files."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from typing import Final

SWITCH_INTERVAL_S: Final = 0.0002
"""Seconds for which a thread may hold the interpreter when another thread wants it. With Python's
default of 5 ms, a database thread would wait that long for a busy loop after each statement."""
_M_ARENA_MAX: Final = -8
"""Number of the option in glibc's malloc.h."""


def tune_process() -> None:
    """Set up the process for many threads and sockets. Called before the first thread starts."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _share_heap()
    _raise_open_files()


def _share_heap() -> None:
    """Let all threads allocate from one heap, where the C library is glibc.

    By default each thread has a heap that keeps freed memory. After a thousand connections the
    database's threads kept 3 % of the process's memory for nothing. Small blocks still have a cache
    per thread.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def freeze_startup_objects() -> None:
    """Let the garbage collector ignore all objects that exist now.

    Imported modules stay for good and are most objects. A full collection over them blocked the
    event loop for 0.1 s and more, some times per minute under load.
    """
    gc.collect()
    gc.freeze()


def _raise_open_files() -> None:
    """Raise the limit of open files to the most that the system grants.

    Each socket is an open file, and the usual limit is 1,024.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on Windows

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
