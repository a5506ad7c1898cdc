"""How the outside names a user: what a user id is made of, found again from the id alone.

Sessions, tickets and queued runs keep the id only, so that there is nothing else to lose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from isolane.ids import get_subject

SEPARATOR: Final = "|"
"""Stands between an issuer's name and the subject in the user ids of every other issuer."""


class Subject(NamedTuple):
    """Whom an issuer vouches for."""

    issuer: str | None
    """The `iss` of its tokens; None where they have none."""
    subject: str
    """Its own name for the user, in Unicode's normal form C."""


class Subjects:
    """Who vouches for which user ids."""

    def __init__(
        self, *, own_issuer: str | None = None, issuers: Mapping[str, str] | None = None
    ) -> None:
        """Know the `issuers` by the names in user ids; `own_issuer` vouches for everybody else."""
        self._own_issuer = own_issuer or None
        self._issuers = dict(issuers or {})

    def find(self, user_id: str) -> Subject:
        """Return whom a user id stands for."""
        name, _, rest = user_id.partition(SEPARATOR)
        if rest and name in self._issuers:
            return Subject(self._issuers[name], get_subject(rest))
        return Subject(self._own_issuer, get_subject(user_id))
