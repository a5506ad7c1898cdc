"""Requests of OpenAI's APIs: a JSON object in, a checked value out. Pure.

A list of messages has two parts: the history, and a last block of messages of a user and results of
tools. The run adds that block.
"""

# Long because: both APIs name the same things differently, and the two readings stand side by side.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from isolane.errors import InvalidInput
from isolane.events.transcript import Message
from isolane.wire.openai.content import (
    INSTRUCTING,
    Json,
    need_flag,
    need_list,
    need_object,
    need_text,
    read_assistant,
    read_content,
    read_message,
    read_spoken,
    to_answer,
    to_call,
)

NewId = Callable[[int], str]
"""Makes the id of the message at an index of the list."""

THREAD_KEY: Final = "isolane_thread"
"""Key of a completion's metadata that may name a thread."""
_HANDED_ON: Final = (
    *("temperature", "top_p", "max_tokens", "max_completion_tokens", "max_output_tokens"),
    *("stop", "seed", "response_format", "text", "reasoning", "reasoning_effort"),
    *("tool_choice", "user", "metadata"),
)
"""Parameters that are passed on to the agent; the gateway doesn't read their values."""
_ADDED: Final = ("user", "tool")
_SKIPPED: Final = ("reasoning", "mcp_approval_request")
"""Items of an earlier answer that clients send back and that have nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The fields that both APIs share."""

    agent: str
    """The request's model, which names the agent."""
    history: Sequence[Message]
    """The history before the last block, as the caller claims it."""
    added: Sequence[Message]
    """The last block: messages of a user and results of tools."""
    resume: Sequence[Mapping[str, Any]] = ()
    """Answers to a run's questions to a person: AG-UI's resume entries."""
    tools: Sequence[Mapping[str, Any]] = ()
    """The caller's own tools in AG-UI's form."""
    props: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that are passed on to the agent."""
    is_streamed: bool = False
    is_stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionAsked(Asked):
    """A request of Chat Completions."""

    thread_id: Json = None
    """The thread that the metadata names, not checked yet."""
    tells_usage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseAsked(Asked):
    """A request of Responses."""

    instructions: str | None = None
    """Instructions for this run only, which come before everything else."""
    previous_id: str | None = None
    conversation_id: str | None = None
    is_background: bool = False

    @property
    def is_continued(self) -> bool:
        """True when the request continues a history that the server has."""
        return self.previous_id is not None or self.conversation_id is not None


def read_completion(body: Mapping[str, Json], new_id: NewId) -> CompletionAsked:
    """Return the checked request of Chat Completions.

    Raises:
        InvalidInput: A parameter is wrong; the text names it.
    """
    _refuse_unheard(body)
    listed = need_list("messages", body.get("messages"))
    messages = [
        read_message(f"messages.{place}", need_object(f"messages.{place}", one), new_id(place))
        for place, one in enumerate(listed)
    ]
    begin = _begin_of_block("messages", messages)
    metadata = need_object("metadata", body.get("metadata") or {})
    options = need_object("stream_options", body.get("stream_options") or {})
    return CompletionAsked(
        agent=need_text("model", body.get("model")),
        history=messages[:begin],
        added=messages[begin:],
        tools=_read_tools(body, lambda name, tool: need_object(name, tool.get("function"))),
        props=_handed_on(body),
        is_streamed=need_flag("stream", body.get("stream"), default=False),
        is_stored=need_flag("store", body.get("store"), default=False),
        thread_id=metadata.get(THREAD_KEY),
        tells_usage=need_flag(
            "stream_options.include_usage", options.get("include_usage"), default=False
        ),
    )


def read_response(body: Mapping[str, Json], new_id: NewId) -> ResponseAsked:
    """Return the checked request of Responses.

    Raises:
        InvalidInput: A parameter is wrong; the text names it.
    """
    _refuse_unheard(body)
    items = _read_items(body.get("input"), new_id)
    begin = _begin_of_block("input", items)
    block = items[begin:]
    instructions = body.get("instructions")
    asked = ResponseAsked(
        agent=need_text("model", body.get("model")),
        history=[one for one in items[:begin] if one["role"] != _ANSWER],
        added=[one for one in block if one["role"] != _ANSWER],
        resume=[one["resume"] for one in block if one["role"] == _ANSWER],
        tools=_read_tools(body, lambda _name, tool: tool),
        props=_handed_on(body),
        is_streamed=need_flag("stream", body.get("stream"), default=False),
        is_stored=need_flag("store", body.get("store"), default=True),
        instructions=None if instructions is None else need_text("instructions", instructions),
        previous_id=_read_name("previous_response_id", body.get("previous_response_id")),
        conversation_id=_read_conversation(body.get("conversation")),
        is_background=need_flag("background", body.get("background"), default=False),
    )
    _check_together(asked)
    return asked


def _check_together(asked: ResponseAsked) -> None:
    """Check that no two parameters exclude each other.

    Raises:
        InvalidInput: Two of them do.
    """
    if asked.previous_id is not None and asked.conversation_id is not None:
        raise InvalidInput("conversation", "and previous_response_id exclude each other")
    if asked.is_background and not asked.is_stored:
        raise InvalidInput("background", "needs a response that is stored")
    if asked.conversation_id is not None and not asked.is_stored:
        raise InvalidInput("store", "must not be false in a conversation, which keeps what is said")


# --- lists ---------------------------------------------------------------------------------------


def _begin_of_block(name: str, messages: Sequence[Message]) -> int:
    """Return the index at which the last block begins.

    Raises:
        InvalidInput: The list doesn't end in such a block.
    """
    begin = len(messages)
    while begin and messages[begin - 1]["role"] in (*_ADDED, _ANSWER):
        begin -= 1
    if begin == len(messages):
        raise InvalidInput(name, "must end in a message of a user or in the answer of a tool")
    return begin


_ANSWER: Final = "answer"
"""Role of an answer to a question, until answers and messages are separated."""


def _read_items(given: Json, new_id: NewId) -> list[Message]:
    if isinstance(given, str):
        return [{"id": new_id(0), "role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidInput("input", "must be text or a list of items")
    made: list[Message] = []
    for place, one in enumerate(given):
        name = f"input.{place}"
        item = need_object(name, one)
        kind = item.get("type", "message")
        if kind in _SKIPPED:
            continue
        if kind == "function_call":
            _add_call(made, name, item, new_id(place))
        else:
            made.append(_read_item(name, kind, item, new_id(place)))
    return made


def _read_item(name: str, kind: Json, item: Mapping[str, Json], message_id: str) -> Message:
    match kind:
        case "message" if item.get("role") == "assistant":
            return read_assistant(name, item, message_id)
        case "message":
            return read_spoken(name, item, message_id)
        case "function_call_output":
            call_id = need_text(f"{name}.call_id", item.get("call_id"))
            said = read_content(f"{name}.output", item.get("output"))
            return to_answer(call_id, said, message_id)
        case "mcp_approval_response":
            return {"role": _ANSWER, "resume": _read_approval(name, item)}
        case _:
            raise InvalidInput(
                f"{name}.type",
                "must be message, function_call, function_call_output, mcp_approval_response or "
                "item_reference",
            )


def _add_call(made: list[Message], name: str, item: Mapping[str, Json], message_id: str) -> None:
    """Add a call to the message before it, because AG-UI has both in one message."""
    call = to_call(
        need_text(f"{name}.call_id", item.get("call_id")),
        need_text(f"{name}.name", item.get("name")),
        need_text(f"{name}.arguments", item.get("arguments")),
    )
    if not made or made[-1]["role"] != "assistant":
        made.append({"id": message_id, "role": "assistant"})
    made[-1].setdefault("toolCalls", []).append(call)


def _read_approval(name: str, item: Mapping[str, Json]) -> Mapping[str, Any]:
    approved, reason = item.get("approve"), item.get("reason")
    if not isinstance(approved, bool):
        raise InvalidInput(f"{name}.approve", "must be true or false")
    payload: dict[str, Any] = {"approved": approved}
    if reason is not None:
        payload["reason"] = need_text(f"{name}.reason", reason)
    interrupt_id = need_text(f"{name}.approval_request_id", item.get("approval_request_id"))
    return {"interruptId": interrupt_id, "status": "resolved", "payload": payload}


def get_unheard(asked: Asked) -> Sequence[Message]:
    """Return the messages that a thread with its own history may not have yet.

    These are messages of users and tools after the list's last message of an assistant.
    """
    said = [*asked.history, *asked.added]
    places = [place for place, one in enumerate(said) if one["role"] == "assistant"]
    rest = said[places[-1] + 1 :] if places else said
    return [one for one in rest if one["role"] in _ADDED]


def get_instructions(messages: Sequence[Message]) -> Sequence[str]:
    """Return the texts of a list's instructions."""
    return [str(one["content"]) for one in messages if one["role"] in INSTRUCTING]


