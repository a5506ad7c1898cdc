"""What both of OpenAI's APIs say in the same way about a run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from isolane.events.event import Event

Said = dict[str, Any]
"""One JSON object of OpenAI's, with its wire names."""

SERVER_ERROR: Final = "server_error"
_COUNTS: Final = (
    "inputTokens",
    "outputTokens",
    "reasoningTokens",
    "cachedInputTokens",
    "cacheWriteInputTokens",
)


def tool_names_of(started: Event) -> frozenset[str]:
    """Return the names of the caller's own tools, which a RUN_STARTED tells.

    Only calls of these are told. The agent answers its other calls itself, and a caller who heard
    of them would try to do so too.
    """
    given = started.get("input") or {}
    return frozenset(str(tool["name"]) for tool in given.get("tools") or ())


def failure_text(failed: Event) -> str:
    """Return the sentence for a RUN_ERROR: what may be told of it, its code, and its id."""
    error_id = (failed.get("metadata") or {}).get("errorId")
    names = ", ".join(str(name) for name in (failed.get("code"), error_id) if name is not None)
    return f"{failed['message']} ({names})" if names else str(failed["message"])


def questions_of(finished: Event) -> Iterable[Mapping[str, Any]]:
    """Return what a run asks of a person when it ends; nothing for other ends."""
    outcome = finished.get("outcome") or {}
    return outcome.get("interrupts") or () if outcome.get("type") == "interrupt" else ()


def question_text(question: Mapping[str, Any]) -> str:
    """Return the words of a question: its message, or its reason where it has none."""
    return str(question.get("message") or question["reason"])


def sum_usage(finished: Event) -> Mapping[str, int] | None:
    """Return the sums of a run's token counts by AG-UI's names; None when no total is known.

    A count that no entry names is not in it.
    """
    sums: dict[str, int] = {}
    for entry in finished.get("usage") or ():
        for name in _COUNTS:
            if isinstance(entry.get(name), int):
                sums[name] = sums.get(name, 0) + entry[name]
    return sums if {"inputTokens", "outputTokens"} & sums.keys() else None
