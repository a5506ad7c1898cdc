"""A balancer of TCP: `python balancer.py PORT TARGET…` leads each connection to the next target.

It knows nothing of what passes, and sticks to nobody. A target that doesn't answer is passed over.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import cycle
from typing import Final

HOST: Final = "127.0.0.1"
CHUNK: Final = 64 * 1024


async def balance(port: int, targets: list[int]) -> None:
    """Lead connections until the process is ended; say so in a line once they are taken."""
    turns = cycle(targets)

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in targets:
            try:
                there = await asyncio.open_connection(HOST, next(turns), limit=CHUNK)
            except OSError:
                continue
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
            return
        writer.transport.abort()

    server = await asyncio.start_server(lead, HOST, port, limit=CHUNK)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes: an end as an end, and a reset as a reset."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(balance(int(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
