"""Texts that are no frames: JSON bent, doubled and deep, and every field of every frame wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any, Final

from tests.live.client import run_frame
from tests.live.framing import TEXT
from tests.live.hostile.attack import Scene, attack
from tests.live.hostile.wire import FORGIVEN, frame

from isolane.doors.schema import frame_schema

USERS: Final = 4
TEXTS: Final[Mapping[str, Sequence[str]]] = {
    "json/empty": ["", " ", "\n\t", "{}"],
    "json/null": ["null", '{"type":null}'],
    "json/arrays": ["[]", '[{"type":"ping"}]', "[[]]"],
    "json/double-encoding": [json.dumps('{"type":"ping"}'), json.dumps(json.dumps("ping"))],
    "json/depth": [
        '{"type":"ping","t":' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"type":"ping","t":' + '{"a":' * 60_000,
        "[" * 200_000,
        # What is larger is read at a pace, so that the others are smaller.
        *['{"type":"ping","t":' + "[" * 1000 + "]" * 1000 + "}"] * 17,
    ],
    "json/numbers": [
        '{"type":"ping","t":' + "9" * 5000 + "}",
        '{"type":"ping","t":0.' + "3" * 5000 + "}",
        '{"type":"ping","t":1e' + "9" * 5000 + "}",
    ],
    "json/nan": [f'{{"type":"ping","t":{word}}}' for word in ("NaN", "Infinity", "-Infinity")],
    "json/duplicate-keys": ['{"type":"ping","type":"hello","v":1}', '{"t":{"a":1,"a":2}}'],
    "json/lone-surrogates": ['{"type":"ping","t":"\\ud800"}', '{"type":"ping","\\udfff":1}'],
    "json/nul": ["\x00", '{"type":"ping"}\x00', '{"type":"pi\x00ng"}', '{"type":"ping\\u0000"}'],
}


async def twenty(scene: Scene, texts: Sequence[str]) -> set[str]:
    """Say 19 of them, be forgiven, and say one too many; so do some users at once."""

    async def one() -> set[str]:
        async with scene.socket(scene.lane()) as wire:
            said = list(islice(cycle(texts), FORGIVEN + 1))
            await wire.push(b"".join(frame(TEXT, text) for text in said[:FORGIVEN]))
            await wire.push(frame(TEXT, '{"type":"unsubscribe","threadId":"fence"}'))
            answers = await wire.words(until=["unsubscribed"])
            assert answers == ["invalid_frame"] * FORGIVEN + ["unsubscribed"]
            await wire.push(frame(TEXT, said[-1]))
            return {*answers[:FORGIVEN], *await wire.words()}

    return set().union(*await asyncio.gather(*(one() for _ in range(USERS))))


for _name, _texts in TEXTS.items():
    attack(_name)(partial(twenty, texts=_texts))


@attack("json/proto")
async def proto(scene: Scene) -> set[str]:
    """Say what pollutes objects elsewhere: it is a key as any other."""
    lane = scene.lane()
    async with scene.socket(lane) as wire:
        for key in ("__proto__", "constructor", "prototype", "__class__"):
            poison: dict[str, Any] = {key: {"type": "abort", "isAdmin": True, "userId": "eve"}}
            await wire.push(frame(TEXT, json.dumps({"type": "ping", "t": poison, **poison})))
            assert await wire.words(until=["pong"]) == ["pong"]
            await wire.push(frame(TEXT, json.dumps({"type": "subscribe", "threadId": key})))
            assert (await wire.words(until=["subscribed"]))[-1] == "subscribed"
    async with lane.connect() as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == lane.user
    return {"pong"}


# --- every field, by the schema ------------------------------------------------------------------

VALUES: Final[Mapping[str, Sequence[object]]] = {
    "string": [7, True, [], {}],
    "integer": ["1", True, [], {}, 1.5],
    "array": [7, "text", True, {}],
}
"""What is of the wrong type, where the schema asks for a type."""
NOTHING_AFTER: Final = ("SubscribeFrame", "after", None)
"""The one null that is taken: it is from the start of the log, as without the field."""
RIGHT: Final[Mapping[str, Mapping[str, Any]]] = {
    "HelloFrame": {"type": "hello", "v": 1},
    "SubscribeFrame": {"type": "subscribe", "threadId": "t", "after": "e-0"},
    "UnsubscribeFrame": {"type": "unsubscribe", "threadId": "t"},
    "AuthFrame": {"type": "auth", "token": "text"},
    "PingFrame": {"type": "ping", "t": 1},
    "AbortFrame": {"type": "abort", "runId": "r"},
    "RunInput": {**run_frame("t", "r", "word"), "resume": [], "parentRunId": "p"},
}
"""A frame of each kind with every field; the schema must know no other."""


def wrong_frames() -> Iterator[str]:
    """Make every field that has a type absent where it is needed, null, and of another type."""
    shapes = frame_schema()["$defs"]
    for kind in kinds_of_clients(shapes):
        right, shape = RIGHT[kind], shapes[kind]
        assert right.keys() == shape["properties"].keys(), kind
        for name, field in shape["properties"].items():
            if name in shape["required"]:
                yield json.dumps({key: right[key] for key in right.keys() - {name}})
            for value in wrong_values(field):
                if (kind, name, value) == NOTHING_AFTER:
                    continue
                yield json.dumps({**right, name: value})


def kinds_of_clients(shapes: Mapping[str, Any]) -> list[str]:
    """Return the names of all frames that clients send."""
    union = shapes["ClientFrame"]["anyOf"]
    return [each["$ref"].rpartition("/")[2] for each in union]


def wrong_values(field: Mapping[str, Any]) -> list[object]:
    """Return what a field may not hold, by its schema; whatever may hold anything has nothing."""
    options = field.get("anyOf", [field])
    types = [option.get("type") or type_of(option) for option in options]
    kind = types[0]
    if kind is None:
        return []
    wrong = list(VALUES[kind])
    return wrong if "null" in types else [None, *wrong]


def type_of(option: Mapping[str, Any]) -> str | None:
    """Return the type of what the schema lists by its values."""
    values = option.get("enum") or ([option["const"]] if "const" in option else [])
    return {int: "integer", str: "string"}.get(type(values[0])) if values else None


@attack("json/every-field")
async def every_field(scene: Scene) -> set[str]:
    texts = list(wrong_frames())
    assert len(texts) > 50
    lane, answers = scene.lane(), set[str]()
    for at in range(0, len(texts), FORGIVEN):
        async with scene.socket(lane) as wire:
            for text in texts[at : at + FORGIVEN]:
                await wire.push(frame(TEXT, text))
                answers.add(await wire.word())
    return answers
