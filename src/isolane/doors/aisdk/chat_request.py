"""One request on a chat socket: what its frame asks for, and what it holds until it ends."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from isolane.context import RunKey
from isolane.doors.aisdk.chats import Told
from isolane.doors.line import URGENT_CHARACTERS
from isolane.errors import InvalidFrame, InvalidInput, IsolaneError
from isolane.wire.frames import decode_object

REQUEST_ID_MAX: Final = 128
EARLY_ABORTS_MAX: Final = 100


@dataclass(eq=False, slots=True)
class ChatRequest:
    """One request of the client: a turn that is asked, or followed again."""

    request_id: str
    chat_id: str
    is_resume: bool
    detaches: bool
    """True when an abort ends the request only, and the run goes on."""
    after: int
    """Number of the last chunk that the client has, -1 for none."""
    key: RunKey | None = None
    """Its run, once that is known."""
    is_aborted: bool = False
    held: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Resources until the request ends: a thread of the user's limit, and a place among readers."""
    task: asyncio.Task[None] | None = None
    head: str = field(init=False)
    """Text that stands in each frame of the request, right behind the type."""

    def __post_init__(self) -> None:
        """Write its id down once: each chunk carries it."""
        self.head = f'"requestId":{msgspec.json.encode(self.request_id).decode()}'

    def to_texts(self, chunks: Sequence[Told]) -> list[str]:
        """Return the frames of those chunks that the client doesn't have."""
        head = f'{{"type":"chunk",{self.head}'
        return [
            f'{head},"sequence":{number},"chunk":{chunk.decode()}}}'
            for number, chunk in chunks
            if number > self.after
        ]


class EarlyAborts:
    """Requests of one socket that were aborted while their frames wait in line."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ids: OrderedDict[str, None] = OrderedDict()

    def note(self, request_id: str) -> None:
        """Remember an abort; of too many the oldest is forgotten."""
        self._ids[request_id] = None
        if len(self._ids) > EARLY_ABORTS_MAX:
            self._ids.popitem(last=False)

    def take(self, request_id: str) -> bool:
        """Say whether a request was aborted before it was open, and forget that."""
        if request_id not in self._ids:
            return False
        del self._ids[request_id]
        return True

    def clear(self) -> None:
        """Forget all, because no frame waits."""
        self._ids.clear()


def find_abort(text: str) -> str | None:
    """Return the id of the request that a frame aborts: it overtakes those that take long."""
    if len(text) > URGENT_CHARACTERS or '"abort"' not in text:
        return None
    try:
        frame = decode_object(text)
        return read_request_id(frame) if frame.get("type") == "abort" else None
    except IsolaneError:
        return None


def read_request_id(frame: Mapping[str, Any]) -> str:
    """Return the `requestId` of a frame.

    Raises:
        InvalidFrame: The frame has none, or one that is too long.
    """
    given = frame.get("requestId")
    if not isinstance(given, str) or not 1 <= len(given) <= REQUEST_ID_MAX:
        raise InvalidFrame(f"a frame needs a requestId of 1 to {REQUEST_ID_MAX} characters")
    return given


def body_of(frame: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a page added of its own.

    Raises:
        InvalidInput: That is no object.
    """
    body = frame.get("body", {})
    if not isinstance(body, dict):
        raise InvalidInput("body", "must be an object")
    metadata = frame.get("metadata")
    return body if metadata is None else {**body, "metadata": metadata}


def read_request(frame: Mapping[str, Any], request_id: str) -> ChatRequest:
    """Return what a `send` or `resume` frame asks for.

    Raises:
        InvalidInput: A field has a wrong value.
    """
    chat_id, body = frame.get("id"), body_of(frame)
    if not isinstance(chat_id, str):
        raise InvalidInput("id", "must be the id of a chat")
    last = frame.get("lastSequence")
    if last is not None and (type(last) is not int or last < 0):
        raise InvalidInput("lastSequence", "must be the number of a chunk")
    return ChatRequest(
        request_id,
        chat_id,
        is_resume=frame["type"] == "resume",
        detaches=body.get("onAbort") == "detach",
        after=-1 if last is None else last,
    )
