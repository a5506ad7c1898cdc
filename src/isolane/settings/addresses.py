"""Addresses in settings: where visitors find the gateway, and which proxies are trusted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final
from urllib.parse import quote, unquote, urlsplit

Address = IPv4Address | IPv6Address

ANYBODY: Final = "*"
LOOPBACK: Final = ("127.0.0.0/8", "::1")
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAPPED_BITS: Final = 96
"""Length of the prefix of an IPv6 address that carries an IPv4 one, as in `::ffff:10.0.0.1`."""
_PATH_SAFE: Final = "/:@!$&'()*+,;=~"
"""Characters that need no escape in a path (RFC 3986, 3.3)."""
_UNUSABLE: Final = re.compile(r"[\s\x00-\x1f\x7f\\]")
_UNUSABLE_DECODED: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """The address at which visitors find the gateway."""

    scheme: str
    host: str
    """Host as browsers send it: in lower case, with the port unless it is the scheme's default."""
    path: str
    """First part of all paths, percent-decoded and without a slash at its end; may be empty."""

    @property
    def text(self) -> str:
        """The address without a slash at its end."""
        return f"{self.scheme}://{self.host}{quote_path(self.path)}"


def parse_public_url(text: str) -> PublicUrl:
    """Return the parts of a public address.

    Raises:
        ValueError: The address can't be used; the text says what it must be.
    """
    if _UNUSABLE.search(text):
        raise ValueError("must have no blanks and no backslashes")
    parts = urlsplit(text)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise ValueError("must have no user name and no password")
    if "?" in text or "#" in text:
        raise ValueError("must have scheme, host, port and path only: no query and no fragment")
    path = unquote(parts.path).rstrip("/")
    if not is_plain_path(path):
        raise ValueError("must have a path without empty and dotted parts")
    port = parts.port  # an invalid port raises ValueError with its own text
    host = f"[{parts.hostname}]" if ":" in parts.hostname else _to_ascii(parts.hostname)
    shown = "" if port in {None, DEFAULT_PORTS[parts.scheme]} else f":{port}"
    if not is_host(f"{host}{shown}"):
        raise ValueError("must name a host that a browser can ask for")
    return PublicUrl(parts.scheme, f"{host}{shown}", path)


def _to_ascii(host: str) -> str:
    """Return a host name as browsers send it."""
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError("must name a host that a browser can ask for") from error


def is_host(text: str) -> bool:
    """Say whether a `Host` header may hold `text`: a name or an address, perhaps with a port."""
    return _HOST.fullmatch(text) is not None


def is_plain_path(path: str) -> bool:
    """Say whether `path` is empty, or has only parts after one slash each, without `.` and `..`."""
    if _UNUSABLE_DECODED.search(path):
        return False
    first, *parts = path.split("/")
    return not first and all(part not in {"", ".", ".."} for part in parts)


def parse_origin(text: str) -> tuple[str, str, int | None] | None:
    """Return scheme, host and port of an origin; None for `null` and for other texts."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.username:
        return None
    return parts.scheme, parts.hostname, port or DEFAULT_PORTS.get(parts.scheme)


def write_origin(scheme: str, host: str, port: int | None) -> str:
    """Return an origin as browsers write it."""
    shown = "" if port in {None, DEFAULT_PORTS.get(scheme)} else f":{port}"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{shown}"


def to_origin(text: str) -> str:
    """Return an origin as browsers write it; apps have some too, such as `capacitor://localhost`.

    Raises:
        ValueError: The text is no origin, or a pattern of several.
    """
    scheme, host, port = parse_origin(text) or ("", "", None)
    named = host if ":" in host else _to_ascii(host)
    origin = write_origin(scheme, named, port)
    if not scheme or "#" in text or not is_host(origin.partition("://")[2]):
        raise ValueError("must be scheme, host and port, without a pattern")
    return origin


def parse_web_proxy(text: str) -> str:
    """Return the address of a proxy for requests to other servers.

    Raises:
        ValueError: The text is no such address.
    """
    parts = urlsplit(text)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path not in {"", "/"}:
        raise ValueError("must be an address like http://proxy.example.org:3128")
    _ = parts.port  # an invalid port raises ValueError with its own text
    return text


def quote_path(path: str) -> str:
    """Return a decoded path with escapes, ready for an address."""
    return quote(path, safe=_PATH_SAFE)


class TrustedProxies:
    """The proxies whose headers say which client they speak for."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Trust these addresses and networks; `*` trusts everybody.

        Raises:
            ValueError: An entry is no address and no network.
        """
        entries = tuple(entries)
        self._is_anybody = ANYBODY in entries
        self._networks = tuple(_to_network(each) for each in entries if each != ANYBODY)

    def trusts(self, address: Address | None) -> bool:
        """Say whether to believe the headers of that address."""
        if self._is_anybody:
            return True
        return address is not None and any(address in network for network in self._networks)

    def find_client(self, chain: Iterable[str]) -> tuple[Address | None, int]:
        """Return the client that a trusted proxy names, and the count of entries that were used.

        Each proxy appends the address that it was called from. So the chain is read from its end,
        up to the first address that isn't trusted, or to the first entry that is no address.
        """
        found: Address | None = None
        used = 0
        for entry in reversed(tuple(chain)):
            address = parse_address(entry)
            if address is None:
                break
            found, used = address, used + 1
            if not self.trusts(address):
                break
        return found, used


def _to_network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry)
        first = network.network_address
        mapped = first.ipv4_mapped if isinstance(first, IPv6Address) else None
        if mapped is None or network.prefixlen < MAPPED_BITS:
            return network
        return ip_network((mapped, network.prefixlen - MAPPED_BITS))
    except ValueError as error:
        raise ValueError(
            f"must be addresses or networks like 10.0.0.0/8, with commas between them, or {ANYBODY}"
            f" for everybody: {error}"
        ) from error


def parse_address(text: str) -> Address | None:
    """Return the address in `text`, which may also have a port; None without an address."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # an IPv4 address with a port
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
