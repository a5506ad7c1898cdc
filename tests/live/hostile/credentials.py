"""Credentials that are nobody's: tokens bent one by one, in storms, and tickets used again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from itertools import cycle
from typing import Final

from tests.live.client import connect
from tests.live.forgery import (
    HUGE,
    ODD_CLAIMS,
    ODD_HEADERS,
    UNKNOWN_KEY_IDS,
    WRONG_CLAIMS,
    WRONG_KEYS,
    Recipe,
)
from tests.live.hostile.attack import Scene, at_once, attack
from tests.live.issuer import Key, encode_part

from isolane.auth.keys import FETCH_INTERVAL_MS

STORM: Final = 250
"""Below the failed handshakes that one address may have in a minute."""
KNOWN: Final[Mapping[str, Recipe]] = {
    **ODD_HEADERS,
    **ODD_CLAIMS,
    **WRONG_CLAIMS,
    **WRONG_KEYS,
    **UNKNOWN_KEY_IDS,
}
FORGERIES: Final[Mapping[str, tuple[str, ...]]] = {
    "tokens/none": ("none", "none in capitals", "none, and signed"),
    "tokens/public-key-as-secret": ("the public key as a secret",),
    "tokens/jku": ("jku", "x5u", "jwk", "signed by the key in it"),
    "tokens/crit": ("unknown crit", "empty crit"),
    "tokens/kid-is-a-path": ("key id is a path", "key id is SQL"),
    "tokens/no-exp": ("no expiry", "expiry null"),
    "tokens/exp-as-text": ("expiry as text", "expiry as digits"),
    "tokens/nbf": ("not yet", "not yet, as text"),
    "tokens/audience": ("another audience", "no audience"),
    "tokens/id-token": ("ID token by nonce", "ID token by hash", "ID token by its mark"),
}


def rs256(scene: Scene) -> Key:
    """Return the key whose public half is no secret, and is taken for one by servers."""
    return next(key for key in scene.corp.keys if key.algorithm == "RS256")


async def storm(scene: Scene, recipes: tuple[str, ...]) -> set[str]:
    """Knock with forged tokens, as programs and as browsers do, beside one that is right."""
    key, claims = rs256(scene), scene.corp.claims("ada")
    assert await scene.knock(f"Authorization: Bearer {key.sign(claims)}") == "101"
    forged = [KNOWN[recipe](key, claims) for recipe in recipes]
    headers = [
        header
        for token in forged
        for header in (
            f"Authorization: Bearer {token}",
            f"Sec-WebSocket-Protocol: agui.v1, bearer.{token}",
        )
    ]
    turns = cycle(headers)
    return set(await at_once(STORM, lambda: scene.knock(next(turns))))


for _name, _recipes in FORGERIES.items():
    attack(_name)(partial(storm, recipes=_recipes))


@attack("tokens/huge")
async def huge(scene: Scene) -> set[str]:
    key, claims = rs256(scene), scene.corp.claims("ada")
    answers: set[str] = set()
    for name, recipe in HUGE.items():
        token = recipe(key, claims)
        answer = await scene.knock(f"Authorization: Bearer {token}")
        if name == "a bit too long":
            answers.add(answer)
        else:  # who still talks when the answer is there may see the line break instead of it
            assert answer in {"431", "reset", "closed"}
        async with connect(scene.server.websocket_url(), key.sign(claims)) as client:
            await client.send({"type": "auth", "token": token})
            answers.add((await client.until_type("error"))["code"])
    return answers


UNKNOWN_KEYS: Final = 10_000
USERS: Final = 25


@attack("tokens/unknown-kids")
async def unknown_kids(scene: Scene) -> set[str]:
    """Renew with ten thousand keys that nobody has: the provider isn't asked for each."""
    key, before = rs256(scene), scene.corp.fetches
    began = asyncio.get_running_loop().time()

    async def one(user: int) -> set[str]:
        token = key.sign(scene.corp.claims(f"user-{user}-of-{scene.source}"))
        _, _, rest = token.partition(".")
        answers: set[str] = set()
        async with connect(scene.server.websocket_url(), token) as client:
            for number in range(UNKNOWN_KEYS // USERS):
                head = {"typ": "JWT", "alg": "RS256", "kid": f"unknown-{user}-{number}"}
                await client.send({"type": "auth", "token": f"{encode_part(head)}.{rest}"})
                answers.add((await client.until_type("error"))["code"])
        return answers

    answers = await asyncio.gather(*(one(user) for user in range(USERS)))
    took_s = asyncio.get_running_loop().time() - began
    assert scene.corp.fetches - before <= 1 + took_s * 1000 / FETCH_INTERVAL_MS
    return set().union(*answers)


# --- tickets -------------------------------------------------------------------------------------


async def redeem(scene: Scene, ticket: str, *, offered: bool = False) -> str:
    """Knock with a ticket."""
    headers = ["Sec-WebSocket-Protocol: agui.v1"] if offered else []
    return await scene.knock(*headers, path=f"/ws?ticket={ticket}")


@attack("tickets/replayed")
async def replayed(scene: Scene) -> set[str]:
    tickets = await scene.server.tickets(scene.lane().token, 10)
    for ticket in tickets:
        assert await redeem(scene, ticket) == "101"
    again = [partial(redeem, scene, ticket) for ticket in tickets]
    told = [partial(redeem, scene, ticket, offered=True) for ticket in tickets]
    return {await knock() for knock in (*again, *told)}


@attack("tickets/raced")
async def raced(scene: Scene) -> set[str]:
    (ticket,) = await scene.server.tickets(scene.lane().token)
    # So many at a time: a wave of a hundred good handshakes alone would hold up a slow machine.
    answers = await at_once(100, partial(redeem, scene, ticket), width=40)
    assert answers.count("101") == 1
    return set(answers)


@attack("tickets/expired")
async def expired(scene: Scene) -> set[str]:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(scene.tickets_died_at - loop.time())  # most tests come before this one
    return {await redeem(scene, ticket) for ticket in scene.old_tickets}
