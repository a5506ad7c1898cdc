"""Guards that keep an exit in an agent's task from ending the event loop.

In asyncio a SystemExit or KeyboardInterrupt of any task or callback ends the loop, and with it the
server of all users. Whatever an agent starts inherits the agent's context. The guards look there to
tell an agent's tasks from others.
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
"""Reports to a run that its agent asked for the end of the process. Any thread may call it."""

_log = structlog.get_logger(__name__)
_tell: Final[ContextVar[Tell | None]] = ContextVar("tell_of_exit", default=None)
"""The run that hears of exits in this context; None outside of an agent."""
_contained: Final[WeakSet[asyncio.AbstractEventLoop]] = WeakSet()
"""Loops that are guarded already."""
_SOON: Final = "call_soon"
"""The method of the loop that every step of a task goes through, which has a guard of its own."""
_SCHEDULERS: Final = {
    "call_soon_threadsafe": 0,
    "call_later": 1,
    "call_at": 1,
    "add_reader": 1,
    "add_writer": 1,
}
"""Other methods of the loop that take a callback, each with the position of that argument."""
_EXECUTE: Final = "run_in_executor"
"""The method of the loop that runs work in a thread."""


def tell_of_exits(tell: Tell) -> None:
    """Report to `tell` every exit in the tasks and callbacks that the current task will start."""
    _tell.set(tell)


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Keep exits of agents' tasks from ending `loop`; other tasks are left alone.

    Callbacks that come from other threads are an exception. They have no context, so nobody knows
    whose they are. Their exits are logged.
    """
    if loop in _contained:
        return
    _contained.add(loop)
    setattr(loop, _SOON, _guard_soon(getattr(loop, _SOON)))
    for name, place in _SCHEDULERS.items():
        own_thread = threading.get_ident() if name == "call_soon_threadsafe" else None
        setattr(loop, name, _guard(getattr(loop, name), place, own_thread=own_thread))
    setattr(loop, _EXECUTE, _keep_context(getattr(loop, _EXECUTE)))


class _Contained:
    """A callback of an agent. Its exit is reported to the agent's run."""

    __slots__ = ("_callback", "_tell")

    def __init__(self, callback: Callable[..., object], tell: Tell) -> None:
        self._callback = callback
        self._tell = tell

    def __call__(self, *args: object) -> None:
        try:
            self._callback(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            self._tell(error)

    def __getattr__(self, name: str) -> object:
        """Return attributes of the callback itself, because callers look there for its task."""
        return getattr(self._callback, name)


def _keep_context(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make an executor's threads run with the context of the caller."""

    def run_in_executor(executor: object, work: Callable[..., object], *args: Any) -> Any:  # noqa: ANN401 - the signature of the loop's own method
        if _tell.get() is not None:
            work = partial(copy_context().run, work)
        return run(executor, work, *args)

    return run_in_executor


def _log_exit(error: BaseException) -> None:
    _log.error("exit_ignored", exception=traceback_of(error))


def _guard_soon(call_soon: Callable[..., Any]) -> Callable[..., Any]:
    def scheduled(
        callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> Any:  # noqa: ANN401 - the signature of the loop's own method
        tell = _tell.get() if context is None else context.get(_tell)
        if tell is not None and type(callback) is not _Contained:
            callback = _Contained(callback, tell)
        return call_soon(callback, *args, context=context)

    return scheduled


def _guard(
    schedule: Callable[..., Any], place: int, *, own_thread: int | None
) -> Callable[..., Any]:
    """Guard one method of the loop; `own_thread` is set for methods that other threads may call.

    A call from another thread has no agent's context.
    """

    def scheduled(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - the signature of the loop's own method
        context: Context | None = options.get("context")
        tell = _tell.get() if context is None else context.get(_tell)
        if tell is None and own_thread is not None and threading.get_ident() != own_thread:
            tell = _log_exit
        if tell is None or len(args) <= place or isinstance(args[place], _Contained):
            return schedule(*args, **options)
        contained = _Contained(args[place], tell)
        return schedule(*args[:place], contained, *args[place + 1 :], **options)

    return scheduled
