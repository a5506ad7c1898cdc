"""The gateway as its visitors see it: behind proxies, and below a path.

Every door reads the result in its scope. `client` is the visitor. `scheme` and the `Host` header
are those of the visitor's address. `root_path` is the prefix of all paths at that address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import structlog
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from isolane.settings import Settings
from isolane.settings.addresses import (
    TrustedProxies,
    is_host,
    is_plain_path,
    parse_address,
    parse_public_url,
    quote_path,
)

FORWARDED: Final = (
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-prefix",
)
SIGN_IN_PATH: Final = "/signin"
UNHEARD_KEY: Final = "isolane.unheard"
"""Key of the scope for the address whose `X-Forwarded-*` headers were not believed."""
TOLD_MAX: Final = 64
"""Maximum number of addresses that are logged, so that a flood of them can't fill a disk."""
_IGNORED: Final = "forwarded_headers_ignored"
_ADVICE_FOR_PROXIES: Final = "if this address is your proxy, name it in ISOLANE_TRUSTED_PROXIES"
_TAKEN: Final = "forwarded_headers_taken_by_server"
_ADVICE_FOR_SERVERS: Final = (
    "run uvicorn with --no-proxy-headers, so that ISOLANE_TRUSTED_PROXIES says who is believed"
)
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_SOCKET_SCHEMES: Final = {"http": "ws", "https": "wss"}
_THIS_MACHINE: Final = "127.0.0.1"

_log = structlog.get_logger(__name__)


def get_home(scope: Mapping[str, Any]) -> str:
    """Return the path of the page in addresses: `/`, or for example `/chat/` below a prefix."""
    return f"{quote_path(scope.get('root_path', ''))}/"


def get_cookie_path(scope: Mapping[str, Any]) -> str:
    """Return the path for cookies, because other paths of the host aren't ours."""
    return get_home(scope).rstrip("/") or "/"


def get_origin(scope: Mapping[str, Any]) -> str:
    """Return the origin that visitors see.

    Its host is empty unless there is exactly one valid `Host` header.
    """
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    is_one = len(hosts) == 1 and is_host(hosts[0].lower())
    return f"{_SCHEMES.get(scope['scheme'], '')}://{hosts[0] if is_one else ''}"


def is_secure(scope: Mapping[str, Any]) -> bool:
    """Say whether the visitor's connection is encrypted."""
    return scope["scheme"] in {"https", "wss"}


@dataclass(frozen=True, slots=True)
class _Word:
    """A trusted proxy's word about a visitor; None for each part that it doesn't say."""

    address: str | None = None
    scheme: str | None = None
    host: str | None = None
    prefix: str | None = None


