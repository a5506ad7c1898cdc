"""Requests of a page of AI SDK in AG-UI's form. Pure.

The published client sends its whole list of messages each time. The gateway has the history, so
only new things count: the last message, earlier messages of the user that the thread lacks, and
answers of tools and people. Answers stand in parts of the assistant's messages.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from isolane.errors import InvalidInput, RunConflict
from isolane.events.transcript import Message
from isolane.ids import check_wire_id
from isolane.wire.aisdk.chunks import QUESTION

SUBMIT: Final = "submit-message"
REGENERATE: Final = "regenerate-message"
_GIVEN: Final = ("tools", "context", "state")
"""Fields of a request's body for the agent, which have the names of AG-UI's input."""
_OF_DATA: Final = ("type", "id", "data")
_MEDIA: Final = ("image", "audio", "video")


@dataclass(frozen=True, slots=True)
class Chat:
    """A checked request: a turn of the chat `thread_id`."""

    thread_id: str
    trigger: str
    users: Sequence[Message]
    """The user's messages in AG-UI's form."""
    answers: Sequence[Message]
    """Tool messages with the results of the page's own tools."""
    decisions: Sequence[Mapping[str, Any]]
    """AG-UI's answers to questions."""
    asks: bool
    """True when the last message is the user's."""
    data: Sequence[Mapping[str, Any]]
    """The data parts of the last message, when it is the user's."""
    body: Mapping[str, Any] = field(repr=False)
    """The other fields of the body, without the messages."""

    @property
    def run_id(self) -> str | None:
        """The run id that the page chose, or None."""
        chosen = self.body.get("runId")
        return None if chosen is None else check_wire_id("runId", chosen)

    @property
    def has_answers(self) -> bool:
        """True when parts answer something; the thread may know those answers already."""
        return bool(self.answers or self.decisions)


def read_chat(thread_id: object, request: Mapping[str, Any], body: Mapping[str, Any]) -> Chat:
    """Return the turn that a request asks for.

    `request` has `trigger` and `messages`; `body` has the page's own fields.

    Raises:
        InvalidInput: A field is wrong; the text names it.
    """
    trigger = request.get("trigger", SUBMIT)
    if trigger not in (SUBMIT, REGENERATE):  # a list has no hash
        raise InvalidInput("trigger", f"must be {SUBMIT} or {REGENERATE}")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("messages", "must be a list with at least one message")
    users: list[Message] = []
    data: Sequence[Mapping[str, Any]] = ()
    answers: dict[str, Message] = {}
    decisions: dict[str, Mapping[str, Any]] = {}
    for place, message in enumerate(messages):
        path = f"messages.{place}"
        role, parts = _read_message(path, message)
        if role == "user":
            data = [part for part in parts if _kind_of(part).startswith("data-")]
            users.append(_to_message(path, message, has_data=bool(data)))
        else:
            for part in parts:
                _read_answer(part, answers, decisions)
    asks = messages[-1]["role"] == "user"
    if trigger == REGENERATE and not asks:
        raise InvalidInput("messages", "must end with the user's message that is asked again")
    return Chat(
        check_wire_id("id", thread_id),
        trigger,
        users,
        list(answers.values()),
        list(decisions.values()),
        asks,
        data if asks else (),
        body,
    )


def to_frame(
    chat: Chat,
    run_id: str,
    *,
    open_calls: Mapping[str, str],
    questions: Collection[str],
    rewinds: bool,
) -> dict[str, Any]:
    """Return AG-UI's `RunAgentInput` for a chat's turn, as JSON.

    `open_calls` maps the thread's unanswered calls to the ids of the messages that will answer
    them. `questions` are the ids of its open questions. With `rewinds`, everything after the last
    message is taken back, and the message is asked again.

    Raises:
        RunConflict: Nothing in the request is new.
    """
    answers = [
        {**one, "id": open_calls[one["toolCallId"]]}
        for one in chat.answers
        if one["toolCallId"] in open_calls
    ]
    resume = [one for one in chat.decisions if one["interruptId"] in questions]
    # a user who decides some questions and then writes something leaves the others open
    if resume and chat.asks:
        decided = {one["interruptId"] for one in resume}
        left = [one for one in questions if one not in decided]
        resume += [{"interruptId": one, "status": "cancelled"} for one in left]
    if not (chat.asks or answers or resume):
        raise RunConflict("the messages hold no answer that the thread still waits for")
    messages = [*chat.users[-1:]] if rewinds else [*answers, *(chat.users if chat.asks else ())]
    frame: dict[str, Any] = {
        "threadId": chat.thread_id,
        "runId": run_id,
        "messages": messages,
        **{name: chat.body[name] for name in _GIVEN if chat.body.get(name) is not None},
        "forwardedProps": _props_of(chat, rewinds=rewinds),
    }
    return frame | ({"resume": resume} if resume and not rewinds else {})


def _props_of(chat: Chat, *, rewinds: bool) -> dict[str, Any]:
    given = chat.body.get("forwardedProps")
    if given is not None and not isinstance(given, dict):
        raise InvalidInput("forwardedProps", "must be an object")
    props = dict(given or {})
    props.pop("rewindTo", None)  # the list says which message is asked again
    if chat.body.get("policy") is not None:
        props["policy"] = chat.body["policy"]
    elif rewinds:
        props.setdefault("policy", "interrupt")
    if rewinds:
        props["rewindTo"] = chat.users[-1]["id"]
    if chat.body.get("metadata") is not None:
        props["metadata"] = chat.body["metadata"]
    if chat.data:
        props["data"] = [{n: part[n] for n in _OF_DATA if n in part} for part in chat.data]
    return props


