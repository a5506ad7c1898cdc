"""Guessing passwords over HTTP: slow for who guesses, and no harm to the owner."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from time import monotonic
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.people import PASSWORD, Person, new_person, sign_in
from tests.live.server import Server
from tests.live.stage import SCRIPT, shared_server

from isolane.auth.guessing import ATTEMPTS_PER_MINUTE, DELAY_S, QUIET_ATTEMPTS_PER_HOUR

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRONG: Final = "not the password"
TOO_LONG: Final = "no password, and so long that it costs no hashing " * 30
"""An attempt as any, for where there are many of them."""
PATIENCE_S: Final = 30.0
"""A password costs a tenth of a second of two threads, and the machine may be busy."""
server = shared_server(SCRIPT)
_numbers: Final = count(1)


@pytest_asyncio.fixture(loop_scope="module")
async def ada(server: Server) -> Person:
    return await new_person(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with server.http() as http:
        http.timeout = httpx.Timeout(PATIENCE_S)
        yield http


def somewhere() -> dict[str, str]:
    """Return what a proxy on this machine says of somebody at an address that nobody else has."""
    number = next(_numbers)
    return {"x-forwarded-for": f"198.51.{number // 250}.{number % 250 + 1}"}


def told(answer: httpx.Response) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return an answer without what differs between any two: its id, its date, the time left."""
    headers = {
        name: value for name, value in answer.headers.items() if name not in {"date", "retry-after"}
    }
    body = answer.json()
    assert re.fullmatch(r"err_[0-9a-f-]+", body.pop("errorId"))
    if answer.status_code == 429:
        assert 0 < body.pop("retryAfterMs") <= 60_000
        assert int(answer.headers["retry-after"]) >= 1
        headers.pop("content-length")  # of which the time left is a part
    return answer.status_code, headers, body


async def test_after_some_attempts_a_minute_it_is_told_when_to_come_back(
    ada: Person, http: httpx.AsyncClient
) -> None:
    here = somewhere()
    answers = [await sign_in(http, ada.name, WRONG, **here) for _ in range(ATTEMPTS_PER_MINUTE + 2)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [*[401] * ATTEMPTS_PER_MINUTE, 429, 429]
    _, _, body = told(answers[-1])
    assert body["code"] == "limit_exceeded"
    assert body["detail"].startswith("signInsPerAccount")
    right = await sign_in(http, ada.name, **here)
    assert right.status_code == 429, "or the answer would tell which one was right"
    assert "set-cookie" not in right.headers


async def test_names_that_are_no_accounts_are_told_the_same_throughout(
    ada: Person, http: httpx.AsyncClient
) -> None:
    known, unknown, odd = [
        [
            told(await sign_in(http, name, password, **here))
            for here in [somewhere()]
            for password in (WRONG, *[TOO_LONG] * ATTEMPTS_PER_MINUTE)
        ]
        for name in (ada.name, "nobody-at-all", "../no|name\0")
    ]
    assert known == unknown == odd
    assert Counter(status for status, _, _ in known) == {401: ATTEMPTS_PER_MINUTE, 429: 1}


async def test_owner_signs_in_from_elsewhere_while_somebody_guesses(
    ada: Person, http: httpx.AsyncClient
) -> None:
    there = somewhere()
    for _ in range(ATTEMPTS_PER_MINUTE + 1):
        await sign_in(http, ada.name, TOO_LONG, **there)
    assert (await sign_in(http, ada.name, **there)).status_code == 429
    assert (await sign_in(http, ada.name, **somewhere())).status_code == 200


async def test_account_that_all_the_world_guesses_at_lets_its_owner_in(
    ada: Person, http: httpx.AsyncClient
) -> None:
    for _ in range(QUIET_ATTEMPTS_PER_HOUR):
        answer = await sign_in(http, ada.name, TOO_LONG, **somewhere())
        assert answer.status_code == 401
    began = monotonic()
    assert (await sign_in(http, ada.name, **somewhere())).status_code == 200
    assert monotonic() - began >= DELAY_S, "by then each attempt waits"


async def test_a_hundred_attempts_at_once_are_a_hundred(
    ada: Person, http: httpx.AsyncClient
) -> None:
    here = somewhere()
    answers = await asyncio.gather(*(sign_in(http, ada.name, TOO_LONG, **here) for _ in range(100)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[401] <= ATTEMPTS_PER_MINUTE
    assert statuses[401] + statuses[429] == 100
    assert (await sign_in(http, ada.name, **here)).status_code == 429


async def test_signing_in_forgives_the_address(ada: Person, http: httpx.AsyncClient) -> None:
    here = somewhere()
    for _ in range(2):
        for _ in range(ATTEMPTS_PER_MINUTE - 1):
            assert (await sign_in(http, ada.name, TOO_LONG, **here)).status_code == 401
        assert (await sign_in(http, ada.name, **here)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        rb'{"username": "\ud800", "password": "long enough"}',
        rb'{"username": "ada", "password": "\ud800 long enough"}',
        b'{"username": "' + b"x" * 100_000 + b'", "password": "long enough"}',
        rb'{"username": "\u0000", "password": "\u0000"}',
    ],
)
async def test_odd_names_and_passwords_are_refused_as_any(
    http: httpx.AsyncClient, body: bytes
) -> None:
    headers = {"content-type": "application/json", **somewhere()}
    answer = await http.post("/api/session", content=body, headers=headers)
    assert answer.status_code in {400, 401, 413, 422}
    assert PASSWORD not in answer.text
