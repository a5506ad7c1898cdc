"""The fold of a turn's events into the chunks that AI SDK's `useChat` reads. Pure.

A turn is the run of a user's question, and the runs after it that only answered that run's own
questions. In the client one turn is one assistant message. The same events always make the same
chunks. So the number of a chunk is its place, and a reader can begin again anywhere.

The published client is strict. All its chats end at a chunk of an unknown type, an unexpected
`null`, a delta without its start, or an output of an unknown call. So this fold makes nothing that
the client could refuse. Shapes: `uiMessageChunkSchema` of the package `ai`, 7.0.173.
"""

# Long because: one fold, whose short functions share what is open in the turn.

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from isolane.events.event import Event
from isolane.events.patch import PatchError, patched

Chunk = dict[str, Any]
"""One chunk of a UI message stream, with its names on the wire."""

ID_PREFIX: Final = "ai_"
"""Prefix that makes the id of a turn's assistant message from the turn's id."""
QUESTION: Final = "interrupt"
"""Name of the tool that stands for a question without a call."""
NOT_JSON: Final = "The arguments are not JSON."
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OWN_PARTS: Final = frozenset({"state", "activity", "step", "subagent", "custom"})
"""Names of data parts that this fold makes itself."""
_OWNED: Final = frozenset(
    {"text-start", "reasoning-start"}
    | {"tool-input-start", "tool-input-available", "tool-input-error", "tool-output-available"}
)
"""Chunks that can name a subagent, of those that begin something."""


def message_id_of(turn_id: str) -> str:
    """Return the id of a turn's one assistant message."""
    return f"{ID_PREFIX}{turn_id}"


Answered = tuple[str, int]
"""A call that has an answer: its id, and its number from 1 among the turn's calls of that id."""


def _calls_answered(
    events: Iterable[Event], *, begun: Mapping[str, int] = MappingProxyType({})
) -> frozenset[Answered]:
    """Return the tool calls that a turn's events answer.

    Some models reuse ids of calls, so an id may name several calls. `begun` has the number of calls
    per id before these events.
    """
    begun = Counter(begun)
    answered: set[Answered] = set()
    for event in events:
        if event["type"] == "TOOL_CALL_START":
            begun[event["toolCallId"]] += 1
        elif event["type"] == "TOOL_CALL_RESULT":
            answered.add((event["toolCallId"], begun[event["toolCallId"]]))
        elif event["type"] == "RUN_STARTED":
            ids = [one["toolCallId"] for one in _tool_messages_of(event)]
            answered.update((call_id, begun[call_id]) for call_id in ids)
    return frozenset(answered)


@dataclass(slots=True, eq=False)
class _Call:
    """A tool call of the turn, or a question that is told as one."""

    name: str
    arguments: list[str] = field(default_factory=list)
    is_open: bool = True
    """True while its arguments still grow."""
    is_plain: bool = True
    """True for a call with JSON arguments; False for a question."""
    is_answered: bool = False
    question: str | None = None
    """Id of the open question about this call. The client keeps one question per call."""

    @property
    def may_be_asked_about(self) -> bool:
        """True when the client can show a question at this call."""
        return self.is_plain and not (self.is_open or self.is_answered or self.question)


@dataclass(slots=True, eq=False)
class _Parts:
    """The parts of one kind, text or reasoning: the open ones, and how often each message began."""

    kind: str
    open: dict[str, str] = field(default_factory=dict)
    """Ids of the open parts by message id."""
    begun: dict[str, int] = field(default_factory=dict)

    def begin(self, message_id: str) -> str:
        """Return the id of a new part; a message that continues gets another part."""
        times = self.begun.get(message_id, 0)
        self.begun[message_id] = times + 1
        part_id = f"{message_id}#{times}" if times else message_id
        self.open[message_id] = part_id
        return part_id


