"""AG-UI's published HTTP client, driven from Python through `node/agui.mjs`."""

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
from typing import Any, Final

from tests.live.client import Frame

NODE_FOLDER: Final = Path(__file__).with_name("node")
LINE_BYTES_MAX: Final = 64 * 1024 * 1024


class AguiError(Exception):
    """The driver refused a command or died."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the client let an application see of a run, or of a whole replay."""

    events: list[Frame]
    failures: list[str]
    """Why the run failed, in the client's words: its verifier's too."""
    complaints: list[str]
    """What it told the console meanwhile."""
    new_messages: list[Frame]
    messages: list[Frame]
    state: Any = None
    """The shared state that the agent has after the run."""

    @property
    def types(self) -> list[str]:
        """The types of the events."""
        return [event["type"] for event in self.events]

    @property
    def outline(self) -> list[tuple[str, str]]:
        """Role and content of each message of the conversation."""
        return [(message["role"], message.get("content", "")) for message in self.messages]


@dataclass
class AguiClient:
    """A Node process with any number of agents by name."""

    process: asyncio.subprocess.Process
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _ids: count[int] = field(default_factory=count)

    async def open(
        self, agent: str, url: str, token: str, thread_id: str, *, is_old: bool = False
    ) -> None:
        """Open an `HttpAgent` for a thread; an old one is of AG-UI 0.0.x, as CopilotKit has."""
        await self._order(
            "open", agent=agent, url=url, token=token, threadId=thread_id, isOld=is_old
        )

    async def run(
        self, agent: str, text: str | None, *, run_id: str, timeout_s: float = 15.0, **more: object
    ) -> Heard:
        """Say something, or nothing, and run; returns when the client is done with the run."""
        said = [{"id": f"{run_id}-question", "role": "user", "content": text}]
        messages = [] if text is None else said
        named = {"agent": agent, "messages": messages, "runId": run_id, **more}
        return _heard(await self._order("run", timeout_s=timeout_s, **named))

    async def set(self, agent: str, **changes: Any) -> None:  # noqa: ANN401 - any JSON
        """Let an application change the agent's `messages` or its `state`."""
        await self._order("set", agent=agent, **changes)

    async def abort(self, agent: str) -> None:
        """Let the client stop listening."""
        await self._order("abort", agent=agent)

    async def replay(self, url: str, token: str, *, ends: int) -> Heard:
        """Send the events of an address through the client's verifier, until `ends` runs ended."""
        return _heard(await self._order("replay", url=url, token=token, ends=ends))

    async def listen(self) -> None:
        """Take the driver's answers until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            answer = json.loads(line)
            self._answers.pop(answer["answer"]).set_result(answer)
        for future in self._answers.values():
            future.set_exception(AguiError("the driver ended"))

    async def _order(self, name: str, *, timeout_s: float = 15.0, **options: object) -> Any:  # noqa: ANN401
        number = next(self._ids)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": number, "do": name, **options}).encode() + b"\n")
        answer = await asyncio.wait_for(asyncio.shield(future), timeout_s)
        if "failure" in answer:
            raise AguiError(f"{name}: {answer['failure']}")
        return answer


def _heard(answer: dict[str, Any]) -> Heard:
    return Heard(
        answer["events"],
        answer["failures"],
        answer["complaints"],
        answer.get("newMessages", []),
        answer.get("messages", []),
        answer.get("state"),
    )


@asynccontextmanager
async def agui_client() -> AsyncIterator[AguiClient]:
    """Start a driver process, and end it with the block."""
    if not (NODE_FOLDER / "node_modules").is_dir():
        raise AguiError("the clients are not installed; run: npm ci --prefix tests/live/node")
    node = which("node", path=str(Path(sys.executable).parent)) or which("node")
    if node is None:
        raise AguiError("there is no node on the PATH; the live tests need Node 20 or newer")
    process = await asyncio.create_subprocess_exec(
        *(node, str(NODE_FOLDER / "agui.mjs")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    client = AguiClient(process)
    listener = asyncio.create_task(client.listen())
    try:
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
        await listener
