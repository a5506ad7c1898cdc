"""Answers every byte with itself, from a process of its own: what the machine alone is late.

Run as a script, with nothing of the project: it prints the port at which it listens, and ends when
its stdin does, so that it outlives nobody.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

LOOPBACK: Final = "127.0.0.1"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_answer, LOOPBACK, 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