def _read_message(path: str, message: Any) -> tuple[str, Sequence[Any]]:  # noqa: ANN401
    if not isinstance(message, dict):
        raise InvalidInput(path, "must be an object")
    if message.get("role") not in ("user", "assistant"):
        raise InvalidInput(f"{path}.role", "must be user or assistant")
    if not isinstance(message.get("parts"), list):
        raise InvalidInput(f"{path}.parts", "must be a list")
    return message["role"], message["parts"]


# --- the user's messages -------------------------------------------------------------------------


def _to_message(path: str, message: Mapping[str, Any], *, has_data: bool) -> Message:
    """Return a user's message in AG-UI's form, without its data parts."""
    own_id = message.get("id")
    if not isinstance(own_id, str) or not own_id:
        raise InvalidInput(f"{path}.id", "must be text")
    content: list[dict[str, Any]] = []
    for place, part in enumerate(message["parts"]):
        part_path = f"{path}.parts.{place}"
        if _kind_of(part) == "text":
            content.append({"type": "text", "text": _text_of(f"{part_path}.text", part)})
        elif _kind_of(part) == "file":
            content.append(_file_of(part_path, part))
    if not content and not has_data:
        raise InvalidInput(f"{path}.parts", "must hold a text, a file or a data part")
    is_plain = len(content) == 1 and content[0]["type"] == "text"
    said = content[0]["text"] if is_plain else content
    return {"id": own_id, "role": "user", "content": said or ""}


def _kind_of(part: Any) -> str:  # noqa: ANN401 - any JSON value of a client
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else ""


def _text_of(path: str, part: Mapping[str, Any]) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidInput(path, "must be text")
    return text


def _file_of(path: str, part: Mapping[str, Any]) -> dict[str, Any]:
    media_type, url = part.get("mediaType"), part.get("url")
    if not isinstance(media_type, str) or not media_type:
        raise InvalidInput(f"{path}.mediaType", "must be a media type such as image/png")
    family = media_type.partition("/")[0].lower()
    named = {"filename": part["filename"]} if isinstance(part.get("filename"), str) else {}
    return {
        "type": family if family in _MEDIA else "document",
        "source": {**_source_of(f"{path}.url", url), "mimeType": media_type},
        **({"metadata": named} if named else {}),
    }


def _source_of(path: str, url: object) -> dict[str, str]:
    if isinstance(url, str):
        scheme, _, rest = url.partition(":")
        head, comma, value = rest.partition(",")
        if scheme.lower() == "data" and comma and head.lower().endswith(";base64"):
            return {"type": "data", "value": value}
        if scheme.lower() in {"http", "https"}:
            return {"type": "url", "value": url}
    raise InvalidInput(path, "must be a base64 data URL, or start with http:// or https://")


# --- answers -------------------------------------------------------------------------------------


def _read_answer(
    part: Any,  # noqa: ANN401 - any JSON value of a client
    answers: dict[str, Message],
    decisions: dict[str, Mapping[str, Any]],
) -> None:
    """Note the answer in a part of an assistant's message, if there is one.

    A later turn may reuse an id. The later part is about another call or question, so an earlier
    answer is dropped.
    """
    if not isinstance(part, dict):
        return
    kind, call_id = part.get("type"), part.get("toolCallId")
    if not isinstance(kind, str) or not isinstance(call_id, str):
        return
    if kind == "dynamic-tool" and part.get("toolName") == QUESTION:
        asked = part.get("input")
        given = asked.get("id") if isinstance(asked, dict) else None
        own = given if isinstance(given, str) else call_id
        decisions.pop(own, None)
        decisions.update(_decide(own, part))
    elif kind == "dynamic-tool" or kind.startswith("tool-"):
        answers.pop(call_id, None)
        answers.update((call_id, message) for message in _answer(call_id, part))
        approval = part.get("approval")
        if isinstance(approval, dict) and isinstance(approval.get("id"), str):
            decisions.pop(approval["id"], None)
            decisions.update(_approve(part, approval))


def _answer(call_id: str, part: Mapping[str, Any]) -> Iterator[Message]:
    """Yield the tool message, still without an id, for the result of a tool of the page."""
    message: Message = {"role": "tool", "toolCallId": call_id}
    if part.get("providerExecuted"):
        return
    state, error = part.get("state"), part.get("errorText")
    if state == "output-available" and "output" in part:
        yield {**message, "content": _as_text(part["output"])}
    elif state == "output-error" and isinstance(error, str):
        yield {**message, "content": error, "error": error}


def _as_text(output: object) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def _approve(
    part: Mapping[str, Any], approval: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a person's decision on a call. A no is an answer too, so that its reason is heard."""
    if isinstance(approval.get("approved"), bool) and not part.get("providerExecuted"):
        payload = {name: approval[name] for name in ("approved", "reason") if name in approval}
        own = approval["id"]
        yield own, {"interruptId": own, "status": "resolved", "payload": payload}


def _decide(own: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if part.get("providerExecuted"):
        return
    if part.get("state") == "output-available":
        yield own, {"interruptId": own, "status": "resolved", "payload": part.get("output")}
    elif part.get("state") == "output-error":
        yield own, {"interruptId": own, "status": "cancelled"}
