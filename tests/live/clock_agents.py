"""An agent that sets the clock of its process. Importing this file puts its clock in the way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

_real_ns: Final = time.time_ns
_ahead_s = 0


def _time_ns() -> int:
    return _real_ns() + _ahead_s * 1_000_000_000


def _time() -> float:
    return _time_ns() / 1_000_000_000


time.time_ns = _time_ns
time.time = _time


async def setter(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002 - AG-UI's word for it
    """Set the clock ahead of the right time by so many seconds."""
    global _ahead_s  # noqa: PLW0603 - a process has one clock
    _ahead_s = int(str(input.messages[-1].content))
    yield "set"
