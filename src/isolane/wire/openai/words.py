"""Parts of an answer that both of OpenAI's APIs have in common. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from isolane.events.event import Event

Said = dict[str, Any]
"""One JSON object of OpenAI, with its names on the wire."""

SERVER_ERROR: Final = "server_error"
_COUNTS: Final = (
    "inputTokens",
    "outputTokens",
    "reasoningTokens",
    "cachedInputTokens",
    "cacheWriteInputTokens",
)


def tool_names_of(started: Event) -> frozenset[str]:
    """Return the names of the caller's own tools, which RUN_STARTED has.

    Only calls of these tools are told. The agent answers its other calls itself, and a caller who
    heard of them would try to answer them too.
    """
    given = started.get("input") or {}
    return frozenset(str(tool["name"]) for tool in given.get("tools") or ())


def failure_text(failed: Event) -> str:
    """Return the sentence for a RUN_ERROR: its public text, its code and its id."""
    error_id = (failed.get("metadata") or {}).get("errorId")
    names = ", ".join(str(name) for name in (failed.get("code"), error_id) if name is not None)
    return f"{failed['message']} ({names})" if names else str(failed["message"])


def questions_of(finished: Event) -> Iterable[Mapping[str, Any]]:
    """Return a run's questions to a person at its end; none for other ends."""
    outcome = finished.get("outcome") or {}
    return outcome.get("interrupts") or () if outcome.get("type") == "interrupt" else ()


def question_text(question: Mapping[str, Any]) -> str:
    """Return the text of a question: its message, or its reason without one."""
    return str(question.get("message") or question["reason"])


def sum_usage(finished: Event) -> Mapping[str, int] | None:
    """Return the sums of a run's token counts by AG-UI's names; None without a total.

    A count that no entry has is left out.
    """
    sums: dict[str, int] = {}
    for entry in finished.get("usage") or ():
        for name in _COUNTS:
            if isinstance(entry.get(name), int):
                sums[name] = sums.get(name, 0) + entry[name]
    return sums if {"inputTokens", "outputTokens"} & sums.keys() else None
