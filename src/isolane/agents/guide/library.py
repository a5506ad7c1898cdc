"""The documentation, cut into passages and indexed by their words."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Final

from isolane.agents.guide.topics import TOPICS, find_names, is_close_code
from isolane.agents.guide.words import find_content_words

FOUND_MAX: Final = 4
COVERAGE_MIN: Final = 0.5
"""Minimum share of a query's weight that a found passage covers; rare words weigh more. A word that
no page has weighs the most, because the question is then about something else."""

_HEADING: Final = re.compile(r"(#{1,3}) +(.+)")
_FENCE: Final = "```"
_TABLE: Final = "CREATE VIRTUAL TABLE passages USING fts5(page, heading, text, tokenize='porter')"
_ADD: Final = "INSERT INTO passages VALUES (?, ?, ?)"
_TOPICS: Final = "CREATE VIRTUAL TABLE topics USING fts5(words, tokenize='porter')"
_ADD_TOPICS: Final = "INSERT INTO topics VALUES (?)"
_IS_TOPIC: Final = "SELECT rowid FROM topics WHERE topics MATCH ?"
_HOLDING: Final = "SELECT rowid FROM passages WHERE passages MATCH ?"
# A word in a heading tells the subject of the passage, so it counts more.
_RANKED: Final = (
    "SELECT rowid, page, heading, text FROM passages WHERE passages MATCH ? "
    "ORDER BY bm25(passages, 0.0, 6.0, 1.0)"
)


@dataclass(frozen=True, slots=True)
class Passage:
    """The text under one heading of one page."""

    page: str
    """The file, for example `docs/agents.md`."""
    heading: str
    """The headings above the text, from the page's own, for example `Agents > Stop`."""
    text: str


def cut(page: str, markdown: str) -> Iterator[Passage]:
    """Yield a page's passages, one per heading with text of its own."""
    trail: list[str] = []
    lines: list[str] = []
    is_code = False
    for line in markdown.splitlines():
        is_code ^= line.lstrip().startswith(_FENCE)
        found = None if is_code else _HEADING.fullmatch(line)
        if found is None:
            lines.append(line)
            continue
        yield from _passage(page, trail, lines)
        trail, lines = [*trail[: len(found[1]) - 1], found[2].strip()], []
    yield from _passage(page, trail, lines)


def _passage(page: str, trail: list[str], lines: list[str]) -> Iterator[Passage]:
    text = "\n".join(lines).strip()
    if text:
        yield Passage(page, " > ".join(trail) or page, text)


class Library:
    """Passages in a full-text index in memory. There is one per process."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        """Index `passages`."""
        # Only reads follow, so every thread may use the connection.
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute(_TABLE)
        rows = [(passage.page, passage.heading, passage.text) for passage in passages]
        self._connection.executemany(_ADD, rows)
        self._size = len(rows)
        self._connection.execute(_TOPICS)
        self._connection.execute(_ADD_TOPICS, (TOPICS,))
        self._names = {name for *_, text in rows for name in find_names(text)}

    def close(self) -> None:
        """Close the index."""
        self._connection.close()

    def search(self, query: str) -> list[Passage]:
        """Return the passages that cover `query`, the best first; empty without one.

        `query` is plain words; operators of FTS5 have no meaning in it.
        """
        words = find_content_words(query)
        covering = self._find_covering(words)
        if not covering:
            return []
        either = " OR ".join(_quoted(word) for word in words)
        found = [
            (covering[row_id], Passage(page, heading, text))
            for row_id, page, heading, text in self._connection.execute(_RANKED, (either,))
            if row_id in covering
        ]
        # the sort is stable, so equal passages keep FTS5's order
        found.sort(key=lambda pair: -pair[0])
        return [passage for _, passage in found[:FOUND_MAX]]

    def knows_topic(self, query: str) -> bool:
        """Say whether a word of `query` is a topic of Isolane, or a name that its pages use."""
        return any(self._is_topic(word) for word in find_content_words(query))

    def _is_topic(self, word: str) -> bool:
        if word in self._names or is_close_code(word):
            return True
        return self._connection.execute(_IS_TOPIC, (_quoted(word),)).fetchone() is not None

    def _find_covering(self, words: Iterable[str]) -> dict[int, float]:
        """Return the rows of passages that cover enough of `words`, each with its share."""
        weights: dict[int, float] = {}
        total = 0.0
        for word in words:
            rows = self._connection.execute(_HOLDING, (_quoted(word),)).fetchall()
            weight = log((self._size + 1) / (len(rows) + 0.5))
            total += weight
            for (row_id,) in rows:
                weights[row_id] = weights.get(row_id, 0.0) + weight
        least = total * COVERAGE_MIN
        return {row_id: weight for row_id, weight in weights.items() if weight >= least}


def _quoted(word: str) -> str:
    """Return `word` as a quoted string of FTS5, in which no character has a special meaning."""
    return '"' + word.replace('"', '""') + '"'


def find_docs_folder() -> Path:
    """Return the folder of the pages: in the installed package, else in the repository.

    Raises:
        FileNotFoundError: The pages are in neither.
    """
    package = Path(__file__).parents[2]
    for folder in (package / "docs", package.parents[1] / "docs"):
        if (folder / "index.md").is_file():
            return folder
    raise FileNotFoundError(f"the documentation of Isolane is not beside {package}")


def load_library(folder: Path) -> Library:
    """Return the library of the pages in `folder`."""
    pages = sorted(folder.glob("*.md"))
    return Library(
        passage
        for page in pages
        for passage in cut(f"docs/{page.name}", page.read_text(encoding="utf-8"))
    )
