"""Items of earlier responses that a request names only by id.

AI SDK's package for OpenAI does so with each answer of a conversation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from isolane.context import UserExecutionContext
from isolane.doors.gateway import Gateway
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


async def with_items(
    gateway: Gateway, context: UserExecutionContext, body: Mapping[str, Json]
) -> Mapping[str, Json]:
    """Return a request with the named items in place of their ids. Safe to cancel.

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
    items = await _load_items(gateway, context, Counter(places.values()))
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
    gateway: Gateway, context: UserExecutionContext, wanted: Counter[_Place]
) -> Mapping[_Place, Said]:
    """Return the items that exist; each response is read once, and `wanted` counts their places."""
    run_ids = dict.fromkeys(run_id for run_id, _ in wanted)
    if len(run_ids) > RESPONSES_MAX:
        raise TooLarge(f"input may name items of {RESPONSES_MAX} responses")
    found: dict[_Place, Said] = {}
    size, most = 0, gateway.settings.limit_frame_bytes
    for run_id in run_ids:
        output = await _load_output(gateway, context, run_id)
        for index, item in enumerate(output):
            times = wanted[run_id, index]
            if times:
                found[run_id, index] = item
                size += times * len(msgspec.json.encode(item))
        if size > most:
            raise TooLarge(f"the items that input names have more than {most} bytes")
    return found


async def _load_output(
    gateway: Gateway, context: UserExecutionContext, run_id: str
) -> Sequence[Said]:
    """Return the output of a user's response; empty when it doesn't exist any more."""
    try:
        stored = await load_response(gateway, context, f"{ID_PREFIX}{run_id}")
        fold = await load_fold(gateway, context, stored)
    except (NotFound, CursorExpired):
        return ()
    output: Sequence[Said] = fold.to_response()["output"]
    return output
