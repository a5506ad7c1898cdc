"""The command `isolane check`: takes rounds, prints their findings, and returns an exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import click

from isolane.check.finding import Misuse, Round
from isolane.check.layers import take_round
from isolane.check.report import summarise, to_json, to_lines
from isolane.check.target import parse_target
from isolane.check.walk import Request

HELD: Final = 0
BROKE: Final = 1
TOKENS_MAX: Final = 2
"""Maximum number of tokens: one per user, and two users for isolation."""


def check(
    url: str,
    tokens: Sequence[str],
    metrics_token: str | None,
    *,
    as_json: bool,
    repeat: int,
    has_page: bool = True,
) -> int:
    """Take up to `repeat` rounds, print them, and return the exit code.

    Raises:
        click.UsageError: The request can't be tried; the exit code is 2.
    """
    try:
        request = read_request(url, tokens, metrics_token, has_page=has_page)
        rounds, taken = asyncio.run(_take_rounds(request, repeat, is_told=not as_json))
    except Misuse as error:
        raise click.UsageError(str(error)) from error
    text = (
        to_json(request.target.http_url, rounds, taken) if as_json else "\n".join(to_lines(taken))
    )
    click.echo(text)
    return HELD if taken.evidence is None else BROKE


def read_request(
    url: str, tokens: Sequence[str], metrics_token: str | None, *, has_page: bool = True
) -> Request:
    """Return the request that the arguments describe.

    Raises:
        Misuse: An argument is wrong.
    """
    if len(tokens) > TOKENS_MAX:
        raise Misuse(f"--token may stand {TOKENS_MAX} times, and stands {len(tokens)} times")
    if not all(
        token.isascii() and token.isprintable() and token.split() == [token] for token in tokens
    ):
        raise Misuse("a token is empty, or has a character that no token has")
    return Request(parse_target(url), tokens, metrics_token, has_page)


async def _take_rounds(request: Request, repeat: int, *, is_told: bool) -> tuple[int, Round]:
    """Return the number of rounds, and the last round, which is the first broken one if any."""
    number = 0
    while True:
        number, taken = number + 1, await take_round(request)
        if is_told and repeat > 1:
            click.echo(f"round {number}: {summarise(taken)}")
        if taken.evidence is not None or number == repeat:
            return number, taken
        await asyncio.sleep(taken.pause_s)  # a pause within the gateway's rate limit
