"""What the package `ai` says to recorded streams of chunks: all of them in one Node process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from tests.live.agui import NODE_FOLDER, AguiError

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class UIVerdict:
    """What the package makes of one stream."""

    refused: list[str]
    """Chunks that its schema refuses, each with the reason."""
    failures: list[str]
    """What its fold fails at: in a page each of them ends the chat."""
    message: dict[str, Any] | None
    """The message that its fold leaves."""
    invalid: str | None
    """Why it wouldn't take that message back, if it wouldn't."""


def judge_chunks(streams: Iterable[Sequence[Chunk]], *, timeout_s: float = 300) -> list[UIVerdict]:
    """Return the package's verdict on each stream, in order."""
    node = which("node", path=str(Path(sys.executable).parent)) or which("node")
    if node is None:
        raise AguiError("there is no node on the PATH; the live tests need Node 20 or newer")
    lines = [json.dumps({"chunks": list(chunks)}) for chunks in streams]
    done = subprocess.run(
        [node, str(NODE_FOLDER / "aisdk_judge.mjs")],
        input="\n".join(lines).encode(),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise AguiError(f"the judge ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    verdicts = [UIVerdict(**json.loads(line)) for line in done.stdout.split(b"\n")[:-1]]
    assert len(verdicts) == len(lines)
    return verdicts
