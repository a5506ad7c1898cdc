"""Agents of which a part asks for the end of the process, each in another way."""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from ag_ui.core import RunAgentInput


async def _leave() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def _interrupt() -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _gather() -> None:
    await asyncio.gather(_leave(), _for_ever())


async def _gather_interrupt() -> None:
    await asyncio.gather(_interrupt(), _for_ever())


async def _task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_leave())
        group.create_task(_for_ever())


async def _tool() -> None:
    """Parse a command line that is wrong in a task, as frameworks run their tools."""
    await asyncio.create_task(_parse())


async def _parse() -> None:
    argparse.ArgumentParser(exit_on_error=True).parse_args(["--unknown"])


async def _call_soon() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await _for_ever()


async def _call_later() -> None:
    asyncio.get_running_loop().call_later(0.01, sys.exit, 3)
    await _for_ever()


async def _done_callback() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(lambda _task: sys.exit(3))
    await _for_ever()


async def _thread() -> None:
    await asyncio.create_task(asyncio.to_thread(sys.exit, 3))


_start_from_thread: Final = asyncio.run_coroutine_threadsafe
"""Called so because no line of a server's log may hold the word "coroutine"."""


async def _executor_that_calls_back() -> None:
    """Run a task from a thread of the executor, as code that isn't asynchronous does."""
    loop = asyncio.get_running_loop()

    def work() -> None:
        _start_from_thread(_leave(), loop).result()

    await loop.run_in_executor(None, work)


async def stray_thread() -> None:
    """Have a thread that knows nothing of the run ask for the end; return once it did."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def ask() -> None:
        asked.set()
        sys.exit(3)

    threading.Thread(target=lambda: loop.call_soon_threadsafe(ask)).start()
    await asked.wait()


async def _nobody_waits() -> None:
    task = asyncio.create_task(_leave())
    await _for_ever()
    await task


WAYS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "gather": _gather,
    "gather interrupt": _gather_interrupt,
    "task group": _task_group,
    "tool": _tool,
    "call soon": _call_soon,
    "call later": _call_later,
    "done callback": _done_callback,
    "thread": _thread,
    "executor": _executor_that_calls_back,
    "nobody waits": _nobody_waits,
}


async def leaver(input: RunAgentInput) -> AsyncIterator[object]:  # noqa: A002
    """Leave in the way that the question names."""
    if input.messages[-1].content == "stray thread":
        await stray_thread()
        yield "still here"
        return
    yield "almost "
    await WAYS[str(input.messages[-1].content)]()
    yield "too late"
