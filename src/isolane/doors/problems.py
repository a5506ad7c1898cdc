"""Translation of errors into what clients see: a frame, a close, or an HTTP problem.

Each error is logged once, under the `errorId` that the client gets.
"""

from __future__ import annotations

from typing import Final

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from isolane.doors.openai_errors import get_status, is_openai, to_error_object, to_headers
from isolane.errors import (
    InvalidFrame,
    InvalidInput,
    IsolaneError,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unauthenticated,
    chain_of,
    rule_of,
    traceback_of,
)
from isolane.ids import new_error_id
from isolane.wire.frames import error_details

UNSUPPORTED_CLOSE: Final = 1003
"""WebSocket close code for a binary frame where text is wanted."""
INVALID_CLOSE: Final = 1007
"""WebSocket close code for text that isn't UTF-8."""
POLICY_CLOSE: Final = 1008
"""WebSocket close code for a refusal without a code of its own (RFC 6455, 7.4.1)."""
PROBLEM: Final = {
    "description": "Refused, with problem details (RFC 9457).",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail", "code", "errorId", "retryable"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "code": {"type": "string"},
                    "errorId": {"type": "string"},
                    "retryable": {"type": "boolean"},
                    "retryAfterMs": {"type": "integer"},
                },
            }
        }
    },
}
"""Description of every refusal in the OpenAPI document."""

_NOT_JSON: Final = InvalidFrame("the body is not JSON")
_OF_STATUS: Final = {
    404: NotFound("no such route"),
    405: NotFound("no such method"),
}

_log = structlog.get_logger(__name__)


def report(error: BaseException, **names: str | None) -> tuple[IsolaneError, str]:
    """Log `error` under a new id; return the client's error and the id.

    An unforeseen error becomes `internal`, and its whole chain of causes is logged. Errors of a
    flood are logged at level `debug` only.
    """
    error_id = new_error_id()
    if isinstance(error, IsolaneError) and error.code != "internal":
        is_flood = isinstance(error, LimitExceeded) and error.is_flood
        tell = _log.debug if is_flood else _log.info
        tell("refused", error_id=error_id, code=error.code, reason=str(error), **names)
        return error, error_id
    _log.error(
        "internal_error",
        error_id=error_id,
        code="internal",
        chain=chain_of(error),
        exception=traceback_of(error),
        **names,
    )
    return IsolaneError("internal"), error_id


def close_code_of(error: IsolaneError) -> int:
    """Return the code with which a socket closes for `error`."""
    return error.close_code or POLICY_CLOSE


def to_problem(error: IsolaneError, error_id: str) -> tuple[int, dict[str, str], dict[str, object]]:
    """Return status, headers and body of the problem details (RFC 9457) for `error`."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.code,
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "errorId": error_id,
        "retryable": error.retryable,
        **error_details(error),
    }
    headers = {"content-type": "application/problem+json", "cache-control": "no-store"}
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(-(-error.retry_after_ms // 1000))
    return error.http_status, headers, body


async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer a request with a wrong body or query; the answer names the field."""
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    if first.get("type") == "json_invalid":
        return await answer_problem(request, _NOT_JSON)
    if first.get("loc") == ("body",):
        return await answer_problem(request, InvalidFrame("the body must be a JSON object"))
    field = ".".join(str(part) for part in first.get("loc", ("body",))[1:]) or "body"
    return await answer_problem(request, InvalidInput(field, rule_of(first)))


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """Answer a refusal of the router, such as an unknown path, in the form of all errors."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, HTTPException) and status == TooLarge.http_status:
        return await answer_problem(request, TooLarge(error.detail))
    known, error_id = report(_OF_STATUS.get(status, _NOT_JSON), path=request.url.path)
    own_headers, body = _in_words_of(request, known, error_id, status=status)
    return JSONResponse(body, status_code=status, headers={**headers, **own_headers})


async def answer_nobody(request: Request, _error: Exception) -> Response:
    """End a request whose client left while its body was on the way."""
    _log.info("client_left", path=request.url.path)
    return Response(status_code=400)  # a status for the server's own log


async def answer_problem(request: Request, error: Exception) -> JSONResponse:
    """Answer an HTTP request with the problem for `error`."""
    known, error_id = report(error, path=request.url.path)
    status = get_status(known) if is_openai(request.scope) else known.http_status
    headers, body = _in_words_of(request, known, error_id, status=status)
    if isinstance(known, TooLarge) and request.scope.get("http_version", "1.1").startswith("1"):
        headers["connection"] = "close"  # nobody reads the rest of the body (RFC 9110, 15.5.14)
    return JSONResponse(body, status_code=status, headers=headers)


def _in_words_of(
    request: Request, error: IsolaneError, error_id: str, *, status: int
) -> tuple[dict[str, str], dict[str, object]]:
    """Return headers and body of an error in the form of the request's API."""
    _, headers, body = to_problem(error, error_id)
    if not is_openai(request.scope):
        return headers, {**body, "status": status}
    headers = {**headers, **to_headers(error), "content-type": "application/json"}
    return headers, to_error_object(error, error_id, status=status)
