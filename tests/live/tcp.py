"""TCP sockets as the tests need them: small buffers, a reset, and the kernel's own table."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from tests.live.server import LOOPBACK, Looks, Server

ENDED_STATES: Final = {"05", "06", "07"}
"""FIN_WAIT2, TIME_WAIT and CLOSE in the kernel's table. Such a socket holds no bytes any more."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for 0 s: closing resets the connection, and unsent bytes are lost."""


def shrink_buffers(own: socket.socket) -> None:
    """Make the buffers of an unconnected socket small on both sides; loopback's take megabytes."""
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    # The server's buffer grows with the size of a segment, which is 64 KiB on loopback.
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)


def small_socket(port: int) -> socket.socket:
    """Return a socket with small buffers that is connected to a port of this machine."""
    own = socket.socket()
    shrink_buffers(own)
    own.connect((LOOPBACK, port))
    own.settimeout(0)
    return own


def drop(transport: asyncio.WriteTransport, *, is_reset: bool) -> None:
    """End a connection at once, with a reset, or with the bare end of the stream."""
    raw: socket.socket = transport.get_extra_info("socket")
    if is_reset and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()


class Row(NamedTuple):
    """One TCP socket in the kernel's table, with or without a process."""

    port: int
    peer_port: int
    state: str
    unsent: int

    @classmethod
    def parse(cls, line: str) -> Row:
        """Read a line of `/proc/net/tcp`."""
        _, local, remote, state, queues, *_ = line.split()
        port, peer_port = (int(address.rpartition(":")[2], 16) for address in (local, remote))
        return cls(port, peer_port, state, int(queues.partition(":")[0], 16))


def held_for(server: Server, peer_port: int) -> list[Row]:
    """Return the server's ends of a connection that are open or still hold unsent bytes."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [Row.parse(line) for line in lines]
    return [
        row
        for row in rows
        if (row.port, row.peer_port) == (server.port, peer_port)
        and (row.state not in ENDED_STATES or row.unsent)
    ]


async def wait_until_let_go(server: Server, peer_port: int, *, within_s: float) -> None:
    """Wait until the kernel holds nothing for a peer; raise TimeoutError with what it holds."""
    async for _ in Looks(within_s):
        if not held_for(server, peer_port):
            return
    raise TimeoutError(f"after {within_s} s still held: {held_for(server, peer_port)}")
