"""Items of earlier responses that a request names only by id.

AI SDK's package for OpenAI does so with each answer of a conversation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from isolane.context import UserExecutionContext
from isolane.contracts import Store
from isolane.doors.event_stream import Streams
from isolane.doors.openai.history import load_fold, load_response
from isolane.errors import CursorExpired, InvalidInput, NotFound, TooLarge
from isolane.wire.openai.content import Json
from isolane.wire.openai.response import ID_PREFIX, locate_item
from isolane.wire.openai.words import Said

REFERENCE: Final = "item_reference"
RESPONSES_MAX: Final = 1000
"""Maximum number of responses whose items one request may name, because each is read from its
log."""


_Place = tuple[str, int]
"""The run of a response, and an item's index in its output."""


LoadOutput = Callable[[str], Awaitable[Sequence[Said]]]
"""Returns the output of the response of a run id; empty when it doesn't exist any more."""


async def with_items(
    load_output: LoadOutput, body: Mapping[str, Json], *, most_bytes: int
) -> Mapping[str, Json]:
    """Return a request with the named items in place of their ids. Safe to cancel.

    The items together have `most_bytes` at most.

    Raises:
        InvalidInput: The user has no item with that id.
        TooLarge: The items together are larger than a frame, or belong to too many responses.
    """
    given = body.get("input")
    if not isinstance(given, list):
        return body
    places = {
        number: _place_of(f"input.{number}.id", item.get("id"))
        for number, item in enumerate(given)
        if isinstance(item, dict) and item.get("type") == REFERENCE
    }
    if not places:
        return body
    items = await _load_items(load_output, Counter(places.values()), most_bytes)
    for number, place in places.items():
        if place not in items:
            raise InvalidInput(f"input.{number}.id", "names no item that is kept; send the item")
    said = [items[places[n]] if n in places else item for n, item in enumerate(given)]
    return {**body, "input": said}


def _place_of(field: str, item_id: object) -> _Place:
    place = locate_item(item_id) if isinstance(item_id, str) else None
    if place is None:
        raise InvalidInput(field, "must be the id of an item of a response")
    return place


async def _load_items(
    load_output: LoadOutput, wanted: Counter[_Place], most_bytes: int
) -> Mapping[_Place, Said]:
    """Return the items that exist; each response is read once, and `wanted` counts their places."""
    run_ids = dict.fromkeys(run_id for run_id, _ in wanted)
    if len(run_ids) > RESPONSES_MAX:
        raise TooLarge(f"input may name items of {RESPONSES_MAX} responses")
    found: dict[_Place, Said] = {}
    size = 0
    for run_id in run_ids:
        for index, item in enumerate(await load_output(run_id)):
            times = wanted[run_id, index]
            if times:
                found[run_id, index] = item
                size += times * len(msgspec.json.encode(item))
        if size > most_bytes:
            raise TooLarge(f"the items that input names have more than {most_bytes} bytes")
    return found


async def load_output(
    streams: Streams, store: Store, context: UserExecutionContext, run_id: str
) -> Sequence[Said]:
    """Return the output of a user's response; empty when it doesn't exist any more."""
    try:
        stored = await load_response(streams.service, store, context, f"{ID_PREFIX}{run_id}")
        fold = await load_fold(streams.feed, context, stored)
    except (NotFound, CursorExpired):
        return ()
    output: Sequence[Said] = fold.to_response()["output"]
    return output
