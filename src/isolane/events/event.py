"""Events as the log stores them: mappings with AG-UI's names, encoded to bytes once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from isolane.context import EventId, ThreadKey
from isolane.errors import (
    AgentFailed,
    AgentProtocolError,
    EventTooLarge,
    IsolaneError,
    RunTooLarge,
    TooLarge,
)
from isolane.events.surrogates import mend_event
from isolane.ids import ENVELOPE_BYTES

Event = dict[str, Any]
"""One AG-UI event with its names on the wire, `type` first."""

PROTOCOL_VERSION: Final = "1.0"
"""Version of AG-UI that RUN_STARTED tells clients."""
RUN_STARTED: Final = "RUN_STARTED"
RUN_FINISHED: Final = "RUN_FINISHED"
RUN_ERROR: Final = "RUN_ERROR"
SUBAGENT_ERROR: Final = "SUBAGENT_ERROR"
TERMINAL: Final = frozenset({RUN_FINISHED, RUN_ERROR})

NOTHING_MORE: Final[Mapping[str, Any]] = MappingProxyType({})
"""The other fields of a run's input, for a run that has only messages."""
_TEXT_ONLY: Final = frozenset(
    {"TEXT_MESSAGE_CONTENT", "TOOL_CALL_ARGS", "REASONING_MESSAGE_CONTENT"}
)


class Record:
    """One entry of a log: its place, its run, and its bytes.

    All followers on this node share the one record, so its bytes and its envelope are made once.
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
        """Return the place and the size, never the content, because reprs are logged."""
        return f"<Record {self.id} of run {self.run_id}, {len(self.payload)} bytes>"

    @property
    def envelope(self) -> str:
        """The text of the WebSocket frame that carries this record."""
        if self._envelope is None:
            self._envelope = envelope(
                self.id, self.payload, thread_id=self.key.thread_id, run_id=self.run_id
            )
        return self._envelope


_TERMINAL_STARTS: Final = tuple(f'{{"type":"{name}"'.encode() for name in sorted(TERMINAL))


def envelope(event_id: EventId, chunk: bytes, *, thread_id: str, run_id: str) -> str:
    """Return the text of a WebSocket frame around the bytes of one logged event.

    Ids are inserted without escaping, because their alphabet has no character that JSON escapes.
    """
    head = f'{{"id":"{event_id}","chunk":'
    return f'{head}{chunk.decode()},"threadId":"{thread_id}","runId":"{run_id}"}}'


def encode_event(event: Mapping[str, Any], *, max_bytes: int) -> bytes:
    """Return `event` as JSON in UTF-8, its `type` first.

    Raises:
        AgentProtocolError: JSON can't express the event, or an id has half a surrogate pair.
        EventTooLarge: The event has more than `max_bytes`.
    """
    return encode_mended(event, max_bytes=max_bytes)[0]


def encode_mended(event: Mapping[str, Any], *, max_bytes: int) -> tuple[bytes, Event]:
    """Return `event` as JSON in UTF-8, its `type` first, and the event that those bytes spell.

    Half a surrogate pair can't be written in UTF-8. In its place both results have U+FFFD.

    Raises:
        AgentProtocolError: JSON can't express the event (NaN, sets), or an id has half a surrogate
            pair.
        EventTooLarge: The event has more than `max_bytes`.
    """
    try:
        return _encode(event, max_bytes), dict(event)
    except UnicodeEncodeError:  # Halves are rare, so events are not searched for them beforehand.
        mended = _mended(event)
    return _encode(mended, max_bytes), mended


def _mended(event: Mapping[str, Any]) -> Event:
    try:
        return mend_event(event)
    except (ValueError, RecursionError) as error:
        raise AgentProtocolError(f"{event['type']}: {error}") from error


def _encode(event: Mapping[str, Any], max_bytes: int) -> bytes:
    """Return the bytes of `event`; half a surrogate pair raises `UnicodeEncodeError`."""
    said = sum(len(part) for part in event.values() if type(part) is str)
    if said > max_bytes:  # encoding a huge event only to measure it would block the event loop
        raise EventTooLarge(event["type"], said, max_bytes)
    try:
        # msgspec would write NaN as null, so it encodes only events whose fields are all text.
        payload = (
            msgspec.json.encode(event)
            if event["type"] in _TEXT_ONLY and all(type(part) is str for part in event.values())
            else json.dumps(
                event, allow_nan=False, ensure_ascii=False, separators=(",", ":")
            ).encode()
        )
    except UnicodeEncodeError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise AgentProtocolError(f"{event['type']} holds what JSON can't say: {error}") from error
    if len(payload) > max_bytes:
        raise EventTooLarge(event["type"], len(payload), max_bytes)
    return payload


def one_line(payload: bytes) -> bytes:
    """Return JSON in UTF-8 without any character that a reader may take for a line's end.

    Python's `splitlines`, which httpx uses, also ends a line at U+0085, U+2028 and U+2029. JSON
    allows those three unescaped; it escapes every other line break.
    """
    if payload.isascii():
        return payload
    for character, escaped in _BREAKS:
        payload = payload.replace(character, escaped)
    return payload


_BREAKS: Final = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))


def decode_event(payload: bytes) -> Event:
    """Return the event whose bytes `payload` are."""
    event: Event = msgspec.json.decode(payload)
    return event


def run_started(
    *,
    thread_id: str,
    run_id: str,
    messages: Iterable[Mapping[str, Any]],
    rewind_to: str | None,
    request: Mapping[str, Any] = NOTHING_MORE,
) -> Event:
    """Return the first event of a run; its input shows other devices what the run brings.

    `request` has the other fields of the run's input. Its answers to interrupts (`resume`) are
    shown whole. Its tools are shown by name only, because the schema of a tool can be large.
    """
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
            "tools": _names_of(request.get("tools") or ()),
            "context": [],
            "forwardedProps": props,
            **_answers_of(request.get("resume") or ()),
        },
    }


def _names_of(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return tools in AG-UI's shape with their names only."""
    return [{"name": tool["name"], "description": "", "parameters": {}} for tool in tools]


