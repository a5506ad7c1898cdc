"""The fold of a run's events into the events of OpenAI's Responses API. Pure.

The number of an event is its place in the fold, so a reader can continue after any of them. The
same fold makes the whole response, so a poll and a stream tell the same. Shapes: those of the
package `openai`, 3.57.0 for Python and 6.49.0 for JavaScript.
"""

# Long because: one fold, with a short function for each kind of event.

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from isolane.events.event import Event
from isolane.wire.openai.words import (
    SERVER_ERROR,
    Said,
    failure_text,
    question_text,
    questions_of,
    sum_usage,
    tool_names_of,
)

ID_PREFIX: Final = "resp_"
_ITEM_ID: Final = re.compile(r"(?:msg|rs|fc)_(.+)_([0-9]{1,9})")
SERVER_LABEL: Final = "isolane"
"""Name of the server in questions for approval."""


@dataclass(slots=True, eq=False)
class _Item:
    """An item of the output that still grows."""

    index: int
    item: Said
    """The item as it was told when it was added."""
    words: list[str] = field(default_factory=list)

    @property
    def place(self) -> Said:
        """The fields of its events that say where they belong."""
        return {"item_id": self.item["id"], "output_index": self.index}

    def to_part(self) -> Said:
        """Return the one part of a text or of a reasoning."""
        return _part_of(self.item, "".join(self.words))

    def to_item(self, status: str) -> Said:
        """Return the item in its current state."""
        if self.item["type"] == "function_call":
            return {**self.item, "arguments": "".join(self.words), "status": status}
        return {**self.item, "content": [self.to_part()], "status": status}


def _part_of(item: Said, text: str) -> Said:
    if item["type"] == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def locate_item(item_id: str) -> tuple[str, int] | None:
    """Return the run of an item and its index in the output; None for another id."""
    found = _ITEM_ID.fullmatch(item_id)
    return None if found is None else (found[1], int(found[2]))


