"""Errors in the form of OpenAI's clients, with a word on whether to try again.

Those clients repeat a request by themselves after 408, 409, 429 and 5xx. For an agent that is
another run. So each error says whether that helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from isolane.errors import (
    GoingAway,
    InvalidInput,
    IsolaneError,
    LimitExceeded,
    RunConflict,
    Unauthenticated,
    Unavailable,
    UnknownAgent,
)
from isolane.wire.openai.words import SERVER_ERROR, Said

PREFIX: Final = "/v1/"
"""Path below which the routes are OpenAI's API."""
BAD_REQUEST: Final = 400
RETRY_AFTER_MS: Final = 1000
"""Milliseconds until another try, after an error without a time of its own."""
REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "Refused, in the words of OpenAI's API.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["message", "type", "param", "code"],
                            "properties": {
                                "message": {"type": "string"},
                                "type": {"type": "string"},
                                "param": {"type": ["string", "null"]},
                                "code": {"type": "string"},
                            },
                        }
                    },
                }
            }
        },
    }
}
"""Description of every refusal in the OpenAPI document."""
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_WORTH_A_RETRY: Final = (LimitExceeded, Unavailable, GoingAway, RunConflict)


def is_openai(scope: Mapping[str, Any]) -> bool:
    """Say whether a request is for OpenAI's API."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith(PREFIX)


def get_status(error: IsolaneError) -> int:
    """Return the HTTP status for `error`; a wrong field is 400 in this API."""
    return BAD_REQUEST if isinstance(error, InvalidInput) else error.http_status


def to_headers(error: IsolaneError) -> dict[str, str]:
    """Return the headers that tell a client whether to try again, and when."""
    if not error.retryable or not isinstance(error, _WORTH_A_RETRY):
        return {"x-should-retry": "false"}
    wait_ms = error.retry_after_ms or RETRY_AFTER_MS
    return {"x-should-retry": "true", "retry-after": str(-(-wait_ms // 1000))}


def to_error_object(error: IsolaneError, error_id: str, *, status: int) -> Said:
    """Return the body of an error: `{"error": {…}}`."""
    is_client = BAD_REQUEST <= status < 500  # noqa: PLR2004 - HTTP's classes of status codes
    kind = _TYPES.get(status, "invalid_request_error" if is_client else SERVER_ERROR)
    code = "model_not_found" if isinstance(error, UnknownAgent) else error.code
    reason = {"reason": error.reason} if isinstance(error, Unauthenticated) else {}
    # Chat applications show their users only the message.
    known = ", ".join((code, *reason.values(), error_id))
    return {
        "error": {
            "message": f"{error.message} ({known})",
            "type": kind,
            "param": getattr(error, "field", None),
            "code": code,
            **reason,
        }
    }
