"""Limits on the speed at which frames and bodies of one user are read."""

from __future__ import annotations

import asyncio
from typing import Final

from isolane.contracts import Limits

LARGE_BYTES: Final = 64 * 1024
"""Bytes of the largest frame that is read without asking for the user's pace."""


def check_rate(limits: Limits, user_id: str) -> None:
    """Count one frame or request that runs an agent.

    Raises:
        LimitExceeded: The user had all of this minute. The error says when to come back.
    """
    limits.hit(user_id, "framesPerMinute")


async def pace(limits: Limits, user_id: str, size: int) -> None:
    """Wait until a large frame of the user, of `size` bytes, may be read.

    Safe to cancel: the frame isn't counted then.
    """
    while size > LARGE_BYTES and (wait_s := limits.weigh(user_id, size)):  # noqa: ASYNC110 - a pace
        await asyncio.sleep(wait_s)  # the pace that is asked of the user
