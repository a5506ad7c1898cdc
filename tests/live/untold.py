"""What no server may ever write down, and the search for it in what servers wrote.

The test process notes each secret where it makes or gets one: tokens, tickets, cookies, passwords,
and what users say. Every server's output is searched for all of them when it ends.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import httpx

SHORTEST: Final = 12
"""Characters; what is shorter, or is made of few letters, stands in any log by chance."""
ENOUGH: Final = 24
"""Characters that tell a secret: a log may have cut it off."""
LETTERS_MIN: Final = 5
_TOKEN: Final = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}")
"""The first letters of a JWT's header and the beginning of its claims: nobody noted it, perhaps."""

_pieces: Final[defaultdict[str, set[str]]] = defaultdict(set)
"""What is searched for, by its first `SHORTEST` characters: so the search takes as long for ten
thousand secrets as for one."""


def note(secret: str) -> str:
    """Remember that nobody may write this down, and return it."""
    parts = secret.split(".")
    # The head of a token says only that it is one, as that of every other does.
    for part in parts[1:] if len(parts) == 3 and " " not in secret else [secret]:
        for piece in (part[:ENOUGH], json.dumps(part)[1:-1][:ENOUGH]):
            if len(piece) >= SHORTEST and len(set(piece)) >= LETTERS_MIN:
                _pieces[piece[:SHORTEST]].add(piece)
    return secret


def find_leaks(lines: Iterable[str]) -> list[str]:
    """Return the lines that tell a secret which was noted, or anything that looks like a token."""
    return [line for line in lines if _TOKEN.search(line) or _tells(line)]


def _tells(line: str) -> bool:
    begins = range(len(line) - SHORTEST + 1)
    if _pieces.keys().isdisjoint(line[at : at + SHORTEST] for at in begins):
        return False
    return any(
        line.startswith(piece, at)
        for at in begins
        for piece in _pieces.get(line[at : at + SHORTEST], ())
    )


# --- what goes over HTTP --------------------------------------------------------------------------


async def note_request(request: httpx.Request) -> None:
    """Note the credentials of a request, the password in it, and what its user says."""
    note(request.headers.get("authorization", "").rpartition(" ")[2])
    for cookie in request.headers.get("cookie", "").split("; "):
        note(cookie.partition("=")[2])
    try:
        body = _object(request.content)
    except httpx.RequestNotRead:  # a body that is made while it is sent
        return
    messages = body.get("messages")
    listed = messages if isinstance(messages, list) else []
    said = [each.get("content") for each in listed if isinstance(each, dict)]
    for secret in (body.get("password"), *said):
        if isinstance(secret, str):
            note(secret)


async def note_response(response: httpx.Response) -> None:
    """Note the cookies and the ticket that a server gave out."""
    for cookie in response.headers.get_list("set-cookie"):
        note(cookie.partition(";")[0].partition("=")[2])
    if response.request.url.path.endswith("/api/tickets"):
        ticket = _object(await response.aread()).get("ticket")
        note(ticket if isinstance(ticket, str) else "")


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
