"""What a run frame asks for, in the shape that is kept. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ag_ui.core import RunAgentInput

from isolane.contracts import RunDraft
from isolane.errors import InvalidInput
from isolane.transcript import Message

POLICIES: Final = ("queue", "reject", "interrupt")


def policy_of(run_input: RunAgentInput, *, default: str) -> str:
    """Return what the run wants done when its thread is busy; raises `InvalidInput`."""
    policy = _props(run_input).get("policy", default)
    if policy not in POLICIES:
        raise InvalidInput("forwardedProps.policy", f"must be one of {', '.join(POLICIES)}")
    return str(policy)


def _props(run_input: RunAgentInput) -> Mapping[str, Any]:
    props = run_input.forwarded_props
    return props if isinstance(props, Mapping) else {}


def to_draft(run_input: RunAgentInput, agent: str) -> RunDraft:
    """Return the draft of a run; raises `InvalidInput`."""
    rewind_to = _props(run_input).get("rewindTo")
    if rewind_to is not None and not isinstance(rewind_to, str):
        raise InvalidInput("forwardedProps.rewindTo", "must be the id of a message")
    dumped = run_input.model_dump(mode="json", by_alias=True)
    names = ("state", "tools", "context", "forwardedProps", "resume", "parentRunId")
    return RunDraft(
        agent=agent,
        messages=list(_without_extras(run_input)),
        rewind_to=rewind_to,
        request={name: dumped[name] for name in names if dumped.get(name) is not None},
    )


def _without_extras(run_input: RunAgentInput) -> Iterator[Message]:
    """Yield the messages with AG-UI's own fields only; clients add copies of their own."""
    for message in run_input.messages:
        extras = set(message.model_extra or ())
        yield message.model_dump(mode="json", by_alias=True, exclude=extras)


def differs(offered: RunDraft, stored: RunDraft, known: frozenset[str]) -> bool:
    """Say whether a second frame of one run id brings other new messages than the first did.

    A list without any message never differs: it only asks to be attached.
    """
    if not offered.messages:
        return False
    added = {message["id"]: message for message in stored.messages}
    fresh = [m for m in offered.messages if m["id"] in added or m["id"] not in known]
    fresh = [m for m in fresh if m["role"] != "tool" or m["id"] in added]
    return {message["id"]: message for message in fresh} != added