class Outside:
    """Stands before the app and gives it each scope as the visitor sees it."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        """Stand before `app`; the settings name the public address and the trusted proxies."""
        self._app = app
        url = settings.public_url
        self._public = None if url is None else parse_public_url(url)
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; redirect a request for the prefix itself to the page below it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        seen = self._see(scope)
        is_bare = bool(seen["root_path"]) and seen["path"] == seen["root_path"]
        if is_bare and scope.get("method") in {"GET", "HEAD"}:
            await add_slash(seen, receive, send)
            return
        await self._app(seen, receive, send)

    def _see(self, scope: Scope) -> Scope:
        """Return a copy of the scope as the visitor's own address would have it."""
        word = self._hear(scope)
        seen = {**scope, UNHEARD_KEY: self._find_unheard(scope, word)}
        word = word or _Word()
        if word.address is not None:
            seen["client"] = (word.address, 0)
        scheme = self._public.scheme if self._public else word.scheme
        if scheme is not None:
            is_socket = scope["type"] == "websocket"
            seen["scheme"] = _SOCKET_SCHEMES[scheme] if is_socket else scheme
        host = self._public.host if self._public else word.host
        if host is not None:
            others = [pair for pair in scope["headers"] if pair[0] != b"host"]
            seen["headers"] = [(b"host", host.encode()), *others]
        self._place(seen, word.prefix)
        return seen

    # --- proxies ---------------------------------------------------------------------------------

    def _hear(self, scope: Scope) -> _Word | None:
        """Return a proxy's word; None when the proxy isn't trusted."""
        said = {name: _values(scope, name) for name in FORWARDED}
        if not any(said.values()):
            return _Word()
        if not self._proxies.trusts(parse_address(_peer(scope))):
            return None
        chain = said[b"x-forwarded-for"]
        address, used = self._proxies.find_client(chain)
        scheme, host, prefix = (_pick(said[name], used) for name in FORWARDED[1:])
        prefix = unquote(prefix).rstrip("/")
        return _Word(
            address=None if address is None else str(address),
            scheme=_SCHEMES.get(scheme.lower()),
            host=host.lower() if is_host(host.lower()) else None,
            prefix=prefix if is_plain_path(prefix) else None,
        )

    def _find_unheard(self, scope: Scope, word: _Word | None) -> str | None:
        """Return the address of an untrusted proxy, and log each such address once."""
        if word is not None:
            return None
        client = scope.get("client")
        # no peer has port 0, so the server itself has put the visitor there
        if client and client[1] == 0:
            self._tell("", _TAKEN, advice=_ADVICE_FOR_SERVERS)
            return None
        peer = _peer(scope)
        self._tell(peer, _IGNORED, address=peer, advice=_ADVICE_FOR_PROXIES)
        return peer

    def _tell(self, name: str, event: str, **fields: str) -> None:
        """Log a warning once per name, as long as there are few names."""
        if name not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(name)
            _log.warning(event, **fields)

    # --- paths -----------------------------------------------------------------------------------

    def _place(self, seen: Scope, said_prefix: str | None) -> None:
        """Set the path that the visitor sees, and its part below the prefix."""
        root = seen.get("root_path", "").rstrip("/")
        # A mount in a host's app adds its own path to the server's root path.
        mounted = root.removeprefix(seen.get("app_root_path", root).rstrip("/"))
        prefix = self._find_prefix(root, mounted, said_prefix)
        path = seen["path"]
        # Servers pass on the whole path. A proxy may strip a prefix that only the host's app knows,
        # as in `FastAPI(root_path=…)`. Then the rest begins with the mount.
        rest = next((r for p in (root, mounted) if (r := _below(path, p)) is not None), path)
        kept = _below(rest, prefix)
        if prefix and kept is not None and _is_kept(seen, rest, kept):
            rest = kept
        seen["root_path"] = seen["app_root_path"] = prefix
        # A slash written as %2F is part of a name.
        has_slash = seen.get("raw_path", b"/").endswith(b"/")
        seen["path"] = prefix + (_without_slash(rest) if has_slash else rest)
        seen.pop("raw_path", None)  # it has the old path
        seen.pop("router", None)  # the host's own

    def _find_prefix(self, root: str, mounted: str, said: str | None) -> str:
        """Return the prefix of all paths that visitors see."""
        public = self._public.path if self._public else ""
        if public:  # the host's public address begins with it too
            return public if public.endswith(mounted) else public + mounted
        if said and _below(root, said) is None:
            return said + root
        return root


async def add_slash(scope: Scope, receive: Receive, send: Send) -> None:
    """Redirect a visitor to the same address with a slash at its end, whatever a proxy strips."""
    last = quote_path(scope["path"].rpartition("/")[2])
    query = scope.get("query_string", b"").decode("latin-1")
    # Relative to the visitor's address, so that the prefix needn't be known.
    response = RedirectResponse(f"./{last}/{'?' if query else ''}{query}", status_code=307)
    await response(scope, receive, send)


def _peer(scope: Scope) -> str:
    """Return the peer's address; a peer on a Unix socket is on this machine."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client and client[0] else _THIS_MACHINE


def _values(scope: Scope, name: bytes) -> list[str]:
    """Return a header's values, from all its lines and in order."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [part.strip() for line in lines for part in line.split(",") if part.strip()]


def _pick(values: list[str], used: int) -> str:
    """Return the value of the proxy that the visitor called; when unsure, of the nearest proxy."""
    return values[-min(max(used, 1), len(values))] if values else ""


def _below(path: str, prefix: str) -> str | None:
    """Return the part of `path` after `prefix`; None when it begins otherwise."""
    rest = path.removeprefix(prefix)
    return rest if path.startswith(prefix) and rest[:1] in {"", "/"} else None


def _without_slash(path: str) -> str:
    """Return a path without the slash at its end, which asks for the same.

    The page's path is `/`.
    """
    return path[:-1] if len(path) > 1 and path.endswith("/") else path


def _is_kept(scope: Scope, whole: str, rest: str) -> bool:
    """Say whether the proxy has left the prefix in the path.

    The prefix may have the name of a route of our own: below `/api`, a proxy that strips may ask
    for `/api/signin`. Links to `/signin` have a code.
    """
    if _without_slash(rest) == SIGN_IN_PATH and b"code=" not in scope.get("query_string", b""):
        return not _leads_somewhere(scope, whole)
    return _leads_somewhere(scope, rest)


def _leads_somewhere(scope: Scope, path: str) -> bool:
    """Say whether the gateway has a route for the path."""
    if not path:  # the page's address without its slash
        return bool(scope["type"] == "http")
    tried = {**scope, "path": _without_slash(path), "root_path": ""}
    routes: Sequence[BaseRoute] = scope["app"].router.routes
    return any(route.matches(tried)[0] is not Match.NONE for route in routes)
