"""Leftovers of a test: coroutines without an await, and tasks destroyed while pending."""

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
"""Calls that each coroutine remembers of its origin; each call costs every coroutine a little."""

Place: TypeAlias = tuple[str, int, str]
"""File, line and function."""

_MACHINERY: Final = frozenset({"_pytest", "asyncio", "pluggy", "pytest_asyncio"})
"""Folders whose calls say nothing about the mistake."""


class Leftovers:
    """Notes every coroutine and task that ends without an await while it watches.

    It asks the interpreter and the event loops themselves. So filtered or recorded warnings hide
    nothing, and neither do loops with their own exception handler.
    """

    def __init__(self) -> None:
        """Begin without findings."""
        self._found: list[str] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what is destroyed while the block runs, in every thread."""
        depth = sys.get_coroutine_origin_tracking_depth()
        with pytest.MonkeyPatch.context() as patch:
            # CPython calls this for each of them. Without that name an error is raised here.
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
        """Return the findings since the last call as text; empty without any."""
        found, self._found = self._found, []
        return "\n".join(found)

    def _add_coroutine(self, coroutine: Any) -> None:  # noqa: ANN401 - the coroutine's fields are CPython's own
        name = coroutine.__qualname__
        said = f"coroutine {name} was never awaited; write: await {name}(…)"
        self._found.append(f"{said}\n{_origin(coroutine.cr_origin)}")

    def _add_task(self, task: asyncio.Task[Any]) -> None:
        work = task.get_coro()
        name = getattr(work, "__qualname__", repr(work))
        said = f"{task.get_name()} of {name} was destroyed while pending; keep it and await it"
        self._found.append(f"{said}\n{_origin(getattr(work, 'cr_origin', None))}")

    def _listen_in(self, tell: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """Return a loop's `call_exception_handler` that also notes the finding."""

        def call_exception_handler(
            loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]
        ) -> None:
            task = context.get("task")
            if isinstance(task, asyncio.Task) and not task.done():
                self._add_task(task)
            tell(loop, context)

        return call_exception_handler


def _kinds_of_loops() -> Iterator[Any]:
    """Yield the classes from which loops inherit `call_exception_handler`."""
    yield asyncio.BaseEventLoop
    with suppress(ImportError):  # uvloop doesn't exist for Windows
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
