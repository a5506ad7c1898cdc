"""Ids that are none, in every place where one may stand, and ids of somebody else's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

from tests.live.client import run_frame
from tests.live.framing import TEXT
from tests.live.hostile.attack import Scene, attack
from tests.live.hostile.wire import frame
from tests.live.stage import Lane

NAMES: Final[Mapping[str, Sequence[str]]] = {
    "ids/long": ["x" * 129, "x" * 10_000],
    "ids/look-alikes": ["\uff41dmin", "\u0430dmin", "a\u200bdmin", "\u212a", "e\u0301"],
    "ids/dot-dot": ["../x", "../../isolane.db", "..\\x", "a/../b", "%2e%2e/x"],
    "ids/star": ["*", "%", "_*", "a*"],
    "ids/nul": ["\x00", "a\x00b", "a\x00"],
}


def frames_with(name: str) -> list[str]:
    """Return every frame in which an id stands, with this one."""
    controls = [("subscribe", "threadId"), ("unsubscribe", "threadId"), ("abort", "runId")]
    texts = [json.dumps({"type": kind, field: name}) for kind, field in controls]
    texts += [json.dumps(run_frame(name, "r", "word")), json.dumps(run_frame("t", name, "word"))]
    return [*texts, json.dumps({"type": "subscribe", "threadId": "t", "after": name})]


def requests_with(name: str) -> list[tuple[str, str]]:
    """Return every request in which an id stands, with this one."""
    path = quote(name, safe="")
    return [
        ("GET", f"/api/threads/{path}"),
        ("PATCH", f"/api/threads/{path}"),
        ("DELETE", f"/api/threads/{path}"),
        ("GET", f"/api/threads/{path}/events"),
        ("GET", f"/api/runs/{path}"),
        ("POST", f"/api/runs/{path}/abort"),
        ("POST", "/api/threads"),
        ("POST", "/agui"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses"),
        ("GET", f"/v1/responses/resp_{path}"),
        ("GET", f"/v1/responses/resp_{path}/input_items"),
        ("POST", f"/v1/responses/resp_{path}/cancel"),
        ("DELETE", f"/v1/responses/resp_{path}"),
    ]


async def misname(scene: Scene, names: Sequence[str]) -> set[str]:
    """Say each name in every place."""
    lane, answers = scene.lane(), set[str]()
    for name in names:
        async with scene.socket(lane) as wire:
            for text in frames_with(name):
                await wire.push(frame(TEXT, text))
                answers.add(await wire.word())
        answers |= await ask(lane, name)
    return answers


async def ask(lane: Lane, name: str) -> set[str]:
    """Ask every route for a name and return the statuses."""
    bodies = {
        "/api/threads": {"threadId": name},
        "/agui": run_frame(name, "r", "word"),
        "/v1/chat/completions": {
            "model": "script",
            "messages": [{"role": "user", "content": "word"}],
            "metadata": {"isolane_thread": name},
        },
        "/v1/responses": {"model": "script", "input": "word", "conversation": name},
    }
    async with lane.server.http(lane.token) as http:
        return {
            str(
                (
                    await http.request(method, path, json=bodies.get(path, {"title": "x"}))
                ).status_code
            )
            for method, path in requests_with(name)
        }


for _name, _names in NAMES.items():
    attack(_name)(partial(misname, names=_names))


@attack("ids/colon")
async def colons(scene: Scene) -> set[str]:
    """Divide the same letters otherwise: each is another thread, and another run."""
    lane, answers = scene.lane(), set[str]()
    for thread_id, run_id in (("a:b", "c"), ("a", "b:c"), (":", "::"), ("a:b:c", ":")):
        events = await lane.play(thread_id, run_id, f"word of {thread_id}")
        answers.add(events[-1]["type"])
    for thread_id in ("a:b", "a", ":", "a:b:c"):
        assert (await lane.load_log(thread_id)).text == f"word of {thread_id} "
    return answers


@attack("ids/foreign")
async def foreign(scene: Scene) -> set[str]:
    """Name what is another user's: it is as if it weren't there."""
    victim, thief = scene.lane(), scene.lane()
    await victim.play("hers", "her-run", "what she said")
    before = (await victim.load_log("hers")).envelopes
    answers = await ask_for(thief, "GET", "/api/threads/hers", "/api/threads/hers/events")
    answers |= await ask_for(thief, "GET", "/api/runs/her-run")
    answers |= await ask_for(thief, "POST", "/api/runs/her-run/abort")
    answers |= await ask_for(thief, "DELETE", "/api/threads/hers", "/v1/responses/resp_her-run")
    answers |= await ask_for(thief, "GET", "/v1/responses/resp_her-run")
    answers |= await ask_for(thief, "POST", "/v1/responses/resp_her-run/cancel")
    async with thief.connect() as client:
        await client.abort("her-run")
        answers.add((await client.until_type("error"))["code"])
        follower = await client.subscribe("hers")
        await thief.finish(client, "hers", "his-run", "of his own")
        await client.until_true(lambda: follower.has_ended("his-run"))
        assert follower.text == "of his own "
    assert (await victim.load_log("hers")).envelopes == before
    return answers


async def ask_for(lane: Lane, method: str, *paths: str) -> set[str]:
    async with lane.server.http(lane.token) as http:
        return {str((await http.request(method, path)).status_code) for path in paths}