class UIChunks:
    """Makes chunks of the events of one turn, run after run."""

    def __init__(self, turn_id: str) -> None:
        """Begin before the turn's first event."""
        self._message_id = message_id_of(turn_id)
        self._answered_later: frozenset[Answered] = frozenset()
        self._texts, self._thoughts = _Parts("text"), _Parts("reasoning")
        self._untold: set[str] = set()
        self._calls: dict[str, _Call] = {}
        self._begun: Counter[str] = Counter()
        """Number of calls per id."""
        self._questions: dict[str, str] = {}
        """Calls with an open question, by the id of the question."""
        self._approvals: set[str] = set()
        """Ids of all questions about calls, because the client finds the call by that id."""
        self._is_break_due = False
        self._state: Any = None
        self._has_state = False
        self._activities: dict[str, tuple[str, Any]] = {}
        self._subagents: dict[str, str] = {}
        self._out: list[Chunk] = []

    def look_ahead(self, events: Iterable[Event]) -> None:
        """Note which calls are answered by the coming events.

        A page must not run its own tools again for these. They change a mark only, and no chunk's
        place.
        """
        self._answered_later = _calls_answered(events, begun=self._begun)

    def add(self, event: Event) -> list[Chunk]:
        """Add the turn's next event, and return its chunks."""
        fold = _FOLDS.get(event["type"])
        if fold is None:
            return []
        fold(self, event)
        made, self._out = self._out, []
        return made

    def _tell(self, kind: str, **fields: object) -> None:
        """Add a chunk without the fields that are None."""
        told = {name: value for name, value in fields.items() if value is not None}
        self._out.append({"type": kind, **told})

    def _tell_of(self, event: Event, kind: str, **fields: object) -> None:
        """Add a chunk that names its subagent, where the chunk's type allows it."""
        self._tell(kind, **fields)
        owner = event.get("subagentRunId")
        if owner is not None and kind in _OWNED:
            self._out[-1]["providerMetadata"] = {"agui": {"subagentRunId": owner}}

    # --- runs ------------------------------------------------------------------------------------

    def _start_run(self, event: Event) -> None:
        about = {"threadId": event["threadId"], "runId": event["runId"]}
        self._tell("start", messageId=self._message_id, messageMetadata=about)
        for call_id in [own for own, call in self._calls.items() if call.is_open]:
            # the earlier run ended inside this call, so nobody can answer it
            del self._calls[call_id]
        for entry in _input_of(event).get("resume") or ():
            self._answer_question(entry)
        for message in _tool_messages_of(event):
            self._answer_call(message)
        self._is_break_due = False
        self._tell("start-step")

    def _answer_call(self, message: Mapping[str, Any]) -> None:
        """Tell the result of a client's own tool."""
        call_id = message["toolCallId"]
        call = self._calls.get(call_id)
        if call is None or call.is_answered:
            return
        self._note_answer(call)
        if message.get("error") is not None:
            self._tell("tool-output-error", toolCallId=call_id, errorText=str(message["error"]))
        else:
            self._tell_output(call_id, value_of(message["content"]))

    def _note_answer(self, call: _Call) -> None:
        """Note that a call has its answer.

        An open question about the call is settled with yes, because the call was made.
        """
        call.is_answered = True
        if call.question is not None:
            self._tell("tool-approval-response", approvalId=call.question, approved=True)
            del self._questions[call.question]
            call.question = None

    def _tell_output(self, call_id: str, output: object) -> None:
        self._tell("tool-output-available", toolCallId=call_id)
        self._out[-1]["output"] = output  # null is an output too

    def _answer_question(self, entry: Mapping[str, Any]) -> None:
        """Tell a person's answer to a question of the earlier run."""
        question_id = entry["interruptId"]
        call_id = self._questions.pop(question_id, None)
        if call_id is None:
            return
        is_resolved, payload = entry["status"] == "resolved", entry.get("payload")
        if self._calls[call_id].question is not None:
            self._answer_approval(question_id, call_id, is_resolved=is_resolved, payload=payload)
            return
        self._calls[call_id].is_answered = True
        if is_resolved:
            self._tell_output(call_id, payload)
        else:
            self._tell("tool-output-error", toolCallId=call_id, errorText="cancelled")

    def _answer_approval(
        self,
        question_id: str,
        call_id: str,
        *,
        is_resolved: bool,
        payload: Any,  # noqa: ANN401 - any JSON value
    ) -> None:
        said = payload if isinstance(payload, dict) else {}
        is_approved = is_resolved and said.get("approved") is not False
        reason = said.get("reason")
        self._calls[call_id].question = None
        self._tell(
            "tool-approval-response",
            approvalId=question_id,
            approved=is_approved,
            reason=reason if isinstance(reason, str) else None,
        )
        if not is_approved:
            self._calls[call_id].is_answered = True
            self._tell("tool-output-denied", toolCallId=call_id)

    def _finish_run(self, event: Event) -> None:
        outcome: Mapping[str, Any] = event.get("outcome") or {"type": "success"}
        self._cut()
        if outcome["type"] == "cancelled":
            self._tell("abort", reason="stopped")
        for question in outcome.get("interrupts") or ():
            self._ask(question)
        self._tell("finish-step")
        about = {"runId": event["runId"], "outcome": outcome["type"]}
        if event.get("usage"):
            about["usage"] = event["usage"]
        self._tell("finish", finishReason=self._reason_of(outcome["type"]), messageMetadata=about)

    def _reason_of(self, outcome: str) -> str:
        """Return why the message ends; with `interrupted` a device doesn't continue by itself."""
        if outcome == "cancelled":
            return "interrupted"
        is_waiting = any(not call.is_answered for call in self._calls.values())
        return "tool-calls" if outcome == "interrupt" or is_waiting else "stop"

    def _ask(self, question: Mapping[str, Any]) -> None:
        question_id, call_id = question["id"], question.get("toolCallId")
        call = self._calls.get(call_id) if isinstance(call_id, str) else None
        is_new = question_id not in self._approvals
        if call is not None and call.may_be_asked_about and is_new:
            self._approvals.add(question_id)
            call.question = question_id
            self._questions[question_id] = str(call_id)
            self._tell(
                "tool-approval-request",
                approvalId=question_id,
                toolCallId=call_id,
                reason=question.get("message"),
            )
            return
        own = f"{QUESTION}:{question_id}" if question_id in self._calls else question_id
        self._questions[question_id] = own
        self._calls[own] = _Call(QUESTION, is_open=False, is_plain=False)
        self._tell(
            "tool-input-available",
            toolCallId=own,
            toolName=QUESTION,
            dynamic=True,
            input=dict(question),
        )

    def _fail_run(self, event: Event) -> None:
        self._cut()
        error = {"code": event.get("code"), "errorId": (event.get("metadata") or {}).get("errorId")}
        known = {name: value for name, value in error.items() if value is not None}
        self._tell("message-metadata", messageMetadata={"outcome": "error", "error": known})
        named = ", ".join(map(str, known.values()))
        self._tell(
            "error", errorText=f"{event['message']} ({named})" if named else event["message"]
        )

    # --- text and reasoning ----------------------------------------------------------------------

    def _start_text(self, event: Event) -> None:
        """Note the owner of a message; its part begins with its first word, so no part is empty."""
        is_told = event.get("role") in {None, "assistant"}
        (self._untold.discard if is_told else self._untold.add)(event["messageId"])

    def _add_text(self, event: Event) -> None:
        if event["messageId"] not in self._untold:
            self._add_words(self._texts, event)

    def _add_thought(self, event: Event) -> None:
        self._add_words(self._thoughts, event)

    def _add_words(self, parts: _Parts, event: Event) -> None:
        if not event["delta"]:
            return
        self._break_step()
        message_id = event["messageId"]
        part_id = parts.open.get(message_id)
        if part_id is None:
            part_id = parts.begin(message_id)
            self._tell_of(event, f"{parts.kind}-start", id=part_id)
        self._out.append({"type": f"{parts.kind}-delta", "id": part_id, "delta": event["delta"]})

    def _end_text(self, event: Event) -> None:
        self._end_part(self._texts, event["messageId"])

    def _end_thought(self, event: Event) -> None:
        self._end_part(self._thoughts, event["messageId"])

    def _end_part(self, parts: _Parts, message_id: str) -> None:
        part_id = parts.open.pop(message_id, None)
        if part_id is not None:
            self._tell(f"{parts.kind}-end", id=part_id)

    def _cut(self) -> None:
        """Close every open part; text after it begins another part."""
        for parts in (self._texts, self._thoughts):
            for message_id in list(parts.open):
                self._end_part(parts, message_id)

    def _break_step(self) -> None:
        """Begin another step after a tool result, as the client's own steps do.

        A step doesn't begin while the arguments of a call grow, because the client looks for that
        call in its last step.
        """
        if self._is_break_due and not any(call.is_open for call in self._calls.values()):
            self._is_break_due = False
            self._cut()
            self._tell("finish-step")
            self._tell("start-step")

    # --- tool calls ------------------------------------------------------------------------------

    def _start_call(self, event: Event) -> None:
        call_id, name = event["toolCallId"], event["toolCallName"]
        self._break_step()
        self._cut()
        self._questions = {own: about for own, about in self._questions.items() if about != call_id}
        self._calls[call_id] = _Call(name)
        self._begun[call_id] += 1
        self._tell_of(event, "tool-input-start", toolCallId=call_id, toolName=name)

    def _add_arguments(self, event: Event) -> None:
        call = self._calls.get(event["toolCallId"])
        if call is not None and call.is_open and event["delta"]:
            call.arguments.append(event["delta"])
            self._tell(
                "tool-input-delta", toolCallId=event["toolCallId"], inputTextDelta=event["delta"]
            )

    def _end_call(self, event: Event) -> None:
        call_id = event["toolCallId"]
        call = self._calls.get(call_id)
        if call is None or not call.is_open:
            return
        call.is_open = False
        text = "".join(call.arguments)
        call.arguments.clear()
        about = {"toolCallId": call_id, "toolName": call.name}
        mark = True if (call_id, self._begun[call_id]) in self._answered_later else None
        try:
            value = arguments_of(text)
        except ValueError:
            call.is_plain = False
            self._tell_of(
                event, "tool-input-error", **about, errorText=NOT_JSON, providerExecuted=mark
            )
            self._out[-1]["input"] = text
            return
        self._tell_of(event, "tool-input-available", **about, providerExecuted=mark)
        self._out[-1]["input"] = value

    def _add_result(self, event: Event) -> None:
        call_id = event["toolCallId"]
        call = self._calls.get(call_id)
        if call is None:
            return
        self._end_call(event)  # a result may come before the end of its call
        self._is_break_due = True
        if call.is_answered:  # answered by its client, or denied: the first answer counts
            return
        self._note_answer(call)
        output = value_of(event["content"])
        self._tell_of(event, "tool-output-available", toolCallId=call_id, providerExecuted=True)
        self._out[-1]["output"] = output

    # --- data parts ------------------------------------------------------------------------------

    def _set_state(self, event: Event) -> None:
        self._state, self._has_state = event["snapshot"], True
        self._out.append({"type": "data-state", "id": "state", "data": self._state})

    def _patch_state(self, event: Event) -> None:
        """Tell the state after a delta; only the delta when the state before it is unknown."""
        if not self._has_state:
            delta = {"type": "data-state-delta", "data": event["delta"], "transient": True}
            self._out.append(delta)
            return
        try:
            self._state = patched(self._state, event["delta"])
        except (PatchError, RecursionError):
            return
        self._out.append({"type": "data-state", "id": "state", "data": self._state})

    def _set_activity(self, event: Event) -> None:
        if event["messageId"] not in self._activities or event.get("replace") is not False:
            self._tell_activity(event["messageId"], event["activityType"], event["content"])

    def _patch_activity(self, event: Event) -> None:
        if event["messageId"] not in self._activities:
            return
        kind, content = self._activities[event["messageId"]]
        try:
            content = patched(content, event["patch"])
        except (PatchError, RecursionError):
            return
        if isinstance(content, dict):
            self._tell_activity(event["messageId"], event.get("activityType") or kind, content)

    def _tell_activity(self, message_id: str, kind: str, content: object) -> None:
        self._activities[message_id] = kind, content
        self._tell("data-activity", id=message_id, data={"activityType": kind, "content": content})

    def _start_step(self, event: Event) -> None:
        self._tell_step(event, "running")

    def _finish_step(self, event: Event) -> None:
        self._tell_step(event, "done")

    def _tell_step(self, event: Event, status: str) -> None:
        name = event["stepName"]
        self._tell("data-step", id=name, data={"name": name, "status": status})

    def _start_subagent(self, event: Event) -> None:
        self._subagents[event["subagentRunId"]] = event.get("name") or event["subagentRunId"]
        self._tell_subagent(event, "running")

    def _finish_subagent(self, event: Event) -> None:
        self._tell_subagent(event, "done")

    def _fail_subagent(self, event: Event) -> None:
        self._tell_subagent(event, "error")

    def _tell_subagent(self, event: Event, status: str) -> None:
        own = event["subagentRunId"]
        data = {"name": self._subagents.get(own, own), "status": status}
        self._tell("data-subagent", id=own, data=data)

    def _tell_custom(self, event: Event) -> None:
        name, value = event["name"], event.get("value")
        made = _SHAPES[name](value) if name in _SHAPES else None
        if made is not None:
            self._out.append(made)
            return
        is_free = _NAME.fullmatch(name) and name not in _OWN_PARTS and name not in _SHAPES
        metadata = event.get("metadata") or {}
        given_id = metadata.get("id")
        self._tell(
            f"data-{name}" if is_free else "data-custom",
            id=given_id if isinstance(given_id, str) else None,
            transient=True if metadata.get("transient") is True else None,
        )
        self._out[-1]["data"] = value if is_free else {"name": name, "value": value}