# --- parameters ----------------------------------------------------------------------------------


def _refuse_unheard(body: Mapping[str, Json]) -> None:
    """Refuse parameters that would change the answer but aren't supported."""
    if body.get("n") not in (None, 1) or isinstance(body.get("n"), bool):
        raise InvalidInput("n", "must be 1")
    if body.get("audio") is not None:
        raise InvalidInput("audio", "is not supported")
    modalities = body.get("modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        raise InvalidInput("modalities", "must not name audio")


def _read_tools(
    body: Mapping[str, Json], function_of: Callable[[str, Mapping[str, Json]], Mapping[str, Json]]
) -> list[dict[str, Any]]:
    """Return the caller's tools in AG-UI's form; none when `tool_choice` is `none`."""
    made: list[dict[str, Any]] = []
    for place, one in enumerate(need_list("tools", body.get("tools") or [])):
        name = f"tools.{place}"
        tool = need_object(name, one)
        if tool.get("type") != "function":
            raise InvalidInput(f"{name}.type", "must be function")
        function = function_of(f"{name}.function", tool)
        made.append(
            {
                "name": need_text(f"{name}.name", function.get("name")),
                "description": need_text(f"{name}.description", function.get("description") or ""),
                "parameters": need_object(f"{name}.parameters", function.get("parameters") or {}),
            }
        )
    return [] if body.get("tool_choice") == "none" else made


def _handed_on(body: Mapping[str, Json]) -> dict[str, Any]:
    return {name: body[name] for name in _HANDED_ON if body.get(name) is not None}


def _read_name(name: str, value: Json) -> str | None:
    return None if value is None else need_text(name, value)


def _read_conversation(given: Json) -> str | None:
    if isinstance(given, dict):
        return need_text("conversation.id", given.get("id"))
    return _read_name("conversation", given)
