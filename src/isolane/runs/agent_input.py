"""The input of an agent: its ids, what the client asked for, and the thread's history."""

from __future__ import annotations

from typing import Any, Final

from ag_ui.core import Message as AgentMessage
from ag_ui.core import RunAgentInput
from pydantic import TypeAdapter

from isolane.agents.naming import Naming
from isolane.context import RunIds
from isolane.events.transcript import Message
from isolane.health.fairness import Turns
from isolane.ids import new_message_id
from isolane.runs.draft import INSTRUCTIONS
from isolane.runs.run import Run

HISTORY_STEP: Final = 200
"""Messages per turn of the event loop. Pydantic makes models of 200 messages in half a ms."""
_INPUT: Final = TypeAdapter(RunAgentInput)
_MESSAGES: Final = TypeAdapter(list[AgentMessage])


def naming_of(run: Run) -> Naming:
    """Return the client's ids of a run that has begun, and the agent's.

    Both are the client's when the agent asks for those.
    """
    client = RunIds(run.thread_id, run.run_id, run.draft.request.get("parentRunId"))
    is_raw = getattr(run.agent, "raw_ids", False) is True
    return Naming(client, client if is_raw else run.get_begun().agent_ids)


async def make_input(
    run: Run, history: list[Message], naming: Naming, turns: Turns
) -> RunAgentInput:
    """Return what the agent of a run that has begun gets, and empty `history` meanwhile.

    A long history becomes models in steps, each in a turn of the run's user. So any number of long
    histories together take half a millisecond per pass of the event loop. Safe to cancel.

    Raises:
        ValidationError: The stored request or a stored message isn't AG-UI.
    """
    request = dict(run.draft.request)
    told = request.pop(INSTRUCTIONS, None)
    state = run.get_begun().state
    kept = {} if state is None else {"state": state}
    own = {
        "threadId": naming.agent.thread_id,
        "runId": naming.agent.run_id,
        "parentRunId": naming.agent.parent_run_id,
    }
    made = _INPUT.validate_python({**request, **kept, **own, "messages": []})
    messages = _MESSAGES.validate_python([*_to_instructions(told), *_cut(history)])
    while history:
        await turns.take(run.context.user_id)
        messages += _MESSAGES.validate_python(_cut(history))
    made.messages = messages  # put in here, because pydantic would look at each of them again
    return made


def _cut(history: list[Message]) -> list[Message]:
    """Take the next messages out of the history, so that they are freed step by step, too."""
    step = history[:HISTORY_STEP]
    del history[:HISTORY_STEP]
    return step


def _to_instructions(text: Any) -> list[Message]:  # noqa: ANN401 - a field of what is stored
    """Return the message of the run's own instructions, if it has any."""
    return [] if text is None else [{"id": new_message_id(), "role": "system", "content": text}]
