"""What a test leaves behind: coroutines that nobody awaited, tasks destroyed while pending."""

from __future__ import annotations

import asyncio
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

ORIGIN_FRAMES: Final = 6
"""Calls that a coroutine remembers of its making; each costs every coroutine a little."""

Place: TypeAlias = tuple[str, int, str]
"""File, line and function."""

_MACHINERY: Final = frozenset({"_pytest", "asyncio", "pluggy", "pytest_asyncio"})
"""Folders whose calls say nothing of the mistake."""


class Leftovers:
    """Hears of everything that goes un-awaited while it watches.

    It asks the interpreter and the event loops themselves, so warnings that are filtered or
    recorded and loops with an exception handler of their own hide nothing.
    """

    def __init__(self) -> None:
        """Begin with nothing found."""
        self._found: list[str] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Hear of what dies while the block runs, in whichever thread."""
        depth = sys.get_coroutine_origin_tracking_depth()
        with pytest.MonkeyPatch.context() as patch:
            # What CPython calls for each of them; where there is no such name, this raises.
            patch.setattr(warnings, "_warn_unawaited_coroutine", self._add_coroutine)
            for kind in _kinds_of_loops():
                tell = kind.call_exception_handler
                patch.setattr(kind, "call_exception_handler", self._listen_in(tell))
            sys.set_coroutine_origin_tracking_depth(ORIGIN_FRAMES)
            try:
                yield
            finally:
                sys.set_coroutine_origin_tracking_depth(depth)

    def take(self) -> str:
        """Return what was found since the last time, as text; empty when that is nothing."""
        found, self._found = self._found, []
        return "\n".join(found)

    def _add_coroutine(self, coroutine: Any) -> None:  # noqa: ANN401 - with CPython's own fields
        name = coroutine.__qualname__
        said = f"coroutine {name} was never awaited; write: await {name}(…)"
        self._found.append(f"{said}\n{_origin(coroutine.cr_origin)}")

    def _add_task(self, task: asyncio.Task[Any]) -> None:
        work = task.get_coro()
        name = getattr(work, "__qualname__", repr(work))
        said = f"{task.get_name()} of {name} was destroyed while pending; keep it and await it"
        self._found.append(f"{said}\n{_origin(getattr(work, 'cr_origin', None))}")

    def _listen_in(self, tell: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """Return a loop's `call_exception_handler` that tells us, too."""

        def call_exception_handler(
            loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]
        ) -> None:
            task = context.get("task")
            if isinstance(task, asyncio.Task) and not task.done():
                self._add_task(task)
            tell(loop, context)

        return call_exception_handler


def _kinds_of_loops() -> Iterator[Any]:
    """Yield the classes from which the loops here inherit how they tell what went wrong."""
    yield asyncio.BaseEventLoop
    with suppress(ImportError):  # there is none for Windows
        import uvloop  # noqa: PLC0415

        yield uvloop.Loop


def _origin(places: Iterable[Place] | None) -> str:
    if not places:
        return "  made where none is kept: outside a test, or in another thread"
    own = tuple(takewhile(_is_own, places)) or tuple(places)[:1]
    lines = [(file, line, function, linecache.getline(file, line)) for file, line, function in own]
    return "".join(
        ["  made here (innermost call first):\n", *traceback.format_list(lines)]
    ).rstrip()


def _is_own(place: Place) -> bool:
    return Path(place[0]).parent.name not in _MACHINERY
