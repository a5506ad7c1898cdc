"""Every id this gateway makes comes from here, and every id it takes is judged here."""

from __future__ import annotations

import re
import secrets
import unicodedata
from hashlib import blake2b
from typing import Final

from uuid_utils import uuid7

from isolane.errors import InvalidContext

ID_MAX_CHARACTERS: Final = 128
NAME_WRITTEN_MAX: Final = 4 * ID_MAX_CHARACTERS
"""A name may have as many marks apart before it is normalised. No more: that takes a time which
grows with the square of what a hostile one has."""
WIRE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_REQUEST_ID: Final = re.compile(
    r"req_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)
_PLACEHOLDERS: Final = frozenset({"none", "null", "undefined", "placeholder"})
_USER_MARKS: Final = frozenset("._:-|@+")


def new_request_id() -> str:
    """Return an id for one request; ordered by time, unique over threads and stopped clocks."""
    return f"req_{uuid7()}"


def new_connection_id() -> str:
    """Return an id for one socket."""
    return f"conn_{uuid7()}"


def new_error_id() -> str:
    """Return an id that names exactly one log record."""
    return f"err_{uuid7()}"


def new_thread_id() -> str:
    """Return an id for a thread whose user named none."""
    return f"thread_{uuid7()}"


def new_message_id() -> str:
    """Return an id for a message that the gateway opens itself."""
    return f"msg_{uuid7()}"


def new_ticket() -> str:
    """Return an unguessable single-use ticket (256 bits)."""
    return secrets.token_urlsafe(32)


def new_seed() -> bytes:
    """Return the secret from which a data folder derives its epochs (256 bits)."""
    return secrets.token_bytes(32)


def derive_epoch(seed: bytes, user_id: str, thread_id: str, generation: int) -> str:
    """Return the epoch of a thread's `generation`-th numbering: the same before its first use.

    Keyed, so that an epoch tells nobody anything; the parts are hashed apart, so that
    `("a:b", "c")` and `("a", "b:c")` differ.
    """
    digest = blake2b(key=seed, digest_size=8)
    for part in (user_id, thread_id, str(generation)):
        digest.update(blake2b(part.encode(), digest_size=16).digest())
    return digest.hexdigest()


def check_wire_id(field: str, value: object) -> str:
    """Return `value` when it may name a thread or run, else raise `InvalidContext`."""
    text = _check_text(field, value)
    if not WIRE_ID.fullmatch(text):
        raise InvalidContext(field, "must be 1 to 128 characters of [A-Za-z0-9._:-]", text)
    return text


def check_user_id(field: str, value: object) -> str:
    """Return the normalised `value` when it may name a user, else raise `InvalidContext`.

    Letters of any language are fine; NFC makes one name of the two ways to write `é`.
    """
    if isinstance(value, str) and len(value) > NAME_WRITTEN_MAX:
        raise InvalidContext(field, f"must be at most {ID_MAX_CHARACTERS} characters", value)
    text = unicodedata.normalize("NFC", value) if isinstance(value, str) else value
    text = _check_text(field, text)
    if not all(mark in _USER_MARKS or unicodedata.category(mark)[0] in "LMN" for mark in text):
        raise InvalidContext(field, "may hold letters, digits and ._:-|@+ only", text)
    return text


def check_request_id(field: str, value: object) -> str:
    """Return `value` when this gateway made it, else raise `InvalidContext`."""
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value):
        raise InvalidContext(field, "must be an id of this gateway's own, req_ and a uuid7", value)
    return value


def to_parent_id(value: object) -> str | None:
    """Return somebody else's request id when it is well formed, else None: it is a hint only."""
    try:
        return check_wire_id("parentRequestId", value)
    except InvalidContext:
        return None


def _check_text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidContext(field, "must be text (str)", value)
    if not value.strip():
        raise InvalidContext(field, "must not be blank", value)
    if len(value) > ID_MAX_CHARACTERS:
        raise InvalidContext(field, f"must be at most {ID_MAX_CHARACTERS} characters", value)
    if value.lower() in _PLACEHOLDERS:
        raise InvalidContext(field, "must name something, which a placeholder does not", value)
    return value
