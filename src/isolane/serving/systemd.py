"""Notifications to systemd for services with `Type=notify`: the protocol of sd_notify(3)."""

from __future__ import annotations

import socket
from typing import Final

import structlog

ADDRESS_VARIABLE: Final = "NOTIFY_SOCKET"
"""Environment variable with the path of systemd's socket."""
READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_SEND_TIMEOUT_S: Final = 1.0
_log = structlog.get_logger(__name__)


def notify(address: str | None, state: str) -> None:
    """Send a state to systemd's datagram socket; do nothing without an address.

    A socket that can't be reached causes a warning in the log, and no error.
    """
    if not address:
        return
    # A leading @ stands for the zero byte of an abstract socket, because variables can't hold one.
    place = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(_SEND_TIMEOUT_S)
            line.connect(place)
            line.send(state.encode())
    except OSError as error:
        _log.warning("systemd_notify_failed", state=state, address=address, reason=str(error))
