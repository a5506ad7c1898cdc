"""Messages of OpenAI's clients as AG-UI's messages and parts. Pure.

Everything here was read from JSON and is not trusted. A part that can't be kept is refused with the
name of its field, and never dropped.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from isolane.errors import InvalidInput
from isolane.events.transcript import Message

Part = dict[str, Any]
"""One part of the content of an AG-UI message."""
Json = Any
"""A value of a request, still unchecked."""

INSTRUCTING: Final = ("system", "developer")
_TEXTS: Final = ("text", "input_text", "output_text")
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*;base64,", re.ASCII)
_ADDRESS: Final = re.compile(r"https?://", re.IGNORECASE)
AUDIO: Final = {"mp3": "audio/mpeg", "wav": "audio/wav"}
"""Audio formats that a message may have, with their media types."""
_UNKNOWN_BYTES: Final = "application/octet-stream"


def need_text(field: str, value: Json) -> str:
    """Return `value`, which must be text.

    Raises:
        InvalidInput: It is something else; the text names `field`.
    """
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    return value


def need_object(field: str, value: Json) -> Mapping[str, Json]:
    """Return `value`, which must be an object.

    Raises:
        InvalidInput: It is something else; the text names `field`.
    """
    if not isinstance(value, dict):
        raise InvalidInput(field, "must be an object")
    return value


def need_list(field: str, value: Json) -> Sequence[Json]:
    """Return `value`, which must be a list.

    Raises:
        InvalidInput: It is something else; the text names `field`.
    """
    if not isinstance(value, list):
        raise InvalidInput(field, "must be a list")
    return value


def need_flag(field: str, value: Json, *, default: bool) -> bool:
    """Return `value`, or `default` when it is absent or null.

    Raises:
        InvalidInput: It is neither true nor false; the text names `field`.
    """
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidInput(field, "must be true or false")
    return value


def read_message(field: str, given: Mapping[str, Json], message_id: str) -> Message:
    """Return the AG-UI message for a message of Chat Completions.

    Raises:
        InvalidInput: The message is wrong; the text names the field.
    """
    role = given.get("role")
    if role == "assistant":
        return read_assistant(field, given, message_id)
    if role == "tool":
        call_id = need_text(f"{field}.tool_call_id", given.get("tool_call_id"))
        said = read_content(f"{field}.content", given.get("content"))
        return to_answer(call_id, said, message_id)
    return read_spoken(field, given, message_id)


def read_spoken(field: str, given: Mapping[str, Json], message_id: str) -> Message:
    """Return a message of a user, or an instruction.

    Raises:
        InvalidInput: The role is another one, or the content is wrong.
    """
    role, name = given.get("role"), given.get("name")
    named = {} if name is None else {"name": need_text(f"{field}.name", name)}
    message = {"id": message_id, "role": role, **named}
    if role == "user":
        return {**message, "content": read_content(f"{field}.content", given.get("content"))}
    if role in INSTRUCTING:
        return {**message, "content": read_plain(f"{field}.content", given.get("content"))}
    raise InvalidInput(f"{field}.role", "must be system, developer, user, assistant or tool")


def read_assistant(field: str, given: Mapping[str, Json], message_id: str) -> Message:
    """Return an assistant's message, as the caller claims it.

    Raises:
        InvalidInput: The message is wrong; the text names the field.
    """
    if given.get("function_call") is not None:
        raise InvalidInput(f"{field}.function_call", "is no longer taken; use tool_calls")
    said = given.get("content")
    said = given.get("refusal") if said is None else said
    message: Message = {"id": message_id, "role": "assistant"}
    if said is not None:
        message["content"] = read_plain(f"{field}.content", said)
    calls = given.get("tool_calls")
    if calls:
        listed = need_list(f"{field}.tool_calls", calls)
        message["toolCalls"] = [
            _read_call(f"{field}.tool_calls.{place}", call) for place, call in enumerate(listed)
        ]
    return message


def to_call(call_id: str, name: str, arguments: str) -> Message:
    """Return one tool call of an AG-UI message."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _read_call(field: str, given: Json) -> Message:
    call = need_object(field, given)
    if call.get("type", "function") != "function":
        raise InvalidInput(f"{field}.type", "must be function")
    function = need_object(f"{field}.function", call.get("function"))
    return to_call(
        need_text(f"{field}.id", call.get("id")),
        need_text(f"{field}.function.name", function.get("name")),
        need_text(f"{field}.function.arguments", function.get("arguments")),
    )


def to_answer(call_id: str, content: str | list[Part], message_id: str) -> Message:
    """Return the AG-UI message that answers a tool call."""
    return {"id": message_id, "role": "tool", "toolCallId": call_id, "content": content}


