"""Logs: one JSON line per event on stderr, with ids as fields, without tokens and message texts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import structlog

OWN: Final = "isolane"
_TALKATIVE: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "websockets",
    "alembic",
    "httpx",
    "httpcore",
    "authlib",
)


def configure_logs(log_format: str, log_level: str = "info") -> None:
    """Send the records of every logger to stderr, as JSON lines or, with `console`, for people.

    `log_level` applies to our own loggers.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: list[structlog.typing.Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=wants_colours(sys.stderr, os.environ),
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if log_format == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger(OWN).setLevel(log_level.upper())
    # The server logs each address with its query, which has tickets, and each frame of a refusal.
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def wants_colours(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Say whether to write colours on a stream; the user's wish counts more than the terminal.

    `NO_COLOR` and `FORCE_COLOR` are that wish; when both are set, `NO_COLOR` counts.
    """
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] not in {"0", "false"}
    return stream.isatty() and environ.get("TERM") != "dumb"
