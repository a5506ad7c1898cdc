"""The smallest agent, which repeats the question word by word.

Serve it from this folder: `isolane serve --agent echo:agent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from ag_ui.core import RunAgentInput

PACE_S: Final = 0.1
"""Seconds between two words, so that a person sees them come."""


async def agent(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002 - the name of AG-UI's field
    """Repeat the newest question."""
    for word in question_of(input).split():
        yield f"{word} "
        await asyncio.sleep(PACE_S)


def question_of(run_input: RunAgentInput) -> str:
    """Return the user's last text; a question may also have pictures."""
    asked = [message for message in run_input.messages if message.role == "user"]
    content = asked[-1].content if asked else ""
    if isinstance(content, str):
        return content
    return " ".join(part.text for part in content if part.type == "text")
