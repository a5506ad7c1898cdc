"""Events as the log knows them: plain mappings in AG-UI's words, encoded to bytes once."""

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
"""One AG-UI event with its wire names, `type` first."""

PROTOCOL_VERSION: Final = "1.0"
RUN_STARTED: Final = "RUN_STARTED"
RUN_FINISHED: Final = "RUN_FINISHED"
RUN_ERROR: Final = "RUN_ERROR"
SUBAGENT_ERROR: Final = "SUBAGENT_ERROR"
TERMINAL: Final = frozenset({RUN_FINISHED, RUN_ERROR})

NOTHING_MORE: Final[Mapping[str, Any]] = MappingProxyType({})
"""Stands for the rest of a run's input where a run has messages only."""
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


def envelope(event_id: EventId, chunk: bytes, *, thread_id: str, run_id: str) -> str:
    """Return the data frame of one logged event, spliced around its bytes as they are.

    Ids need no escaping: their alphabet has no character that JSON would escape.
    """
    head = f'{{"id":"{event_id}","chunk":'
    return f'{head}{chunk.decode()},"threadId":"{thread_id}","runId":"{run_id}"}}'


def encode_event(event: Mapping[str, Any], *, max_bytes: int) -> bytes:
    """Return `event` as JSON in UTF-8, its `type` first; see `encode_mended`."""
    return encode_mended(event, max_bytes=max_bytes)[0]


def encode_mended(event: Mapping[str, Any], *, max_bytes: int) -> tuple[bytes, Event]:
    """Return `event` as JSON in UTF-8, its `type` first, and the event that this says.

    They differ where `event` has half a surrogate pair: U+FFFD stands for it.

    Raises:
        AgentProtocolError: JSON can't say it (NaN, sets), or an id has half a surrogate pair.
        EventTooLarge: it has more than `max_bytes`.

    """
    try:
        return _encode(event, max_bytes), dict(event)
    except UnicodeEncodeError:  # rare, so nothing is looked for before
        mended = _mended(event)
    return _encode(mended, max_bytes), mended


def _mended(event: Mapping[str, Any]) -> Event:
    try:
        return mend_event(event)
    except (ValueError, RecursionError) as error:
        raise AgentProtocolError(f"{event['type']}: {error}") from error


def _encode(event: Mapping[str, Any], max_bytes: int) -> bytes:
    """Return the bytes of `event`; raises `UnicodeEncodeError` for half a surrogate pair, too."""
    said = sum(len(part) for part in event.values() if type(part) is str)
    if said > max_bytes:  # to write it down only to measure it would take everybody's time
        raise EventTooLarge(event["type"], said, max_bytes)
    try:
        # msgspec would write NaN as null; only events of nothing but text may take the fast road.
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
    """Return JSON in UTF-8 without any character that some reader takes for the end of a line.

    Python's `splitlines`, and with it the readers of httpx, end a line at U+0085, U+2028 and
    U+2029 too. JSON may have those as they are; the other breaks are escaped in it anyway.
    """
    if payload.isascii():
        return payload
    for character, escaped in _BREAKS:
        payload = payload.replace(character, escaped)
    return payload


_BREAKS: Final = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))


def decode_event(payload: bytes) -> Event:
    """Return the event that `encode_event` made `payload` of."""
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

    `request` is the rest of the run's input. Its answers to interrupts (`resume`) are shown whole.
    Its tools are shown by their names only, because the schema of a tool can be large.
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
    """Return tools in AG-UI's shape, with nothing in them but their names."""
    return [{"name": tool["name"], "description": "", "parameters": {}} for tool in tools]


def _answers_of(resume: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the field that shows answers; without any there is no such field.

    Fields that are null are left out: the schemas of published clients refuse most of them.
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
    """Raise `TooLarge` when the event that shows what a run brings makes no frame."""
    event = run_started(
        thread_id=key.thread_id,
        run_id=run_id,
        messages=messages,
        rewind_to=rewind_to,
        request=request,
    )
    # The other encoder may write a number with twice as many characters, and no text longer.
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
    """Return the end of a run that did not fail; `kept` is what the agent's own end carried."""
    extra = {name: value for name, value in kept.items() if value is not None}
    event = {"type": RUN_FINISHED, "threadId": thread_id, "runId": run_id, "outcome": outcome}
    return {**event, **extra}


def run_failed(error: IsolaneError, error_id: str, *, run_id: str) -> Event:
    """Return the end of a run that failed: a stable code, an id, and the agent's own code.

    Its message tells the error's text only where that names a limit, or where the agent itself made
    it public.

    It names its run, for a client of many runs takes a nameless one for the whole session's.
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
