"""What an agent's own event says about an end: of its run, or of a subagent."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

import structlog

from isolane.errors import AgentFailed
from isolane.events.event import Event, encode_mended
from isolane.events.surrogates import mend_text
from isolane.ids import new_error_id
from isolane.runs.ending import Ending
from isolane.runs.run import Run

PUBLIC_MAX_CHARACTERS: Final = 2000
"""Maximum characters that clients read of an error message which the agent made public."""
_CODE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

_log = structlog.get_logger(__name__)


def to_ending(finished: Event) -> Ending:
    """Return the end that a RUN_FINISHED event of an agent asks for.

    Raises:
        AgentProtocolError: JSON can't express the event, or an id has half a surrogate pair.
    """
    _, event = encode_mended(finished, max_bytes=sys.maxsize)  # its interrupts are stored as well
    outcome = event.get("outcome") or {"type": "success"}
    kept: dict[str, Any] = {
        name: event[name] for name in ("result", "usage", "metadata") if name in event
    }
    return Ending(outcome, kept)


def to_failure(error: Event) -> AgentFailed:
    """Return the error that an agent tells: its code, and its text if the agent made it public."""
    code, message = error.get("code"), mend_text(error["message"])
    is_public = (error.get("metadata") or {}).get("public") is True
    return AgentFailed(
        message,
        agent_code=code if code is not None and _CODE.fullmatch(code) else None,
        agent_message=(message[:PUBLIC_MAX_CHARACTERS] or None) if is_public else None,
    )


def to_subagent_error(error: Event, run: Run) -> Event:
    """Return what clients may read of a subagent's error, and log the rest. The run goes on.

    Text that the agent didn't make public may be that of any exception, also in `rawEvent`.
    """
    failure, error_id = to_failure(error), new_error_id()
    _log.warning("subagent_failed", error_id=error_id, reason=str(failure), **run.log_fields)
    metadata = {**(error.get("metadata") or {}), "errorId": error_id}
    told = {**error, "message": failure.message, "code": failure.agent_code, "metadata": metadata}
    if failure.agent_message is None:
        told["rawEvent"] = None
    return {name: value for name, value in told.items() if value is not None}
