"""What `@ag-ui/client` says to recorded streams: all of them in one Node process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

from tests.live.agui import NODE_FOLDER, AguiError

Event = dict[str, Any]
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """A stream as bytes, event by event, and the messages that are said to come of it."""

    payloads: Sequence[bytes]
    messages: Sequence[Message] = ()

    @classmethod
    def of(cls, events: Iterable[Event], *, messages: Sequence[Message] = ()) -> Recording:
        """Record events that are still values."""
        return cls([json.dumps(event).encode() for event in events], messages)

    @property
    def line(self) -> bytes:
        """The order to judge it; the events' own bytes, not what this side reads in them."""
        messages = json.dumps(self.messages).encode()
        return b'{"events":[%b],"messages":%b}\n' % (b",".join(self.payloads), messages)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the client makes of one recording."""

    failure: str | None
    """Why its verifier ended the run, in its own words."""
    taken: int
    """How many events it took before that."""
    malformed: list[str]
    """Events and messages that its schemas refuse."""
    messages: list[Message] = field(default_factory=list)
    """What its own fold leaves; empty after a failure."""


def judge(recordings: Iterable[Recording], *, timeout_s: float = 600.0) -> list[Verdict]:
    """Return the client's verdict on each recording, in order."""
    if not (NODE_FOLDER / "node_modules").is_dir():
        raise AguiError("the clients are not installed; run: npm ci --prefix tests/live/node")
    node = which("node", path=str(Path(sys.executable).parent)) or which("node")
    if node is None:
        raise AguiError("there is no node on the PATH; the live tests need Node 20 or newer")
    lines = [recording.line for recording in recordings]
    done = subprocess.run(
        [node, str(NODE_FOLDER / "judge.mjs")],
        input=b"".join(lines),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise AguiError(f"the judge ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    verdicts = [Verdict(**json.loads(line)) for line in done.stdout.split(b"\n")[:-1]]
    assert len(verdicts) == len(lines)
    return verdicts
