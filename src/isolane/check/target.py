"""The address of a deployment, and secrets that must never be printed."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from isolane.check.finding import Misuse

_IS_TLS: Final = {"http": False, "ws": False, "https": True, "wss": True}
_WINDOW_CHARACTERS: Final = 8
"""Characters in a row of a secret that may never be shown together."""


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment: host, port and the path of its routes."""

    host: str
    port: int
    path: str
    is_tls: bool

    @property
    def http_url(self) -> str:
        """Address of its HTTP routes."""
        return f"{'https' if self.is_tls else 'http'}://{self._place}"

    @property
    def websocket_url(self) -> str:
        """Address of its sockets."""
        return f"{'wss' if self.is_tls else 'ws'}://{self._place}"

    @property
    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.path}"

    def create_tls(self) -> ssl.SSLContext | None:
        """Return the TLS context that verifies the certificate; None without TLS."""
        return ssl.create_default_context() if self.is_tls else None


def parse_target(url: str) -> Target:
    """Return the target of a URL, whose path may end in `/ws`.

    Raises:
        Misuse: The URL can't be used.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Misuse(f"the URL can't be read: {error}") from error
    is_tls = _IS_TLS.get(parts.scheme)
    if is_tls is None or not host:
        raise Misuse("the URL must begin with http://, https://, ws:// or wss:// and name a host")
    if parts.username or parts.query or parts.fragment:
        raise Misuse("the URL may have scheme, host, port and path only")
    path = parts.path.rstrip("/").removesuffix("/ws")
    return Target(host, port or (443 if is_tls else 80), path, is_tls)


def find_secret(text: str, secrets: Iterable[str]) -> list[tuple[int, int]]:
    """Return the places in `text` of any eight characters in a row of a secret."""
    found = []
    for secret in secrets:
        size = min(_WINDOW_CHARACTERS, len(secret))
        windows = {secret[place : place + size] for place in range(len(secret) - size + 1)}
        found += [
            (place, place + size)
            for place in range(len(text) - size + 1)
            if size and text[place : place + size] in windows
        ]
    return sorted(found)


def hide_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every part of a secret replaced."""
    shown: list[str] = []
    end = 0
    for begin, stop in find_secret(text, secrets):
        if begin > end or not shown:
            shown += [text[end:begin], "…"]
        end = max(end, stop)
    return "".join([*shown, text[end:]])
