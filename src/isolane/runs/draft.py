"""What a run frame asks for, in the shape that is stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ag_ui.core import RunAgentInput
from pydantic import BaseModel

from isolane.contracts import Opening, RunDraft
from isolane.errors import InvalidInput
from isolane.events.transcript import Message, fingerprint
from isolane.runs.question import (
    Offer,
    Question,
    check_doubles,
    question_of,
    results_of,
)
from isolane.runs.readers import OnDisconnect

POLICIES: Final = ("queue", "reject", "interrupt")
"""What a frame may want of a thread that has a run already."""
ROLES: Final = ("user", "tool")
"""Roles of the messages that are taken from a client's list. The server has all others."""
_ASKED: Final = {"state", "tools", "context", "forwarded_props", "resume", "parent_run_id"}
"""Fields of the input that are stored with the run."""
INSTRUCTIONS: Final = "instructions"
"""Name of a field in a stored request. RunAgentInput has no such field, so no frame can set it."""


def to_offer(run_input: RunAgentInput, agent: str) -> Offer:
    """Return what a run frame brings.

    Raises:
        InvalidInput: A field of `forwardedProps` is wrong, or two messages have one id and differ.
    """
    draft = to_draft(run_input, agent)
    return Offer(
        draft,
        _policy_of(_props(run_input)),
        question_of(run_input, draft.messages),
        results_of(run_input, draft.messages),
        _on_disconnect_of(run_input),
    )


def make_offer(
    *,
    agent: str,
    messages: Sequence[Message],
    policy: str | None = None,
    rewind_to: str | None = None,
    resume: Sequence[Mapping[str, Any]] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    context: Sequence[Mapping[str, Any]] = (),
    state: object = None,
    forwarded_props: Mapping[str, Any] | None = None,
    parent_run_id: str | None = None,
    on_disconnect: OnDisconnect | None = None,
    instructions: str | None = None,
    opening: Opening | None = None,
) -> Offer:
    """Return what a run brings, for a door whose requests are no RunAgentInput.

    Everything has AG-UI's shapes and wire names, and the door has checked it. `messages` are only
    messages of users and tools. The last one is the question if it is a user's. The agent finds
    `policy` and `rewind_to` in its `forwardedProps`, as AG-UI's clients send them. `opening` says
    how the thread begins, if this is its first run. `instructions` is a text that the agent reads
    before the history, in this run alone.

    Raises:
        InvalidInput: The policy is unknown, or two messages of users have one id and differ.
    """
    own = {"policy": policy, "rewindTo": rewind_to}
    props = {
        **(forwarded_props or {}),
        **{name: value for name, value in own.items() if value is not None},
    }
    request: dict[str, Any] = {
        "state": {} if state is None else state,
        "tools": list(tools),
        "context": list(context),
        "forwardedProps": props,
    }
    if resume:
        request["resume"] = list(resume)
    if parent_run_id is not None:
        request["parentRunId"] = parent_run_id
    if instructions is not None:
        request[INSTRUCTIONS] = instructions
    check_doubles(list(enumerate(messages)))
    asks = bool(messages) and messages[-1]["role"] == "user"
    return Offer(
        RunDraft(agent, list(messages), rewind_to, request, opening=opening),
        _policy_of(props),
        Question(len(messages) - 1, messages[-1]) if asks else None,
        on_disconnect=on_disconnect,
    )


def _policy_of(props: Mapping[str, Any]) -> str | None:
    given = props.get("policy")
    if given is None:
        return None
    if given not in POLICIES:
        raise InvalidInput("forwardedProps.policy", f"must be one of {', '.join(POLICIES)}")
    return str(given)


def _on_disconnect_of(run_input: RunAgentInput) -> OnDisconnect | None:
    given = _props(run_input).get("onDisconnect")
    if given is None:
        return None
    if given not in list(OnDisconnect):
        raise InvalidInput("forwardedProps.onDisconnect", "must be continue or stop")
    return OnDisconnect(given)


def _props(run_input: RunAgentInput) -> Mapping[str, Any]:
    props = run_input.forwarded_props
    return props if isinstance(props, Mapping) else {}


def to_draft(run_input: RunAgentInput, agent: str) -> RunDraft:
    """Return the draft of a run.

    Raises:
        InvalidInput: `rewindTo` is no text, or two messages of users have one id and differ.
    """
    rewind_to = _props(run_input).get("rewindTo")
    if rewind_to is not None and not isinstance(rewind_to, str):
        raise InvalidInput("forwardedProps.rewindTo", "must be the id of a message")
    dumped = run_input.model_dump(mode="json", by_alias=True, include=_ASKED)
    messages = [
        (place, _without_extras(message))
        for place, message in enumerate(run_input.messages)
        if message.role in ROLES
    ]
    check_doubles(messages)
    return RunDraft(
        agent=agent,
        messages=[message for _, message in messages],
        rewind_to=rewind_to,
        request={name: value for name, value in dumped.items() if value is not None},
    )


def _without_extras(message: BaseModel) -> Message:
    """Return a message with AG-UI's own fields only; clients add copies of their own."""
    extras = set(message.model_extra or ()) or None  # to exclude an empty set costs as much as any
    return message.model_dump(mode="json", by_alias=True, exclude=extras)


def differs(offered: RunDraft, asked: Mapping[bytes, bytes], known: frozenset[str]) -> bool:
    """Say whether a second frame of one run id brings other new messages than the first did.

    `asked` has the fingerprints of the first frame's messages, by the fingerprints of their ids.
    `known` are the ids of the thread's messages. A list without messages never differs, because it
    only asks to be attached. A seed is compared as a whole.
    """
    if not offered.messages:
        return False
    fresh: dict[bytes, bytes] = {}
    if offered.seed is not None:
        fresh.update([fingerprint(offered.seed.to_stand_in())])
    for message in offered.messages:
        id_print, whole_print = fingerprint(message)
        is_new = message["id"] not in known and message["role"] != "tool"
        if id_print in asked or is_new:
            fresh[id_print] = whole_print
    return fresh != asked
