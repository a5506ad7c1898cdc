"""Events as the log knows them: plain mappings in AG-UI's words, encoded to bytes once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from isolane.context import EventId, ThreadKey
from isolane.errors import AgentProtocol, IsolaneError
from isolane.frames import envelope

Event = dict[str, Any]
"""One AG-UI event with its wire names, `type` first."""

PROTOCOL_VERSION: Final = "1.0"
RUN_STARTED: Final = "RUN_STARTED"
RUN_FINISHED: Final = "RUN_FINISHED"
RUN_ERROR: Final = "RUN_ERROR"
TERMINAL: Final = frozenset({RUN_FINISHED, RUN_ERROR})

_TEXT_ONLY: Final = frozenset(
    {"TEXT_MESSAGE_CONTENT", "TOOL_CALL_ARGS", "REASONING_MESSAGE_CONTENT"}
)


class Record:
    """One entry of a log: where it stands, whose run it is, and its bytes, encoded once.

    Every follower on this node shares the one record, and so the one envelope.
    """

    __slots__ = ("_envelope", "id", "is_end", "key", "payload", "run_id")

    def __init__(self, key: ThreadKey, event_id: EventId, run_id: str, payload: bytes) -> None:
        """Keep `payload`, the event as JSON in UTF-8."""
        self.key = key
        self.id = event_id
        self.run_id = run_id
        self.payload = payload
        self.is_end = payload.startswith(_TERMINAL_STARTS)
        self._envelope: str | None = None

    def __repr__(self) -> str:
        """Name the place, never the content."""
        return f"<Record {self.id} of run {self.run_id}, {len(self.payload)} bytes>"

    @property
    def envelope(self) -> str:
        """The WebSocket frame of this record."""
        if self._envelope is None:
            self._envelope = envelope(
                self.id, self.payload, thread_id=self.key.thread_id, run_id=self.run_id
            )
        return self._envelope


_TERMINAL_STARTS: Final = tuple(f'{{"type":"{name}"'.encode() for name in sorted(TERMINAL))


def encode_event(event: Mapping[str, Any], *, max_bytes: int) -> bytes:
    """Return `event` as JSON in UTF-8, its `type` first.

    Raises `AgentProtocol` for what JSON can't say (NaN, sets, half a surrogate pair) and for
    more than `max_bytes`.
    """
    said = sum(len(part) for part in event.values() if type(part) is str)
    if said > max_bytes:  # to write it down only to measure it would take everybody's time
        raise AgentProtocol(
            f"{event['type']} has more than {said} bytes, at most {max_bytes} are allowed"
        )
    try:
        # msgspec would write NaN as null; only events of nothing but text may take the fast road.
        payload = (
            msgspec.json.encode(event)
            if event["type"] in _TEXT_ONLY and all(type(part) is str for part in event.values())
            else json.dumps(
                event, allow_nan=False, ensure_ascii=False, separators=(",", ":")
            ).encode()
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise AgentProtocol(f"{event['type']} holds what JSON can't say: {error}") from error
    if len(payload) > max_bytes:
        raise AgentProtocol(
            f"{event['type']} has {len(payload)} bytes, at most {max_bytes} are allowed"
        )
    return payload


def decode_event(payload: bytes) -> Event:
    """Return the event that `encode_event` made `payload` of."""
    event: Event = msgspec.json.decode(payload)
    return event


def run_started(
    *, thread_id: str, run_id: str, messages: Iterable[Mapping[str, Any]], rewind_to: str | None
) -> Event:
    """Return the first event of a run; its input shows other devices the question."""
    props = {} if rewind_to is None else {"rewindTo": rewind_to}
    return {
        "type": RUN_STARTED,
        "threadId": thread_id,
        "runId": run_id,
        "protocolVersion": PROTOCOL_VERSION,
        "input": {
            "threadId": thread_id,
            "runId": run_id,
            "state": {},
            "messages": list(messages),
            "tools": [],
            "context": [],
            "forwardedProps": props,
        },
    }


def run_finished(
    *, thread_id: str, run_id: str, outcome: Mapping[str, Any], **kept: object
) -> Event:
    """Return the end of a run that did not fail; `kept` is what the agent's own end carried."""
    extra = {name: value for name, value in kept.items() if value is not None}
    event = {"type": RUN_FINISHED, "threadId": thread_id, "runId": run_id, "outcome": outcome}
    return {**event, **extra}


def run_failed(error: IsolaneError, error_id: str, *, run_id: str) -> Event:
    """Return the end of a run that failed: a stable code and an id, never the error's text.

    It names its run, for a client of many runs takes a nameless one for the whole session's.
    """
    return {
        "type": RUN_ERROR,
        "runId": run_id,
        "message": error.public_message,
        "code": error.code,
        "metadata": {"errorId": error_id},
    }