def arguments_of(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the arguments of a call, `{}` for none.

    Raises:
        ValueError: The text is no JSON.
    """
    try:
        return msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise ValueError(NOT_JSON) from error


def value_of(content: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a tool result's value: its JSON, else its text; parts stay parts."""
    if not isinstance(content, str):
        return content
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return content


def _input_of(event: Event) -> Mapping[str, Any]:
    return event.get("input") or {}


def _tool_messages_of(event: Event) -> list[Mapping[str, Any]]:
    """Return the results of a client's tools that a run brought."""
    messages = _input_of(event).get("messages") or ()
    return [message for message in messages if message["role"] == "tool"]


def _source(value: Any) -> Chunk | None:  # noqa: ANN401 - any JSON value
    """Return the chunk of a source that an agent names; None for another shape."""
    if not _has_texts(value, (), ("id", "title", "filename")):
        return None
    if _has_texts(value, ("url",), ()) and "mediaType" not in value:
        kept = {name: value[name] for name in ("url", "title") if name in value}
        return {"type": "source-url", "sourceId": value.get("id", value["url"]), **kept}
    if _has_texts(value, ("mediaType", "title"), ()):
        kept = {name: value[name] for name in ("mediaType", "title", "filename") if name in value}
        return {"type": "source-document", "sourceId": value.get("id", value["title"]), **kept}
    return None


def _file(value: Any) -> Chunk | None:  # noqa: ANN401 - any JSON value
    if not _has_texts(value, ("url", "mediaType"), ()):
        return None
    return {"type": "file", "url": value["url"], "mediaType": value["mediaType"]}


def _has_texts(value: Any, needed: Sequence[str], allowed: Sequence[str]) -> bool:  # noqa: ANN401
    """Say whether a value has texts under all `needed` keys, and only texts elsewhere."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in needed)
        and all(isinstance(value.get(name, ""), str) for name in allowed)
    )


_SHAPES: Final[Mapping[str, Callable[[Any], Chunk | None]]] = {"source": _source, "file": _file}

_FOLDS: Final[Mapping[str, Callable[[UIChunks, Event], None]]] = {
    "RUN_STARTED": UIChunks._start_run,  # noqa: SLF001 - the table is the class's own
    "RUN_FINISHED": UIChunks._finish_run,  # noqa: SLF001
    "RUN_ERROR": UIChunks._fail_run,  # noqa: SLF001
    "TEXT_MESSAGE_START": UIChunks._start_text,  # noqa: SLF001
    "TEXT_MESSAGE_CONTENT": UIChunks._add_text,  # noqa: SLF001
    "TEXT_MESSAGE_END": UIChunks._end_text,  # noqa: SLF001
    "REASONING_MESSAGE_CONTENT": UIChunks._add_thought,  # noqa: SLF001
    "REASONING_MESSAGE_END": UIChunks._end_thought,  # noqa: SLF001
    "TOOL_CALL_START": UIChunks._start_call,  # noqa: SLF001
    "TOOL_CALL_ARGS": UIChunks._add_arguments,  # noqa: SLF001
    "TOOL_CALL_END": UIChunks._end_call,  # noqa: SLF001
    "TOOL_CALL_RESULT": UIChunks._add_result,  # noqa: SLF001
    "STATE_SNAPSHOT": UIChunks._set_state,  # noqa: SLF001
    "STATE_DELTA": UIChunks._patch_state,  # noqa: SLF001
    "ACTIVITY_SNAPSHOT": UIChunks._set_activity,  # noqa: SLF001
    "ACTIVITY_DELTA": UIChunks._patch_activity,  # noqa: SLF001
    "STEP_STARTED": UIChunks._start_step,  # noqa: SLF001
    "STEP_FINISHED": UIChunks._finish_step,  # noqa: SLF001
    "SUBAGENT_STARTED": UIChunks._start_subagent,  # noqa: SLF001
    "SUBAGENT_FINISHED": UIChunks._finish_subagent,  # noqa: SLF001
    "SUBAGENT_ERROR": UIChunks._fail_subagent,  # noqa: SLF001
    "CUSTOM": UIChunks._tell_custom,  # noqa: SLF001
}
"""Chunks per event type. Other events make no chunk: snapshots of messages, raw events, sealed
values."""
