"""Drafts of ended runs go; fingerprints of what was asked stay.

One row after the other: a draft may have a megabyte, and there may be very many.
"""

from collections.abc import Iterator

import msgspec
import sqlalchemy as sa
from alembic import op

from isolane.events.transcript import fingerprint

revision = "0005"
down_revision = "0004"

_NEXT = sa.text("SELECT rowid, state, draft FROM runs WHERE rowid > :after ORDER BY rowid LIMIT 1")
_SET = sa.text("UPDATE runs SET draft = :draft, asked = :asked WHERE rowid = :rowid")


def upgrade() -> None:
    """Add the column, fill it, and empty the drafts that nobody needs any more."""
    op.add_column("runs", sa.Column("asked", sa.LargeBinary))
    connection = op.get_bind()
    for rowid, state, draft in _rows(connection):
        try:
            held = msgspec.json.decode(draft)
            asked = b"".join(part for one in held["messages"] for part in fingerprint(one))
            emptied = {"agent": held["agent"], "messages": [], "rewind_to": None, "request": {}}
        except (msgspec.DecodeError, KeyError, TypeError):  # it can't be read any more
            continue
        kept = msgspec.json.encode(emptied) if state == "ended" else draft
        connection.execute(_SET, {"draft": kept, "asked": asked, "rowid": rowid})


def _rows(connection: sa.Connection) -> Iterator[tuple[int, str, bytes]]:
    after = 0
    while (row := connection.execute(_NEXT, {"after": after}).one_or_none()) is not None:
        after = row.rowid
        yield row.rowid, row.state, row.draft
