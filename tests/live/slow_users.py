"""An authenticator that takes its time, in the server that loads this module.

Served as `--agent name=slow_users:holder`. What it does with a token, the token's own claims say.
With `HASTY_JUDGE` in its environment the server doesn't wait for long, and for a few tokens only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

from isolane.auth import judge
from isolane.auth.providers import Issuers
from isolane.auth.tokens import open_token

if TYPE_CHECKING:
    from isolane.contracts import Identity, StopSignal

POLL_S: Final = 0.02
_authenticate: Final = Issuers.authenticate


async def _authenticate_slowly(self: Issuers, token: str) -> Identity:
    """Judge a token once the file is there that its claim `gate` names.

    With the claim `deaf` nobody can cancel that, and `exits` ends the process. `form` says how
    accents are written in the name that it finds.
    """
    claims = open_token(token).claims
    if claims.get("exits"):
        sys.exit("an authenticator that wants to end the process")
    while isinstance(claims.get("gate"), str) and not Path(claims["gate"]).exists():  # noqa: ASYNC240 - a file
        try:
            await asyncio.sleep(POLL_S)
        except asyncio.CancelledError:
            if not claims.get("deaf"):
                raise
    found = await _authenticate(self, token)
    form = claims.get("form")
    return replace(found, user_id=normalize(form, found.user_id)) if form else found


if "HASTY_JUDGE" in os.environ:
    judge.TIMEOUT_S = 1.0  # type: ignore[misc]
    judge.PENDING_MAX = 4  # type: ignore[misc]

Issuers.authenticate = _authenticate_slowly  # type: ignore[method-assign]


async def holder(
    input: object,  # noqa: A002  # AG-UI's name for it
    context: object,
    stop: StopSignal,
) -> AsyncIterator[str]:
    """Say a word, and the rest never, unless it is stopped."""
    del input, context
    yield "word"
    await stop.wait()
