"""An agent whose module breaks one place of the server that loads it, once, when it is told to.

Served as `--agent talker=task_faults:talker`. The file that `TASK_FAULT` names holds the place that
breaks next: the one that finds its own name there removes the file and raises what nobody foresaw.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from ag_ui.core import RunAgentInput

from isolane import upkeep
from isolane.auth.judge import Judge
from isolane.auth.revocations import Revocations
from isolane.doors import event_stream
from isolane.doors.aisdk.chats import Numbered
from isolane.doors.line import Line
from isolane.doors.pulse import Pulse
from isolane.health.pressure import Pressure
from isolane.health.watchdog import Watchdog
from isolane.log.feed import Feed
from isolane.runs import AgentService, lost
from isolane.runs.admission import Admission
from isolane.runs.agent_call import AgentCall
from isolane.runs.appender import RunAppender
from isolane.runs.drain import Drain
from isolane.runs.driver import RunDriver
from isolane.runs.stop import Stop
from isolane.serving.websocket import WebSocketProtocol
from isolane.sockets.connection import WebSocketConnection
from isolane.sql.log import DatabaseEventLog
from isolane.sql.runbook import DatabaseRunBook
from isolane.sql.store import DatabaseStore

VARIABLE: Final = "TASK_FAULT"
UNFORESEEN: Final = "nobody foresaw this"

PLACES: Final[dict[str, tuple[Any, str]]] = {
    "agent": (AgentCall, "_take"),
    "authentication": (Judge, "_catch"),
    "beat": (DatabaseRunBook, "load_signs"),
    "chat": (Numbered, "tell"),
    "claim": (DatabaseRunBook, "claim"),
    "commits": (DatabaseEventLog, "_write"),
    "deletion": (Feed, "delete"),
    "drain": (Drain, "_drain"),
    "event stream": (event_stream.Followed, "_check_credential"),
    "event stream's reader": (event_stream.EventStream, "listen_for_disconnect"),
    "farewell": (WebSocketConnection, "close"),
    "follower": (WebSocketConnection, "deliver"),
    "line": (Line, "take"),
    "look into the logs": (Feed, "look"),
    "manager": (Feed, "open_tail"),
    "news": (DatabaseStore, "load_thread"),
    "pressure": (Pressure, "look"),
    "pulse": (Pulse, "_until_expiry_s"),
    "recovery": (lost, "_go_on"),
    "requests": (DatabaseStore, "load_ended_requests"),
    "retention": (Feed, "trim"),
    "revocations": (Revocations, "refresh"),
    "run": (RunDriver, "open_writer"),
    "start": (Admission, "take_on"),
    "stop": (Stop, "wait"),
    "stops of others": (AgentService, "look_for_stops"),
    "sweep of the log": (DatabaseEventLog, "sweep"),
    "watchdog": (Watchdog, "_judge"),
    "writer of a run": (RunAppender, "settle"),
    "writer of a socket": (WebSocketProtocol, "_write_texts"),
}
"""What breaks, inside of the task that it stands for."""


def _break(place: str) -> None:
    file = Path(os.environ[VARIABLE])
    if file.exists() and file.read_text(encoding="utf-8") == place:
        file.unlink()
        raise KeyError(UNFORESEEN)


def _plant(place: str, owner: Any, name: str) -> None:  # noqa: ANN401 - a class, or a module
    found: Callable[..., Any] = getattr(owner, name)

    async def break_or_wait(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as it is there
        _break(place)
        return await found(*args, **kwargs)

    def break_or_return(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as it is there
        _break(place)
        return found(*args, **kwargs)

    is_async = inspect.iscoroutinefunction(found)
    setattr(owner, name, break_or_wait if is_async else break_or_return)


if VARIABLE in os.environ:  # in the server, and not in the tests, which read `PLACES` only
    for _place, (_owner, _name) in PLACES.items():
        _plant(_place, _owner, _name)
    upkeep.INTERVAL_MAX_S = 0.3  # type: ignore[misc]  # so that nobody waits a minute for retention
    upkeep.BEAT_S = 0.3  # type: ignore[misc]


async def talker(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002  # AG-UI's name for it
    """Say a word; asked to linger, go on until somebody ends it."""
    yield "word"
    if input.messages[-1].content == "linger":
        await asyncio.Event().wait()
