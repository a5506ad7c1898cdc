"""Answers of OpenAI's APIs: whole, or as server-sent events while they grow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from isolane.doors.answers import in_messages
from isolane.doors.event_stream import EventStream, Followed, tell_batches
from isolane.doors.openai_errors import get_status, to_error_object, to_headers
from isolane.doors.problems import report
from isolane.doors.sse import Records
from isolane.errors import AgentTimeout, IsolaneError
from isolane.events.event import Event, decode_event, one_line
from isolane.runs.readers import HttpReader
from isolane.wire.openai.completion import CompletionFold, to_error
from isolane.wire.openai.response import ResponseFold
from isolane.wire.openai.words import Said

DONE: Final = b"data: [DONE]\n\n"

Answer = Callable[[Followed[Records]], Awaitable[Response]]
"""Returns the whole answer after the run's end."""


class Fold(Protocol):
    """Makes a client's objects from a run's events."""

    def add(self, event: Event) -> list[Said]:
        """Add the next event, and return the objects that it makes."""
        ...


class WholeAnswer(EventStream):
    """An answer that is sent after its run's end. A reader who leaves earlier has left the run.

    It counts as a connection, because it may be open as long as one.
    """

    def __init__(
        self,
        followed: Followed[Records],
        answer: Answer,
        *,
        reader: HttpReader,
        headers: Mapping[str, str],
    ) -> None:
        """Send the result of `answer`, with `headers` beside its own; see `EventStream`."""
        super().__init__(followed, _tell_nothing, reader=reader)
        self._answer = partial(answer, followed)
        self._own_headers = headers

    async def stream_response(self, send: Send) -> None:
        """Wait for the answer and send it."""
        try:
            answer = await self._answer()
        except Exception as error:  # noqa: BLE001 - after any error the reader must be told
            answer = to_refusal(error, user_id=self.identity.user_id)
        answer.headers.update(self._own_headers)
        start = {"type": "http.response.start", "status": answer.status_code}
        await send({**start, "headers": answer.raw_headers})
        for piece in in_messages(bytes(answer.body)):
            await send(piece)


async def _tell_nothing(_followed: Followed[Records]) -> AsyncGenerator[bytes, None]:
    for data in tuple[bytes, ...]():
        yield data


def to_refusal(error: Exception, *, user_id: str) -> Response:
    """Return the answer for an error, and log the error."""
    known, error_id = report(error, user_id=user_id)
    status = get_status(known)
    body = to_error_object(known, error_id, status=status)
    return JSONResponse(body, status_code=status, headers=to_headers(known))


def to_json(body: Said) -> Response:
    """Return an answer whose body may be large."""
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(body), media_type="application/json", headers=headers)


# --- completions ---------------------------------------------------------------------------------


async def tell_completion(
    followed: Followed[Records], *, fold: CompletionFold
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a completion, and the mark of its end."""
    telling = _tell(followed, fold, _as_data)
    async with aclosing(telling):
        async for data in telling:
            yield data
    yield DONE


async def answer_completion(followed: Followed[Records], *, fold: CompletionFold) -> Response:
    """Return a whole completion, or the error that ended its run."""
    await _fold_all(followed, fold)
    if fold.failure is None:
        return to_json(fold.to_answer())
    is_late = fold.failure.get("code") == AgentTimeout.code
    headers = {"x-should-retry": "false", "cache-control": "no-store"}
    body = {"error": to_error(fold.failure)}
    return JSONResponse(body, status_code=504 if is_late else 500, headers=headers)


# --- responses -----------------------------------------------------------------------------------


async def tell_response(
    followed: Followed[Records], *, fold: ResponseFold, starting_after: int = -1
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a response whose numbers are greater than `starting_after`."""

    def encode(made: Said) -> bytes:
        if made["sequence_number"] <= starting_after:
            return b""
        return b"event: %b\n%b" % (made["type"].encode(), _as_data(made))

    telling = _tell(followed, fold, encode)
    async with aclosing(telling):
        async for data in telling:
            yield data


async def answer_response(followed: Followed[Records], *, fold: ResponseFold) -> Response:
    """Return a response after its run's end, whatever the outcome."""
    await _fold_all(followed, fold)
    return to_json(fold.to_response())


# --- both ----------------------------------------------------------------------------------------


def _as_data(said: Said) -> bytes:
    return b"data: %b\n\n" % one_line(msgspec.json.encode(said))


def _tell(
    followed: Followed[Records], fold: Fold, encode: Callable[[Said], bytes]
) -> AsyncGenerator[bytes, None]:
    """Yield what a fold makes of a run's records."""

    def frame(records: Records) -> Iterator[bytes]:
        return (encode(said) for one in records for said in fold.add(decode_event(one.payload)))

    return tell_batches(followed, frame=frame, frame_error=_frame_error)


def _frame_error(error: IsolaneError, error_id: str) -> bytes:
    return _as_data(to_error_object(error, error_id, status=get_status(error)))


async def _fold_all(followed: Followed[Records], fold: Fold) -> None:
    """Fold a run to its end; errors are those of `follow_to_the_end`."""
    beats = followed.with_beats()
    async with aclosing(beats):
        async for records in beats:
            for record in records or ():
                fold.add(decode_event(record.payload))
