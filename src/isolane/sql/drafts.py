"""Drafts in the rows of runs: whole while the run is unfinished, then mostly the agent's name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from isolane.context import RunKey
from isolane.contracts import NO_DRAFT, RunDraft
from isolane.errors import DatabaseFailed
from isolane.events.packing import bare
from isolane.events.transcript import FINGERPRINT_BYTES, Message, fingerprint
from isolane.sql import attachments
from isolane.sql.address import StoredThread
from isolane.sql.messages import load_added

_log = structlog.get_logger(__name__)


class KeptDraft(msgspec.Struct):
    """A draft as it stands in its run's row."""

    agent: str
    messages: list[Message]
    rewind_to: str | None
    request: dict[str, Any]
    asks_again: bool = False
    is_forgotten: bool = False
    place: tuple[int, int] | None = None
    """First and last number of its messages in their table, once they have joined the thread."""


def encode_joined(draft: RunDraft, place: tuple[int, int] | None) -> bytes:
    """Return what is kept of a draft whose messages stand in their own table."""
    return msgspec.json.encode(
        KeptDraft(
            draft.agent,
            [],
            draft.rewind_to,
            dict(draft.request),
            asks_again=draft.asks_again,
            is_forgotten=draft.is_forgotten,
            place=place,
        )
    )


def to_draft(connection: Connection, key: RunKey, thread_no: int, draft: bytes) -> RunDraft:
    """Return the draft in a run's row; `NO_DRAFT` for a damaged one, which mustn't hide others."""
    try:
        stored = StoredThread(key.user_id, thread_no)
        written = attachments.load_whole(connection, stored, draft)
        kept = msgspec.json.decode(written, type=KeptDraft)
        found = kept.messages if kept.place is None else load_added(stored, kept.place, connection)
    except (msgspec.DecodeError, DatabaseFailed) as error:
        _log.error("draft_unreadable", run_id=key.run_id, reason=str(error))
        return NO_DRAFT
    return RunDraft(
        kept.agent,
        found,
        kept.rewind_to,
        kept.request,
        kept.asks_again,
        kept.is_forgotten,
    )


def load_kept(connection: Connection, stored: StoredThread, draft: bytes) -> KeptDraft:
    """Return what a run's row has of its draft, whole."""
    whole = attachments.load_whole(connection, stored, draft)
    return msgspec.json.decode(whole, type=KeptDraft)


class _AgentOf(msgspec.Struct):
    """The fields of a draft that outlive its run."""

    agent: str
    is_forgotten: bool = False


def narrow_draft(draft: bytes) -> bytes:
    """Return what stays of a draft when its run has ended: mostly the name of its agent."""
    try:
        kept = msgspec.json.decode(bare(draft), type=_AgentOf)
    except msgspec.DecodeError:
        kept = _AgentOf(NO_DRAFT.agent)
    return msgspec.json.encode(RunDraft(kept.agent, (), None, {}, is_forgotten=kept.is_forgotten))


def to_fingerprints(asked: Iterable[Message]) -> bytes:
    """Return what a row keeps of these messages, to know them again."""
    return b"".join(part for message in asked for part in fingerprint(message))


def asked_of(draft: RunDraft, added: Sequence[Message]) -> Sequence[Message]:
    """Return what tells a second frame of a run from another: what it added, and its seed."""
    return added if draft.seed is None else [*added, draft.seed.to_stand_in()]


def to_asked(prints: bytes) -> dict[bytes, bytes]:
    """Return the fingerprints of contents by those of ids."""
    size = FINGERPRINT_BYTES
    parts = [prints[place : place + size] for place in range(0, len(prints), size)]
    return dict(zip(parts[::2], parts[1::2], strict=True))
