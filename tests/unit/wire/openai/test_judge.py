"""What the package `openai` itself makes of the folds, whatever a run holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import TypeAdapter
from tests.unit.wire.openai.stories import Event, runs

from isolane.wire.openai.completion import CompletionFold
from isolane.wire.openai.response import ResponseFold

pytest.importorskip("openai")  # only the developers' environment has it

from openai import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

_STREAM: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@given(runs())
def test_every_chunk_of_a_completion_is_one(run: list[Event]) -> None:
    fold = CompletionFold("r", model="agent", created_at=1, tells_usage=True)
    chunks = [chunk for event in run for chunk in fold.add(event)]
    state = ChatCompletionStreamState()
    for chunk in chunks:
        if "error" not in chunk:
            state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
    if fold.failure is not None:
        assert "error" in chunks[-1]
        return
    whole = ChatCompletion.model_validate(fold.to_answer(), strict=True).choices[0]
    summed = state.get_final_completion().choices[0]
    assert (summed.message.content or "") == (whole.message.content or "")
    assert summed.finish_reason == whole.finish_reason
    assert [
        (each.id, each.function.name, each.function.arguments)
        for each in summed.message.tool_calls or ()
    ] == [
        (each.id, each.function.name, each.function.arguments)
        for each in whole.message.tool_calls or ()
        if each.type == "function"
    ]


@given(runs())
def test_every_event_of_a_response_is_one(run: list[Event]) -> None:
    fold = ResponseFold("r", model="agent", created_at=1)
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=omit, text_format=omit)
    snapshot = None
    for event in run:
        for made in fold.add(event):
            read = _STREAM.validate_python(made, strict=True)
            assert read.type == made["type"]
            state.handle_event(read)
            snapshot = state.accumulate_event(read) if made["type"] == "response.created" else None
        Response.model_validate(fold.to_response(), strict=True)
    assert snapshot is None
    last = Response.model_validate(fold.to_response(), strict=True)
    if fold.status == "completed":
        assert state._completed_response is not None
        assert state._completed_response.output_text == last.output_text
