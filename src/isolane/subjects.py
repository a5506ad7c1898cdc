"""Names of users outside of Isolane, found again from the user id alone.

Sessions, tickets and queued runs store only the id, so there is no second copy to lose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from isolane.ids import get_subject

SEPARATOR: Final = "|"
"""Character between an issuer's name and the subject in ids of users of other issuers."""


class Subject(NamedTuple):
    """A user as an issuer names them."""

    issuer: str | None
    """The `iss` of the issuer's tokens; None when they have none."""
    subject: str
    """The issuer's own name for the user, in Unicode's normal form C."""


class Subjects:
    """The issuers of all user ids."""

    def __init__(
        self, *, own_issuer: str | None = None, issuers: Mapping[str, str] | None = None
    ) -> None:
        """Keep `issuers` by their names in user ids.

        `own_issuer` is the issuer of all other users.
        """
        self._own_issuer = own_issuer or None
        self._issuers = dict(issuers or {})

    def find(self, user_id: str) -> Subject:
        """Return issuer and subject of a user id."""
        name, _, rest = user_id.partition(SEPARATOR)
        if rest and name in self._issuers:
            return Subject(self._issuers[name], get_subject(rest))
        return Subject(self._own_issuer, get_subject(user_id))