def _answers_of(resume: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the field `resume` with the answers; empty without answers.

    Fields that are null are left out, because the schemas of published clients refuse most of them.
    """
    answers = [
        {name: value for name, value in answer.items() if value is not None} for answer in resume
    ]
    return {"resume": answers} if answers else {}


def check_question(
    key: ThreadKey,
    run_id: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    rewind_to: str | None,
    request: Mapping[str, Any] = NOTHING_MORE,
    frame_max_bytes: int,
) -> None:
    """Check that the event which shows a run's input fits into one frame.

    Raises:
        TooLarge: The frame would have more than `frame_max_bytes`.
    """
    event = run_started(
        thread_id=key.thread_id,
        run_id=run_id,
        messages=messages,
        rewind_to=rewind_to,
        request=request,
    )
    # The two encoders may write a number with up to twice the characters, and texts alike.
    if 2 * len(msgspec.json.encode(event["input"])) + 2 * ENVELOPE_BYTES <= frame_max_bytes:
        return
    size = len(encode_event(event, max_bytes=sys.maxsize)) + ENVELOPE_BYTES
    if size > frame_max_bytes:
        raise TooLarge(
            f"messages, tools and resume: what the run brings has {size} bytes, and a frame may "
            f"have {frame_max_bytes}"
        )


def run_finished(
    *, thread_id: str, run_id: str, outcome: Mapping[str, Any], **kept: object
) -> Event:
    """Return the end event of a run that did not fail; `kept` has fields of the agent's own end."""
    extra = {name: value for name, value in kept.items() if value is not None}
    event = {"type": RUN_FINISHED, "threadId": thread_id, "runId": run_id, "outcome": outcome}
    return {**event, **extra}


def run_restarted(attempt: int, history: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Return what tells that a run begins anew, with the messages as of its beginning."""
    return [
        {"type": "CUSTOM", "name": "isolane.restarted", "value": {"attempt": attempt}},
        {"type": "MESSAGES_SNAPSHOT", "messages": list(history)},
    ]


def run_failed(error: IsolaneError, error_id: str, *, run_id: str) -> Event:
    """Return the end event of a run that failed: a stable code, an id, and the agent's own code.

    Its message is the error's text only where that text names a limit or the agent made it public.
    It names its run, because a client of many runs takes an error without a run for the end of the
    whole session.
    """
    is_told = isinstance(error, RunTooLarge | AgentFailed)
    metadata = {"errorId": error_id}
    if isinstance(error, AgentFailed) and error.agent_code is not None:
        metadata["agentCode"] = error.agent_code
    return {
        "type": RUN_ERROR,
        "runId": run_id,
        "message": error.message if is_told else error.public_message,
        "code": error.code,
        "metadata": metadata,
    }