class ResponseFold:
    """Makes `response.*` events of the events of one run."""

    def __init__(self, run_id: str, *, model: str, created_at: int) -> None:
        """Begin before the run's first event; until then the response is `queued`.

        `created_at` is the time at which the run was accepted, in milliseconds since 1970.
        """
        self._run_id = run_id
        self._about = {
            "id": f"{ID_PREFIX}{run_id}",
            "object": "response",
            "created_at": created_at // 1000,
            "model": model,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
        }
        self._tools: list[str] = []
        self._output: list[_Item | Said] = []
        self._texts: dict[str, _Item] = {}
        self._thoughts: dict[str, _Item] = {}
        self._calls: dict[str, _Item] = {}
        self._told_calls: set[str] = set()
        self._untold: set[str] = set()
        """Ids of messages of other roles than the assistant's."""
        self._asked: set[str] = set()
        """Ids of the questions that were told."""
        self._usage: Said | None = None
        self._error: Said | None = None
        self._out: list[Said] = []
        self._count = 0
        self.status = "queued"
        """`queued`, `in_progress`, `completed`, `failed` or `cancelled`."""

    def add(self, event: Event) -> list[Said]:
        """Add the run's next event, and return its events of the stream."""
        fold = _FOLDS.get(event["type"])
        if fold is None:
            return []
        fold(self, event)
        made, self._out = self._out, []
        return made

    def to_response(self) -> Said:
        """Return the response in its current state, with its whole output."""
        output = [
            each.to_item("in_progress") if isinstance(each, _Item) else each
            for each in self._output
        ]
        return {
            **self._about,
            "status": self.status,
            "output": output,
            "tools": [_to_tool(name) for name in self._tools],
            "error": self._error,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "temperature": None,
            "top_p": None,
            **({} if self._usage is None else {"usage": self._usage}),
        }

    # --- the fold --------------------------------------------------------------------------------

    def _start(self, event: Event) -> None:
        self._tools = sorted(tool_names_of(event))
        self._begin()

    def _begin(self) -> None:
        """Tell the response first, because the packages refuse a stream without it."""
        if self.status == "queued":
            self.status = "in_progress"
            self._tell("response.created", response=self.to_response())
            self._tell("response.in_progress", response=self.to_response())

    def _start_text(self, event: Event) -> None:
        if event.get("role", "assistant") == "assistant":
            self._untold.discard(event["messageId"])
        else:
            self._untold.add(event["messageId"])

    def _add_text(self, event: Event) -> None:
        message_id = event["messageId"]
        if message_id in self._untold or not event["delta"]:
            return
        if message_id not in self._texts:
            message = {"type": "message", "role": "assistant", "content": []}
            self._texts[message_id] = self._begin_words("msg", message)
        item = self._texts[message_id]
        item.words.append(event["delta"])
        fields = {**item.place, "content_index": 0, "delta": event["delta"], "logprobs": []}
        self._tell("response.output_text.delta", **fields)

    def _end_text(self, event: Event) -> None:
        self._close_text(event["messageId"])

    def _add_thought(self, event: Event) -> None:
        message_id = event["messageId"]
        if not event["delta"]:
            return
        if message_id not in self._thoughts:
            thought = {"type": "reasoning", "summary": [], "content": []}
            self._thoughts[message_id] = self._begin_words("rs", thought)
        item = self._thoughts[message_id]
        item.words.append(event["delta"])
        fields = {**item.place, "content_index": 0, "delta": event["delta"]}
        self._tell("response.reasoning_text.delta", **fields)

    def _end_thought(self, event: Event) -> None:
        self._close_thought(event["messageId"])

    def _start_call(self, event: Event) -> None:
        call_id, name = event["toolCallId"], event["toolCallName"]
        # A call that is opened twice was told already, and a caller must not run it twice.
        if name not in self._tools or call_id in self._told_calls:
            return
        self._cut()
        self._told_calls.add(call_id)
        call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        self._calls[call_id] = self._begin_item("fc", call)

    def _add_arguments(self, event: Event) -> None:
        item = self._calls.get(event["toolCallId"])
        if item is not None and event["delta"]:
            self._extend(item, event["delta"])

    def _extend(self, item: _Item, delta: str) -> None:
        item.words.append(delta)
        self._tell("response.function_call_arguments.delta", **item.place, delta=delta)

    def _end_call(self, event: Event) -> None:
        item = self._calls.pop(event["toolCallId"], None)
        if item is None:
            return
        if not item.words:  # callers read the arguments as JSON
            self._extend(item, "{}")
        arguments, name = "".join(item.words), item.item["name"]
        fields = {**item.place, "name": name, "arguments": arguments}
        self._tell("response.function_call_arguments.done", **fields)
        self._end_item(item)

    def _finish(self, event: Event) -> None:
        self._begin()
        self._cut()
        for question in questions_of(event):
            self._ask(str(question["id"]), str(question["reason"]), question_text(question))
        self._usage = _to_usage(event)
        is_cancelled = (event.get("outcome") or {}).get("type") == "cancelled"
        self.status = "cancelled" if is_cancelled else "completed"
        # The packages know no event for a cancelled response, so only its status tells it.
        kind = "response.incomplete" if is_cancelled else "response.completed"
        self._tell(kind, response=self.to_response())

    def _ask(self, interrupt_id: str, reason: str, text: str) -> None:
        # an answer names this id, so the question can't get another one
        if interrupt_id in self._asked:
            return
        self._asked.add(interrupt_id)
        request = {
            "type": "mcp_approval_request",
            "id": interrupt_id,
            "server_label": SERVER_LABEL,
            "name": reason,
            "arguments": text,
        }
        index = len(self._output)
        self._output.append(request)
        self._tell("response.output_item.added", output_index=index, item=request)
        self._tell("response.output_item.done", output_index=index, item=request)

    def _fail(self, event: Event) -> None:
        self._begin()
        self._cut()
        self.status = "failed"
        self._error = {"code": SERVER_ERROR, "message": failure_text(event)}
        self._tell("response.failed", response=self.to_response())

    # --- items -----------------------------------------------------------------------------------

    def _cut(self) -> None:
        """End every open text and reasoning; words after that begin another item."""
        for message_id in tuple(self._thoughts):
            self._close_thought(message_id)
        for message_id in tuple(self._texts):
            self._close_text(message_id)

    def _close_text(self, message_id: str) -> None:
        item = self._texts.pop(message_id, None)
        if item is not None:
            fields = {**item.place, "content_index": 0, "text": "".join(item.words)}
            self._tell("response.output_text.done", **fields, logprobs=[])
            self._end_words(item)

    def _close_thought(self, message_id: str) -> None:
        item = self._thoughts.pop(message_id, None)
        if item is not None:
            fields = {**item.place, "content_index": 0, "text": "".join(item.words)}
            self._tell("response.reasoning_text.done", **fields)
            self._end_words(item)

    def _begin_words(self, kind: str, about: Said) -> _Item:
        """Begin an item with its one part, which the JavaScript package needs for both kinds."""
        item = self._begin_item(kind, about)
        part = _part_of(item.item, "")
        self._tell("response.content_part.added", **item.place, content_index=0, part=part)
        return item

    def _end_words(self, item: _Item) -> None:
        part = item.to_part()
        self._tell("response.content_part.done", **item.place, content_index=0, part=part)
        self._end_item(item)

    def _begin_item(self, kind: str, about: Said) -> _Item:
        """Begin an item.

        Its id has its place, because a later request may name an item by its id only.
        """
        index = len(self._output)
        item_id = f"{kind}_{self._run_id}_{index}"
        item = _Item(index, {**about, "id": item_id, "status": "in_progress"})
        self._output.append(item)
        self._tell("response.output_item.added", output_index=item.index, item=item.item)
        return item

    def _end_item(self, item: _Item) -> None:
        done = item.to_item("completed")
        self._output[item.index] = done
        self._tell("response.output_item.done", output_index=item.index, item=done)

    def _tell(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        self._out.append({"type": kind, "sequence_number": self._count, **fields})
        self._count += 1


def _to_tool(name: str) -> Said:
    """Return one of the caller's tools; the log keeps only its name."""
    return {"type": "function", "name": name, "parameters": {}, "strict": False}


def _to_usage(finished: Event) -> Said | None:
    sums = sum_usage(finished)
    if sums is None:
        return None
    asked, answered = sums.get("inputTokens", 0), sums.get("outputTokens", 0)
    return {
        "input_tokens": asked,
        "input_tokens_details": {
            "cached_tokens": sums.get("cachedInputTokens", 0),
            "cache_write_tokens": sums.get("cacheWriteInputTokens", 0),
        },
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": sums.get("reasoningTokens", 0)},
        "total_tokens": asked + answered,
    }


_FOLDS: Final[dict[str, Callable[[ResponseFold, Event], None]]] = {
    "RUN_STARTED": ResponseFold._start,  # noqa: SLF001 - the table is the class's own
    "TEXT_MESSAGE_START": ResponseFold._start_text,  # noqa: SLF001
    "TEXT_MESSAGE_CONTENT": ResponseFold._add_text,  # noqa: SLF001
    "TEXT_MESSAGE_END": ResponseFold._end_text,  # noqa: SLF001
    "REASONING_MESSAGE_CONTENT": ResponseFold._add_thought,  # noqa: SLF001
    "REASONING_MESSAGE_END": ResponseFold._end_thought,  # noqa: SLF001
    "TOOL_CALL_START": ResponseFold._start_call,  # noqa: SLF001
    "TOOL_CALL_ARGS": ResponseFold._add_arguments,  # noqa: SLF001
    "TOOL_CALL_END": ResponseFold._end_call,  # noqa: SLF001
    "RUN_FINISHED": ResponseFold._finish,  # noqa: SLF001
    "RUN_ERROR": ResponseFold._fail,  # noqa: SLF001
}
