"""Tries whether an agent of a published framework keeps its users apart.

    python tests/beside/try_memory.py langgraph

`scripts/beside.py --try` runs it in the environment of each framework.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Protocol

from isolane.testing import assert_keeps_users_apart

TELL: Final = "Note {mark}"
ASK: Final = "Read my notes to me."

Agent = Callable[[Any], AsyncGenerator[object, None]]


class Framework(Protocol):
    """A module of this folder."""

    def new_agent(self) -> Agent:
        """Return an agent with a memory of its own, which says all that was said in a thread.

        What it says comes from the framework's memory, and not from `input.messages`.
        """
        ...


async def try_framework(framework: Framework) -> str:
    """Return what mixes two users when the agent asks for the ids that clients choose.

    Raises AssertionError when it mixes them by the ids that it is given, or never does: then the
    framework no longer remembers as this test means it to.
    """
    await assert_keeps_users_apart(framework.new_agent(), tell=TELL, ask=ASK)
    raw: Any = framework.new_agent()
    raw.raw_ids = True
    try:
        await assert_keeps_users_apart(raw, tell=TELL, ask=ASK)
    except AssertionError as error:
        return str(error).partition(",")[0]
    raise AssertionError("by the ids that clients choose it keeps its users apart, too")


def main(name: str) -> int:
    """Try the framework of that name; 1 when users meet in it."""
    framework: Any = importlib.import_module(f"tests.beside.{name}_agent")
    try:
        mixed = asyncio.run(try_framework(framework))
    except AssertionError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    sys.stdout.write(f"{name} keeps users apart; by the ids that clients choose, {mixed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
