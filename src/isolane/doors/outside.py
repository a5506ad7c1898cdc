"""The gateway as its visitors see it: behind proxies, and below a path.

What stands here once is what every door then reads in its scope: `client` is the visitor, `scheme`
and the `Host` header are those of the visitor's address, and `root_path` is what the paths of that
address begin with.
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
"""Where the scope holds whose `X-Forwarded-*` headers were not believed."""
TOLD_MAX: Final = 64
"""Addresses that the log names, so that a flood of them fills no disk."""
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
    """Return the path of the page, as it stands in an address: `/`, or `/chat/` below a path."""
    return f"{quote_path(scope.get('root_path', ''))}/"


def get_cookie_path(scope: Mapping[str, Any]) -> str:
    """Return the path below which cookies are sent: other paths of the host are not ours."""
    return get_home(scope).rstrip("/") or "/"


def get_origin(scope: Mapping[str, Any]) -> str:
    """Return the origin that visitors see; without one `Host` it names none."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    is_one = len(hosts) == 1 and is_host(hosts[0].lower())
    return f"{_SCHEMES.get(scope['scheme'], '')}://{hosts[0] if is_one else ''}"


def is_secure(scope: Mapping[str, Any]) -> bool:
    """Say whether the visitor's line is encrypted."""
    return scope["scheme"] in {"https", "wss"}


@dataclass(frozen=True, slots=True)
class _Word:
    """What a trusted proxy says of a visitor; None where it says nothing of use."""

    address: str | None = None
    scheme: str | None = None
    host: str | None = None
    prefix: str | None = None


class Outside:
    """Stands before the app, and gives it each scope as the visitor sees it."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        """Stand before `app`; the settings say what proxies hide, and which are believed."""
        self._app = app
        url = settings.public_url
        self._public = None if url is None else parse_public_url(url)
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; send who asks for the path itself to the page below it."""
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
        """Return the scope as the visitor's own address would have it; `scope` stays as it is."""
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

    # ---- what proxies say ------------------------------------------------------------------------

    def _hear(self, scope: Scope) -> _Word | None:
        """Return what a proxy says; None when it isn't one of those that are believed."""
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
        """Return whose word was not believed, and tell the log once of each."""
        if word is not None:
            return None
        client = scope.get("client")
        if client and client[1] == 0:  # no peer has that port: a server put the visitor there
            self._tell("", _TAKEN, advice=_ADVICE_FOR_SERVERS)
            return None
        peer = _peer(scope)
        self._tell(peer, _IGNORED, address=peer, advice=_ADVICE_FOR_PROXIES)
        return peer

    def _tell(self, name: str, event: str, **fields: str) -> None:
        """Log a warning once for each name, as long as there are few."""
        if name not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(name)
            _log.warning(event, **fields)

    # ---- below which path ------------------------------------------------------------------------

    def _place(self, seen: Scope, said_prefix: str | None) -> None:
        """Give the scope the path that the visitor sees, and what of it leads to the gateway."""
        root = seen.get("root_path", "").rstrip("/")
        # A mount in a host adds its own path to what the server said.
        mounted = root.removeprefix(seen.get("app_root_path", root).rstrip("/"))
        prefix = self._find_prefix(root, mounted, said_prefix)
        path = seen["path"]
        # Servers hand on the whole path. Behind a proxy that strips what only the host app knows
        # of, as `FastAPI(root_path=…)` does, what is left begins with the mount.
        rest = next((r for p in (root, mounted) if (r := _below(path, p)) is not None), path)
        kept = _below(rest, prefix)
        if prefix and kept is not None and _is_kept(seen, rest, kept):
            rest = kept
        seen["root_path"] = seen["app_root_path"] = prefix
        # A slash that is written %2F is part of a name.
        has_slash = seen.get("raw_path", b"/").endswith(b"/")
        seen["path"] = prefix + (_without_slash(rest) if has_slash else rest)
        seen.pop("raw_path", None)  # of the path before
        seen.pop("router", None)  # the host's

    def _find_prefix(self, root: str, mounted: str, said: str | None) -> str:
        """Return what all paths begin with that visitors see."""
        public = self._public.path if self._public else ""
        if public:  # the host's address does, too
            return public if public.endswith(mounted) else public + mounted
        if said and _below(root, said) is None:
            return said + root
        return root


async def add_slash(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a visitor on to the same address with a slash behind, whatever a proxy strips of it."""
    last = quote_path(scope["path"].rpartition("/")[2])
    query = scope.get("query_string", b"").decode("latin-1")
    # Relative to the address that the visitor sees, so nothing has to be known of it.
    response = RedirectResponse(f"./{last}/{'?' if query else ''}{query}", status_code=307)
    await response(scope, receive, send)


def _peer(scope: Scope) -> str:
    """Return who is connected; over a Unix socket it is somebody of this machine."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client and client[0] else _THIS_MACHINE


def _values(scope: Scope, name: bytes) -> list[str]:
    """Return a header's values, over all its lines, in their order."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [part.strip() for line in lines for part in line.split(",") if part.strip()]


def _pick(values: list[str], used: int) -> str:
    """Return the value of the proxy that heard the visitor; that of the nearest, if unsure."""
    return values[-min(max(used, 1), len(values))] if values else ""


def _below(path: str, prefix: str) -> str | None:
    """Return what of `path` comes after `prefix`; None when it begins otherwise."""
    rest = path.removeprefix(prefix)
    return rest if path.startswith(prefix) and rest[:1] in {"", "/"} else None


def _without_slash(path: str) -> str:
    """Return a path without the slash at its end: it asks for the same. The page's own is `/`."""
    return path[:-1] if len(path) > 1 and path.endswith("/") else path


def _is_kept(scope: Scope, whole: str, rest: str) -> bool:
    """Say whether the proxy has left the path on: that may be called like a route of our own.

    Below `/api` a proxy that strips may ask for `/api/signin`. Links to `/signin` have a code.
    """
    if _without_slash(rest) == SIGN_IN_PATH and b"code=" not in scope.get("query_string", b""):
        return not _leads_somewhere(scope, whole)
    return _leads_somewhere(scope, rest)


def _leads_somewhere(scope: Scope, path: str) -> bool:
    """Say whether the gateway has something there."""
    if not path:  # the page, without its slash
        return bool(scope["type"] == "http")
    tried = {**scope, "path": _without_slash(path), "root_path": ""}
    routes: Sequence[BaseRoute] = scope["app"].router.routes
    return any(route.matches(tried)[0] is not Match.NONE for route in routes)
