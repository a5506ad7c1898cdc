"""The listening sockets of the server, bound before anything else is opened."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import Any, Final

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; Linux has the same limit since 5.4."""
SAME_PORT_TRIES: Final = 20
"""Tries for one port on all addresses, because the system picks it for one, and it may be taken on
another."""

_Address = tuple[int, Any]


class CannotListen(Exception):
    """The server can't listen at this host and port; one sentence says why and what to do."""


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host`, all with one port; with 0 the system picks the port.

    The sockets listen at once, so that of two servers that start together one is refused. Clients
    that connect wait until the server accepts.

    Raises:
        CannotListen: No socket can listen there; the text says why.
    """
    addresses = _resolve(host, port)
    for _ in range(SAME_PORT_TRIES):
        try:
            return _listen_on_all(addresses)
        except OSError as error:
            if port != 0 or error.errno != errno.EADDRINUSE:
                raise CannotListen(_sentence(error, host, port)) from error
    raise CannotListen(f"No port is free on every address of {host}: choose one with --port.")


def _resolve(host: str, port: int) -> list[_Address]:
    """Return the addresses of `host`, each once.

    An empty host means all addresses of the machine.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise CannotListen(
            f"--host {host} can't be resolved: give an address of this machine, like 127.0.0.1."
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen_on_all(addresses: list[_Address]) -> list[socket.socket]:
    """Listen on each address that this machine has, or raise the last error."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as stack:
        for family, (host, port, *rest) in addresses:
            # The port that the system picked for the first address is used for the others too.
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_listen(family, (host, chosen, *rest)))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error  # a name like localhost may have an address that is switched off
            else:
                stack.push(sockets[-1])
        stack.pop_all()
    if not sockets and missing is not None:
        raise missing
    return sockets


_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    with ExitStack() as stack:
        one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        one.settimeout(0)  # non-blocking, for an event loop
        if os.name == "posix":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
        stack.pop_all()
    return one


def _sentence(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} of {host} is taken: stop what listens there, or choose a --port."
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"--host {host} is no address of this machine: give one, like 127.0.0.1."
        case errno.EACCES | errno.EPERM:
            return f"Port {port} needs rights that this user lacks: choose a --port above 1023."
        case _:
            return f"Can't listen on port {port} of {host}: {error.strerror}."
