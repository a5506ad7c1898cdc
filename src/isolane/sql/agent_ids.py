"""The ids by which agents know threads and runs."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from isolane.context import RunIds, RunKey, UserExecutionContext
from isolane.contracts import RunDraft
from isolane.ids import derive_stand_in, new_agent_id
from isolane.sql.address import load_stored
from isolane.sql.driver import load_value

_AGENT_THREAD: Final = "SELECT agent_thread_id FROM threads WHERE thread_no = ?"
_AGENT_RUN: Final = """
SELECT coalesce(agent_run_id, (
    SELECT joined.agent_run_id FROM runs AS joined
    WHERE joined.user_id = runs.user_id AND joined.run_id = runs.attached_to
))
FROM runs JOIN threads USING (thread_no) WHERE runs.user_id = ? AND run_id = ?
"""


def load_agent_ids(
    connection: Connection, context: UserExecutionContext, draft: RunDraft
) -> RunIds:
    """Return the ids by which an agent knows a run on an existing thread; a new run gets an id."""
    place = (load_stored(connection, context.thread_key).thread_no,)
    thread_id: str = load_value(connection, _AGENT_THREAD, place)
    run_id = _load_agent_run_id(connection, context.run_key) or new_agent_id()
    parent = draft.request.get("parentRunId")
    if parent is None or parent == context.run_id:
        return RunIds(thread_id, run_id, parent and run_id)
    known = _load_agent_run_id(connection, RunKey(context.user_id, parent))
    return RunIds(thread_id, run_id, known or derive_stand_in(thread_id, parent))


def _load_agent_run_id(connection: Connection, key: RunKey) -> str | None:
    """Return the id by which an agent knows a run of the user; None without such a run."""
    found: str | None = load_value(connection, _AGENT_RUN, key)
    return found
