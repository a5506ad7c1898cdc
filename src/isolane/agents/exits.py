"""Keeps what an agent started from ending the event loop.

asyncio lets a SystemExit or KeyboardInterrupt of any task or callback end the loop, and with it
everybody's server. What an agent starts inherits its context, by which it is told from the rest.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Final
from weakref import WeakSet

import structlog

from isolane.errors import traceback_of

Tell = Callable[[BaseException], None]
"""Tells a run that something of its agent asked for the end of the process; on any thread."""

_log = structlog.get_logger(__name__)
_tell: Final[ContextVar[Tell | None]] = ContextVar("tell_of_exit", default=None)
_contained: Final[WeakSet[asyncio.AbstractEventLoop]] = WeakSet()
_SCHEDULERS: Final = {
    "call_soon": 0,
    "call_soon_threadsafe": 0,
    "call_later": 1,
    "call_at": 1,
    "add_reader": 1,
    "add_writer": 1,
}
"""The loop's methods that take a callback, and the place of the callback in their arguments."""
_EXECUTE: Final = "run_in_executor"
"""The one that takes work for a thread."""


def tell_of_exits(tell: Tell) -> None:
    """Have `tell` called for every exit in what the current task starts from now on."""
    _tell.set(tell)


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Let no exit of what an agent started end `loop`; what others start is left alone.

    But for what other threads hand to the loop: whose it is can't be told, so an exit is logged.
    """
    if loop in _contained:
        return
    _contained.add(loop)
    for name, place in _SCHEDULERS.items():
        own_thread = threading.get_ident() if name == "call_soon_threadsafe" else None
        setattr(loop, name, _guard(getattr(loop, name), place, own_thread=own_thread))
    setattr(loop, _EXECUTE, _keep_context(getattr(loop, _EXECUTE)))


class _Contained:
    """A callback of an agent's, whose exit is told to its run."""

    def __init__(self, callback: Callable[..., object], tell: Tell) -> None:
        self._callback = callback
        self._tell = tell

    def __call__(self, *args: object) -> None:
        try:
            self._callback(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            self._tell(error)

    def __getattr__(self, name: str) -> object:
        """Answer as the callback does: those who look at it look for its task."""
        return getattr(self._callback, name)


def _keep_context(run: Callable[..., Any]) -> Callable[..., Any]:
    """Let threads of an executor have the context of the agent that asks for them."""

    def run_in_executor(executor: object, work: Callable[..., object], *args: Any) -> Any:  # noqa: ANN401 - as the loop's own method
        if _tell.get() is not None:
            work = partial(copy_context().run, work)
        return run(executor, work, *args)

    return run_in_executor


def _log_exit(error: BaseException) -> None:
    _log.error("exit_ignored", exception=traceback_of(error))


def _guard(
    schedule: Callable[..., Any], place: int, *, own_thread: int | None
) -> Callable[..., Any]:
    """Guard a method of the loop; `own_thread` is given where other threads may call it.

    Those have no context of their agent.
    """

    def scheduled(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the loop's own method
        context: Context | None = options.get("context")
        tell = _tell.get() if context is None else context.get(_tell)
        if tell is None and own_thread is not None and threading.get_ident() != own_thread:
            tell = _log_exit
        if tell is None or len(args) <= place or isinstance(args[place], _Contained):
            return schedule(*args, **options)
        contained = _Contained(args[place], tell)
        return schedule(*args[:place], contained, *args[place + 1 :], **options)

    return scheduled
