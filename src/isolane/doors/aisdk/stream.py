"""Answers of AI SDK's door over HTTP: UI message streams as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec

from isolane.contracts import Identity
from isolane.doors.aisdk.chats import Told
from isolane.doors.event_stream import EventStream, Followed, Streams, tell_batches
from isolane.errors import IsolaneError
from isolane.events.event import one_line
from isolane.runs.readers import HttpReader

HEADERS: Final = {
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
}
DONE: Final = b"data: [DONE]\n\n"


def answer_stream(
    streams: Streams,
    identity: Identity,
    told: AsyncGenerator[Sequence[Told], None],
    reader: HttpReader,
    *,
    after: int = -1,
    headers: dict[str, str] | None = None,
) -> EventStream:
    """Return an event stream of the chunks greater than `after`."""
    return EventStream(
        Followed(streams, identity, told),
        partial(_tell, after=after),
        reader=reader,
        headers={**HEADERS, **(headers or {})},
    )


async def _tell(followed: Followed[Sequence[Told]], *, after: int) -> AsyncGenerator[bytes, None]:
    """Yield chunks with numbers greater than `after` as events, and the mark of the end."""

    def frame(chunks: Sequence[Told]) -> Iterator[bytes]:
        return (
            b"id: %d\ndata: %b\n\n" % (number, one_line(chunk))
            for number, chunk in chunks
            if number > after
        )

    async with aclosing(tell_batches(followed, frame=frame, frame_error=_frame_error)) as telling:
        async for piece in telling:
            yield piece
    yield DONE


def _frame_error(error: IsolaneError, error_id: str) -> bytes:
    text = f"{error.message} ({error.code}, {error_id})"
    return b"data: %b\n\n" % msgspec.json.encode({"type": "error", "errorText": text})
