"""The fold of a run's events into the chunks of Chat Completions, and into the whole answer. Pure.

The same events make the same chunks, so a repeated request reads the same answer. Shapes: those of
the package `openai`, 3.57.0 for Python and 6.49.0 for JavaScript.
"""

from __future__ import annotations

from collections.abc import Callable
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

ID_PREFIX: Final = "chatcmpl-"
BETWEEN: Final = "\n\n"
"""Text between two messages of one run, because a completion has one text."""


class CompletionFold:
    """Makes chunks of the events of one run."""

    def __init__(
        self, run_id: str, *, model: str, created_at: int, tells_usage: bool = False
    ) -> None:
        """Begin before the run's first event.

        `created_at` is the time at which the run was accepted, in milliseconds since 1970.
        `tells_usage` adds a last chunk with the token counts.
        """
        self._about = {
            "id": f"{ID_PREFIX}{run_id}",
            "created": created_at // 1000,
            "model": model,
        }
        self._tells_usage = tells_usage
        self._tools: frozenset[str] = frozenset()
        self._untold: set[str] = set()
        """Ids of messages of other roles than the assistant's."""
        self._texts: list[str] = []
        self._last_message: str | None = None
        self._calls: dict[str, tuple[int, str, list[str]]] = {}
        """The calls that are told, each with index, name and arguments."""
        self._open_calls: set[str] = set()
        self._finish_reason: str | None = None
        self._usage: Said | None = None
        self.failure: Event | None = None
        """The RUN_ERROR that ended the run, or None."""

    def add(self, event: Event) -> list[Said]:
        """Add the run's next event, and return its chunks."""
        fold = _FOLDS.get(event["type"])
        return [] if fold is None else fold(self, event)

    def to_answer(self) -> Said:
        """Return the `chat.completion` of a run that has ended without an error."""
        message: Said = {
            "role": "assistant",
            "content": "".join(self._texts) if self._texts or not self._calls else None,
            "refusal": None,
        }
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(arguments)},
                }
                for call_id, (_, name, arguments) in self._calls.items()
            ]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": self._finish_reason,
            "logprobs": None,
        }
        usage = {} if self._usage is None else {"usage": self._usage}
        return {"object": "chat.completion", **self._about, "choices": [choice], **usage}

    # --- the fold --------------------------------------------------------------------------------

    def _start(self, event: Event) -> list[Said]:
        self._tools = tool_names_of(event)
        return [self._chunk({"role": "assistant", "content": ""})]

    def _start_text(self, event: Event) -> list[Said]:
        if event.get("role", "assistant") == "assistant":
            self._untold.discard(event["messageId"])
        else:
            self._untold.add(event["messageId"])
        return []

    def _add_text(self, event: Event) -> list[Said]:
        if event["messageId"] in self._untold or not event["delta"]:
            return []
        return [self._say(event["delta"], message_id=event["messageId"])]

    def _say(self, text: str, *, message_id: str) -> Said:
        if self._texts and message_id != self._last_message:
            text = BETWEEN + text
        self._last_message = message_id
        self._texts.append(text)
        return self._chunk({"content": text})

    def _start_call(self, event: Event) -> list[Said]:
        call_id, name = event["toolCallId"], event["toolCallName"]
        # A call that is opened twice was told already, and a caller must not run it twice.
        if name not in self._tools or call_id in self._calls:
            return []
        self._calls[call_id] = (len(self._calls), name, [])
        self._open_calls.add(call_id)
        function = {"name": name, "arguments": ""}
        return [self._call_chunk(call_id, id=call_id, type="function", function=function)]

    def _add_arguments(self, event: Event) -> list[Said]:
        return self._extend_call(event["toolCallId"], event["delta"])

    def _end_call(self, event: Event) -> list[Said]:
        """Give a call without arguments an empty object, because callers read them as JSON."""
        call_id = event["toolCallId"]
        is_bare = call_id in self._open_calls and not self._calls[call_id][2]
        made = self._extend_call(call_id, "{}") if is_bare else []
        self._open_calls.discard(call_id)
        return made

    def _extend_call(self, call_id: str, delta: str) -> list[Said]:
        if call_id not in self._open_calls or not delta:
            return []
        self._calls[call_id][2].append(delta)
        return [self._call_chunk(call_id, function={"arguments": delta})]

    def _finish(self, event: Event) -> list[Said]:
        # The API has no form for a question, so the question is told as text.
        said = [
            self._say(question_text(question), message_id=f"question {question['id']}")
            for question in questions_of(event)
        ]
        self._finish_reason = "tool_calls" if self._calls else "stop"
        self._usage = _to_usage(event)
        last = self._chunk({}, finish_reason=self._finish_reason)
        if self._tells_usage and self._usage is not None:
            counted = {**last, "choices": [], "usage": self._usage}
            return [*said, last, counted]
        return [*said, last]

    def _fail(self, event: Event) -> list[Said]:
        self.failure = event
        return [{"error": to_error(event)}]

    # --- chunks ----------------------------------------------------------------------------------

    def _chunk(self, delta: Said, *, finish_reason: str | None = None) -> Said:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        usage = {"usage": None} if self._tells_usage else {}
        return {"object": "chat.completion.chunk", **self._about, "choices": [choice], **usage}

    def _call_chunk(self, call_id: str, **fields: Any) -> Said:  # noqa: ANN401 - any JSON value
        index = self._calls[call_id][0]
        return self._chunk({"tool_calls": [{"index": index, **fields}]})


def to_error(failed: Event) -> Said:
    """Return the error object that a caller reads for a RUN_ERROR."""
    return {
        "message": failure_text(failed),
        "type": SERVER_ERROR,
        "param": None,
        "code": failed.get("code"),
    }


def _to_usage(finished: Event) -> Said | None:
    sums = sum_usage(finished)
    if sums is None:
        return None
    asked, answered = sums.get("inputTokens", 0), sums.get("outputTokens", 0)
    usage: Said = {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }
    if "cachedInputTokens" in sums:
        usage["prompt_tokens_details"] = {"cached_tokens": sums["cachedInputTokens"]}
    if "reasoningTokens" in sums:
        usage["completion_tokens_details"] = {"reasoning_tokens": sums["reasoningTokens"]}
    return usage


_FOLDS: Final[dict[str, Callable[[CompletionFold, Event], list[Said]]]] = {
    "RUN_STARTED": CompletionFold._start,  # noqa: SLF001 - the table is the class's own
    "TEXT_MESSAGE_START": CompletionFold._start_text,  # noqa: SLF001
    "TEXT_MESSAGE_CONTENT": CompletionFold._add_text,  # noqa: SLF001
    "TOOL_CALL_START": CompletionFold._start_call,  # noqa: SLF001
    "TOOL_CALL_ARGS": CompletionFold._add_arguments,  # noqa: SLF001
    "TOOL_CALL_END": CompletionFold._end_call,  # noqa: SLF001
    "RUN_FINISHED": CompletionFold._finish,  # noqa: SLF001
    "RUN_ERROR": CompletionFold._fail,  # noqa: SLF001
}
