"""Unknown names of settings: the known name that was meant, and variables of other programs.

Kubernetes describes each service to every pod of its namespace in variables. The variables of a
service called `isolane` begin with our prefix. So an unknown variable alone is no mistake.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Final

import structlog

PREFIX: Final = "ISOLANE_"
TYPO_CUTOFF: Final = 0.75
"""Minimum share of equal characters for a typo. One wrong letter in the shortest name, `data`, is
exactly this share."""
HINT_CUTOFF: Final = 0.5
"""Minimum share of equal characters for a hint beside an unknown name in a file."""

_ELSEWHERE: Final = {
    **{name: f"the option --{name}" for name in ("agent", "config", "demo", "host", "port")},
    "agents": "the option --agent",
    "jwks_url": "a field of each of the providers",
    "log_format": "the option --log-format",
    "model": f"the variable {PREFIX}MODEL",
}
"""Values that are no settings, and the place where each is given."""
_MOVED: Final = {"jwks_url": "providers"}
"""Variables of earlier versions, and what holds the same now. To ignore one would lock users out,
so each stops the start."""
_READ_BY_OTHERS: Final = re.compile(r"model|python|(?:test|soak|lanes|fuzz)_\w+")
"""Variables of the guide agent, and of Isolane's own tests and tools."""
_OF_SERVICES: Final = re.compile(
    r"(?:\w+_)?(?:service_host|service_port(?:_\w+)?|port_\d+_(?:tcp|udp|sctp)(?:_\w+)?)"
)
_SERVICE_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://")
_HINT: Final = (
    "they change nothing: host, port, agents and log format are options of `isolane serve`, and "
    "Kubernetes sets some for a service called isolane unless enableServiceLinks is false"
)

_log = structlog.get_logger(__name__)


def to_instead(name: str, known: Collection[str]) -> str:
    """Return what to write instead of the unknown `name`."""
    plain = _to_plain(name)
    nearest = _find_nearest(plain, known, cutoff=HINT_CUTOFF)
    if plain in _ELSEWHERE:
        return f"it is {_ELSEWHERE[plain]}"
    return f"write {nearest}" if nearest else f"the names are {', '.join(sorted(known))}"


def find_typo(environ: Mapping[str, str], known: Collection[str]) -> tuple[str, str] | None:
    """Return an unknown variable and the known one that was meant; None where none is close."""
    candidates = [*known, "model"]
    for name in _find_unknown(environ, known):
        plain = _to_plain(name)
        nearest = _MOVED.get(plain) or _find_nearest(plain, candidates, cutoff=TYPO_CUTOFF)
        if nearest is not None and not _is_of_service(name, environ[name]):
            return name, f"{PREFIX}{nearest.upper()}"
    return None


def warn_of_unknown(environ: Mapping[str, str], known: Collection[str]) -> None:
    """Log one warning that names all unknown variables with our prefix."""
    unknown = _find_unknown(environ, known)
    if unknown:
        _log.warning("settings_unknown", names=unknown, hint=_HINT)


def _find_unknown(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    ours = {name: _bare(name) for name in environ if name.upper().startswith(PREFIX)}
    return sorted(
        name
        for name, bare in ours.items()
        if bare not in known and not _READ_BY_OTHERS.fullmatch(bare)
    )


def _find_nearest(plain: str, known: Collection[str], *, cutoff: float) -> str | None:
    found = get_close_matches(plain, known, n=1, cutoff=cutoff)
    return found[0] if found else None


def _to_plain(name: str) -> str:
    """Return `name` in a file's spelling, without any number of prefixes."""
    plain = name.lower().replace("-", "_")
    while plain.startswith(PREFIX.lower()):
        plain = _bare(plain)
    return plain


def _bare(name: str) -> str:
    return name[len(PREFIX) :].lower()


def _is_of_service(name: str, value: str) -> bool:
    """Say whether Kubernetes made this variable; a name `…_PORT` counts only with an address."""
    if name.upper().endswith("_PORT") and _SERVICE_ADDRESS.match(value):
        return True
    return _OF_SERVICES.fullmatch(_bare(name)) is not None
