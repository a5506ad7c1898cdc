"""A published client in a Node process of its own, driven from Python.

Commands go in as JSON lines and are answered; whatever the client lets an application see is kept
in `events`, in order, so nothing is missed that came before a question.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from shutil import which
from typing import Any, Final, TypeAlias, TypeVar

JsonObject: TypeAlias = dict[str, Any]

NODE_FOLDER: Final = Path(__file__).with_name("node")
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A dump of a long conversation is one line; asyncio's own limit is 64 KiB."""


class PageError(Exception):
    """The driver refused a command or died; the text says which and why."""


@dataclass(eq=False)
class NodePage:
    """One driver; open it with `node_page()`. Every wait raises TimeoutError in the end."""

    process: asyncio.subprocess.Process
    events: list[JsonObject] = field(default_factory=list)
    _answers: dict[int, asyncio.Future[JsonObject]] = field(default_factory=dict)
    _ids: count[int] = field(default_factory=count)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def _order(self, name: str, *, timeout_s: float = 10.0, **options: object) -> JsonObject:
        order_id = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._answers[order_id] = future
        line = json.dumps({"id": order_id, "do": name, **options})
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        try:
            answer: JsonObject = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"{name}: no answer in {timeout_s} s; {self._latest()}") from None
        finally:
            del self._answers[order_id]
        if "failure" in answer:
            raise PageError(f"{name}: {answer['failure']}")
        return answer

    def _latest(self) -> str:
        return "the latest events: " + json.dumps(self.events[-8:])[:4000]

    async def listen(self) -> None:
        """Read the driver's lines until it ends; whoever waits for an answer then is told."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            await self._take(json.loads(line))
        for future in self._answers.values():
            if not future.done():
                future.set_exception(PageError(f"the driver ended; {self._latest()}"))

    async def _take(self, message: JsonObject) -> None:
        if "answer" in message:
            future = self._answers.get(message["answer"])
            if future is not None and not future.done():
                future.set_result(message)
            return
        async with self._news:
            self.events.append(message)
            self._news.notify_all()

    async def quit(self) -> None:
        """Let the driver go; it ends with its input even where it doesn't listen any more."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 5.0)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


_Page = TypeVar("_Page", bound=NodePage)


def find_node() -> str:
    """Return the Node of this Python's environment, or else the machine's."""
    near = str(Path(sys.executable).parent)
    found = which("node", path=near) or which("node")
    if found is None:
        raise PageError("there is no node on the PATH; the live tests need Node 20 or newer")
    return found


@asynccontextmanager
async def node_page(script: str, kind: type[_Page]) -> AsyncIterator[_Page]:
    """Start a driver process, and end it with the block; `script` is a file in `node`."""
    if not (NODE_FOLDER / "node_modules").is_dir():
        raise PageError("the clients are not installed; run: npm ci --prefix tests/live/node")
    process = await asyncio.create_subprocess_exec(
        find_node(),
        str(NODE_FOLDER / script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    page = kind(process)
    listener = asyncio.create_task(page.listen())
    try:
        yield page
    finally:
        await page.quit()
        await listener
