"""All ids: the gateway makes its own here, and checks here the ids that others bring."""

from __future__ import annotations

import re
import secrets
import unicodedata
from threading import Lock
from time import time_ns
from typing import Final
from urllib.parse import unquote
from uuid import UUID, uuid4, uuid5

from isolane.errors import InvalidContext

ID_MAX_CHARACTERS: Final = 128
"""Maximum characters of an id of a thread, run, message or request."""
USER_ID_MAX_CHARACTERS: Final = 1024
"""Maximum characters of a user id. An OpenID Connect subject has at most 255 ASCII characters; 798
with percent-encoding and the provider's name in front."""
NAME_WRITTEN_MAX: Final = 4 * USER_ID_MAX_CHARACTERS
"""Maximum characters of a name before it is normalised. The time to normalise grows with the square
of the accents behind one letter, and an attacker may send many."""
ENVELOPE_BYTES: Final = 512
"""Maximum bytes that an envelope adds to its event: the longest ids, the keys, and a reserve."""
WIRE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_REQUEST_ID: Final = re.compile(
    r"req_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)
_PLACEHOLDERS: Final = frozenset({"none", "null", "undefined", "placeholder"})
_USER_MARKS: Final = frozenset("._:-|@+")
_ESCAPE: Final = "%"


class _Uuid7:
    """Makes UUIDs of version 7 (RFC 9562), each greater than all before it in this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._latest = 0
        """The last UUID without its version and variant: 48 bits of milliseconds, then 74 bits."""

    def __call__(self) -> UUID:
        # Only 73 of the 74 bits are random. So the counter starts in the lower half, and doesn't
        # overflow into the milliseconds.
        chance = secrets.randbits(73)
        with self._lock:
            # a random step, so that nobody can guess the next id
            at_least = self._latest + 1 + chance % 2**32
            latest = self._latest = max(time_ns() // 1_000_000 << 74 | chance, at_least)
        head, tail = latest >> 62, latest & (2**62 - 1)
        return UUID(int=(head >> 12 << 16 | 7 << 12 | head & 0xFFF) << 64 | 0b10 << 62 | tail)


uuid7: Final = _Uuid7()


def new_node_id() -> str:
    """Return an id for a process that serves a database; each start of one has another."""
    return f"node_{uuid7()}"


def new_request_id() -> str:
    """Return a new request id.

    Ids are ordered by time and unique, also while the clock stands still.
    """
    return f"req_{uuid7()}"


def new_connection_id() -> str:
    """Return a new id for one socket."""
    return f"conn_{uuid7()}"


def new_error_id() -> str:
    """Return a new id that names exactly one log record."""
    return f"err_{uuid7()}"


def new_thread_id() -> str:
    """Return a new id for a thread without one."""
    return f"thread_{uuid7()}"


def new_run_id() -> str:
    """Return a new id for a run without one."""
    return f"run_{uuid7()}"


def new_agent_id() -> str:
    """Return a new id by which an agent knows a thread or a run: a random UUID of version 4."""
    return str(uuid4())


def derive_stand_in(agent_thread_id: str, run_id: str) -> str:
    """Return the agent's id for a run id that names none of the user's runs.

    The result is the same each time within a thread. No real run has it, so it leads to no other
    user's memory.
    """
    return str(uuid5(UUID(agent_thread_id), run_id))


def new_message_id() -> str:
    """Return a new id for a message that the gateway opens itself."""
    return f"msg_{uuid7()}"


def new_ticket() -> str:
    """Return an unguessable single-use ticket (256 bits)."""
    return secrets.token_urlsafe(32)


def new_epoch() -> str:
    """Return the epoch of a thread's numbering: random (64 bits), so that it tells nothing."""
    return secrets.token_hex(8)


def check_wire_id(field: str, value: object) -> str:
    """Return `value` when it may name a thread or a run.

    Raises:
        InvalidContext: The value is no text of 1 to 128 characters of `[A-Za-z0-9._:-]`.
    """
    text = _check_text(field, value)
    if not WIRE_ID.fullmatch(text):
        raise InvalidContext(field, "must be 1 to 128 characters of [A-Za-z0-9._:-]", text)
    return text


def check_user_id(field: str, value: object) -> str:
    """Return the normalised `value` when it is a user id.

    Letters of every language are allowed. Normal form C makes one name of the two ways to write
    `é`. A `%` is allowed only where `to_user_id` would write it.

    Raises:
        InvalidContext: The value is no user id.
    """
    text = _check_text(field, _normalize(field, value), most=USER_ID_MAX_CHARACTERS)
    is_plain = all(mark == _ESCAPE or _is_plain(mark) for mark in text)
    if not is_plain or (_ESCAPE in text and _escape(get_subject(text)) != text):
        raise InvalidContext(field, "may hold letters, digits and ._:-|@+ only", text)
    return text


def to_user_id(field: str, value: object) -> str:
    """Return the user id for `value`, a name that another system gave the user.

    Characters that a user id can't hold, and `%` itself, are percent-encoded as UTF-8 with capital
    digits. So a name that is a user id already stays as it is, and two names never become one.

    Raises:
        InvalidContext: The value is no text, is too long, or has half a surrogate pair.
    """
    text = _check_text(field, _normalize(field, value), most=USER_ID_MAX_CHARACTERS)
    try:
        escaped = _escape(text)
    except UnicodeEncodeError as error:
        raise InvalidContext(field, "must hold no half of a surrogate pair", text) from error
    if len(escaped) > USER_ID_MAX_CHARACTERS:
        rule = f"must be at most {USER_ID_MAX_CHARACTERS} characters, percent-encoded"
        raise InvalidContext(field, rule, text)
    return escaped


def find_user_id(field: str, value: object) -> str:
    """Return `value` when it is a user id, else the user id for that name.

    People who name a user copy a user id, or write the name that the provider shows.

    Raises:
        InvalidContext: The value is neither.
    """
    try:
        return check_user_id(field, value)
    except InvalidContext:
        return to_user_id(field, value)


def get_subject(user_id: str) -> str:
    """Return the name from which `to_user_id` made this user id."""
    return unquote(user_id, errors="replace")


def _normalize(field: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if len(value) > NAME_WRITTEN_MAX:
        raise InvalidContext(field, f"must be at most {USER_ID_MAX_CHARACTERS} characters", value)
    return unicodedata.normalize("NFC", value)


def _is_plain(mark: str) -> bool:
    return mark in _USER_MARKS or unicodedata.category(mark)[0] in "LMN"


def _escape(text: str) -> str:
    escaped = []
    is_behind = False
    for mark in text:
        # An accent after an escape must be escaped too: normalising would join it to the last
        # digit.
        is_accent = is_behind and unicodedata.category(mark)[0] == "M"
        is_behind = is_accent or not _is_plain(mark)
        escaped.append("".join(f"%{byte:02X}" for byte in mark.encode()) if is_behind else mark)
    return "".join(escaped)


def is_same_user(user_id: str, other: str) -> bool:
    """Say whether two names are equal, however their accents are written."""
    return user_id == other or _compose(user_id) == _compose(other)


def _compose(name: str) -> str:
    return unicodedata.normalize("NFC", name) if len(name) <= NAME_WRITTEN_MAX else name


def check_request_id(field: str, value: object) -> str:
    """Return `value` when this gateway made it.

    Raises:
        InvalidContext: The value isn't `req_` and a UUID of version 7.
    """
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value):
        raise InvalidContext(field, "must be an id of this gateway's own, req_ and a uuid7", value)
    return value


def to_parent_id(value: object) -> str | None:
    """Return a caller's request id when it is well formed, else None; it is only a hint."""
    try:
        return check_wire_id("parentRequestId", value)
    except InvalidContext:
        return None


def _check_text(field: str, value: object, *, most: int = ID_MAX_CHARACTERS) -> str:
    if not isinstance(value, str):
        raise InvalidContext(field, "must be text (str)", value)
    if not value.strip():
        raise InvalidContext(field, "must not be blank", value)
    if len(value) > most:
        raise InvalidContext(field, f"must be at most {most} characters", value)
    if value.lower() in _PLACEHOLDERS:
        raise InvalidContext(field, "must name something, which a placeholder does not", value)
    return value
