"""The end of a run: how it ends, and the writing of its one terminal event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog

from isolane.backoff import Backoff
from isolane.errors import (
    AgentFailed,
    AgentProtocolError,
    DatabaseFailed,
    GoingAway,
    IsolaneError,
    NotFound,
    Unavailable,
    caused,
    chain_of,
    traceback_of,
)
from isolane.events.event import Event, run_failed, run_finished
from isolane.ids import new_error_id
from isolane.runs.run import Run
from isolane.runs.writer import RunWriter, Share

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends: with an outcome, or with an error and its cause."""

    outcome: Mapping[str, Any] = field(default_factory=lambda: {"type": "success"})
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the agent's own end that the run's end repeats."""
    error: IsolaneError | None = None
    is_stopped: bool = False
    """True when it ends because it was stopped."""
    share: int = Share.WHOLE
    """The most of the run that its end may bring along."""


CANCELLED: Final = Ending({"type": "cancelled"}, is_stopped=True)


def ending_of_stop(run: Run) -> Ending:
    """Return how a stopped run ends."""
    error = run.stop.error
    return CANCELLED if error is None else Ending(error=error, is_stopped=True)


def ending_now(run: Run, ending: Ending) -> Ending:
    """Return `ending`, unless the run was stopped: then the stop is why it ends."""
    return ending_of_stop(run) if run.stop.is_set() else ending


async def end_run(run: Run, writer: RunWriter, ending: Ending) -> Event | None:
    """Write the run's one end. Return the end when the database refuses it for good, else None.

    Passing troubles are waited for. An end that can't be written whole is written without the run's
    messages, and then without the events that wait. Cancelling leaves the run without an end.
    """
    error_id = None if ending.error is None else new_error_id()
    terminal, outcome = _to_terminal(run, ending, error_id)
    if ending.error is not None:
        _report(run, ending.error, error_id)
    for share in Share:
        if share < ending.share:
            continue
        end = partial(
            writer.finish,
            terminal,
            outcome=outcome,
            error_id=error_id,
            failure=ending.error if isinstance(ending.error, AgentFailed) else None,
            share=share,
        )
        try:
            await _write_end(run, end, ending)
        except NotFound:  # the thread was deleted under the run
            return None
        except AgentProtocolError as error:  # the agent's own result is too large, or no JSON
            return await end_run(run, writer, Ending(error=error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must end
            refused = caused(DatabaseFailed("the run's end can't be written whole"), error)
            if ending.error is None:
                return await end_run(run, writer, replace(ending, error=refused, share=share + 1))
            chain = chain_of(refused)
            _log.error("run_end_refused", error_id=error_id, chain=chain, **run.log_fields)
        else:
            return None
    return terminal


async def _write_end(run: Run, end: Callable[..., Awaitable[None]], ending: Ending) -> None:
    """Write the end. While the log can't be written for now, try again."""
    backoff = Backoff()
    interrupts = ending.outcome.get("interrupts", ()) if ending.error is None else ()
    while True:
        stop = run.stop.to_report() if ending.is_stopped else None
        try:
            return await end(stop=stop, interrupts=interrupts)
        except Unavailable as error:
            _log.error("run_end_write_failed", reason=str(error), **run.log_fields)
            await backoff.pause()  # between two tries; the run waits for the disk


def _to_terminal(run: Run, ending: Ending, error_id: str | None) -> tuple[Event, str]:
    """Return the terminal event, and the outcome for the run's row."""
    if ending.error is not None and error_id is not None:
        return run_failed(ending.error, error_id, run_id=run.run_id), ending.error.code
    event = run_finished(
        thread_id=run.thread_id, run_id=run.run_id, outcome=ending.outcome, **ending.kept
    )
    return event, str(ending.outcome["type"])


def _report(run: Run, error: IsolaneError, error_id: str | None) -> None:
    # A run whose thread was deleted did no wrong. The log may say so before the service is told.
    if run.is_deleted or isinstance(error, NotFound):
        return
    level = _log.info if isinstance(error, GoingAway) else _log.error
    level(
        "run_failed",
        error_id=error_id,
        code=error.code,
        chain=chain_of(error),
        exception=traceback_of(error),
        **run.log_fields,
    )
