"""A client that asks with OpenAI's own package and prints the answer, however often it is cut off.

    python openai_client.py http://127.0.0.1:8000/v1 "$(isolane token --user ada)" "What did I say?"

Needs the package `openai`. The response runs in the background, so a lost line doesn't stop it.
The client asks for the events after the last one that it has. The `Idempotency-Key` lets the same
question that is sent again lead to the run there is, so that no agent runs twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from time import sleep
from typing import Final
from uuid import uuid4

from openai import APIConnectionError, APIError, OpenAI
from openai.types.responses import ResponseStreamEvent

TRIES: Final = 4
"""Connections that may fail in a row; the pause before the next one is a second."""


def ask(client: OpenAI, question: str) -> Iterator[ResponseStreamEvent]:
    """Yield the events of the first agent's answer, each once. Raises `APIError`."""
    model = client.models.list().data[0].id
    key = {"Idempotency-Key": str(uuid4())}
    response_id, seen, failures = "", 0, 0
    while True:
        try:
            stream = (
                client.responses.retrieve(response_id, stream=True, starting_after=seen)
                if response_id
                else client.responses.create(
                    model=model, input=question, stream=True, background=True, extra_headers=key
                )
            )
            for event in stream:
                seen, failures = event.sequence_number, 0
                if event.type == "response.created":
                    response_id = event.response.id
                yield event
            return
        except APIConnectionError:
            failures += 1
            if failures == TRIES:
                raise
            sleep(1)


if __name__ == "__main__":
    try:
        asked = OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
        for told in ask(asked, sys.argv[3]):
            if told.type == "response.output_text.delta":
                sys.stdout.write(told.delta)
    except APIError as error:
        raise SystemExit(error.message) from None