# --- content -------------------------------------------------------------------------------------


def read_plain(field: str, content: Json) -> str:
    """Return a content that may be text only.

    Raises:
        InvalidInput: The content has other parts.
    """
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for place, given in enumerate(_need_parts(field, content)):
        part = need_object(f"{field}.{place}", given)
        kind = part.get("type")
        if kind not in (*_TEXTS, "refusal"):
            raise InvalidInput(f"{field}.{place}.type", "must be text here")
        name = "refusal" if kind == "refusal" else "text"
        texts.append(need_text(f"{field}.{place}.{name}", part.get(name)))
    return "".join(texts)


def read_content(field: str, content: Json) -> str | list[Part]:
    """Return a content in AG-UI's form: a text, or a list of parts.

    Raises:
        InvalidInput: A part is wrong or unknown; the text names it.
    """
    if isinstance(content, str):
        return content
    listed = _need_parts(field, content)
    parts = [_read_part(f"{field}.{place}", part) for place, part in enumerate(listed)]
    if not parts:
        raise InvalidInput(field, "must have a part")
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _need_parts(field: str, content: Json) -> Sequence[Json]:
    """Return a content that isn't text, which must be a list.

    Raises:
        InvalidInput: It is something else; the text names `field`.
    """
    if not isinstance(content, list):
        raise InvalidInput(field, "must be text or a list of parts")
    return content


def _read_part(field: str, given: Json) -> Part:
    part = need_object(field, given)
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": need_text(f"{field}.text", part.get("text"))}
    read = _PARTS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise InvalidInput(f"{field}.type", f"must be text or one of {', '.join(sorted(_PARTS))}")
    return read(field, part)


def _read_image_url(field: str, part: Mapping[str, Json]) -> Part:
    image = need_object(f"{field}.image_url", part.get("image_url"))
    source = _to_source(f"{field}.image_url.url", image.get("url"))
    return {"type": "image", "source": source}


def _read_input_image(field: str, part: Mapping[str, Json]) -> Part:
    _refuse_file_id(field, part)
    return {"type": "image", "source": _to_source(f"{field}.image_url", part.get("image_url"))}


def _read_audio(field: str, part: Mapping[str, Json]) -> Part:
    audio = need_object(f"{field}.input_audio", part.get("input_audio"))
    kind = need_text(f"{field}.input_audio.format", audio.get("format"))
    data = need_text(f"{field}.input_audio.data", audio.get("data"))
    mime_type = AUDIO.get(kind)
    if mime_type is None:
        raise InvalidInput(f"{field}.input_audio.format", "must be wav or mp3")
    return {"type": "audio", "source": _of_data(data, mime_type)}


def _read_file(field: str, part: Mapping[str, Json]) -> Part:
    return _to_document(f"{field}.file", need_object(f"{field}.file", part.get("file")))


def _to_document(field: str, given: Mapping[str, Json]) -> Part:
    _refuse_file_id(field, given)
    name, address = given.get("filename"), given.get("file_url")
    about = {} if name is None else {"metadata": {"filename": need_text(f"{field}.filename", name)}}
    if address is not None:
        source = _to_source(f"{field}.file_url", address)
    else:
        data = need_text(f"{field}.file_data", given.get("file_data"))
        source = _from_data_url(data) or _of_data(data, _guess_type(name))
    return {"type": "document", "source": source, **about}


def _guess_type(name: str | None) -> str:
    return (mimetypes.guess_type(name)[0] if name else None) or _UNKNOWN_BYTES


def _refuse_file_id(field: str, given: Mapping[str, Json]) -> None:
    if given.get("file_id") is not None:
        raise InvalidInput(f"{field}.file_id", "names no file here; send the file itself")


def _to_source(field: str, address: Json) -> Part:
    """Return the source of an image or a file.

    Raises:
        InvalidInput: The address is neither https, http nor a data URL.
    """
    text = need_text(field, address)
    if _ADDRESS.match(text):
        return {"type": "url", "value": text}
    source = _from_data_url(text)
    if source is None:
        raise InvalidInput(field, "must be an http or https address, or a data URL in base64")
    return source


def _from_data_url(text: str) -> Part | None:
    head = _DATA_URL.match(text)
    return _of_data(text[head.end() :], head[1] or _UNKNOWN_BYTES) if head else None


def _of_data(data: str, mime_type: str) -> Part:
    return {"type": "data", "value": data, "mimeType": mime_type}


_PARTS: Final[Mapping[str, Callable[[str, Mapping[str, Json]], Part]]] = {
    "file": _read_file,
    "image_url": _read_image_url,
    "input_audio": _read_audio,
    "input_file": _to_document,
    "input_image": _read_input_image,
}
