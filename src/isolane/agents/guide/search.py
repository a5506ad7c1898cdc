"""The guide's one tool: a search in the documentation."""

from __future__ import annotations

from functools import cache
from typing import Final

from isolane.agents.guide.library import Library, Passage, find_docs_folder, load_library

TOOL: Final = "search_docs"


async def search_docs(query: str) -> list[Passage]:
    """Search the documentation of Isolane.

    Args:
        query: The few words that say what is asked about.

    Returns:
        The passages that hold these words, the best first; none when no page covers them.
    """
    return open_library().search(query)


@cache
def open_library() -> Library:
    """Return the library, which is made at the first call and takes some milliseconds."""
    return load_library(find_docs_folder())
