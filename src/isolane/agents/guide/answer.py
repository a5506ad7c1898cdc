"""An answer that is made of passages only. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from isolane.agents.guide.library import Passage
from isolane.agents.guide.words import find_content_words

EXCERPT_MAX_CHARACTERS: Final = 1200
STEM_CHARACTERS: Final = 5
ENDING_CHARACTERS: Final = 3
SEE_ALSO_MAX: Final = 2

GREETING: Final = (
    "I answer questions about Isolane from its documentation. Ask me, for example, how to write "
    "an agent, what happens when a connection drops, how a run is stopped, or which settings "
    "there are."
)
NOT_COVERED: Final = (
    "I answer questions about Isolane from its documentation, which doesn't cover this. It tells "
    "of the wire protocol, agents, guarantees, operations, the architecture, and how to mount "
    "Isolane in an app."
)

_LINK: Final = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")
_PIECE: Final = re.compile(r"\s*\S+\s*")
_BLOCK: Final = re.compile(
    r"^```[^\n]*\n.*?^```$"  # a piece of code
    r"|(?:^\|[^\n]*(?:\n|\Z))+"  # a table
    r"|^- [^\n]*(?:\n {2,}[^\n]+)*"  # a list item
    r"|(?:^[^\s|][^\n]*(?:\n|\Z))+",  # a paragraph
    re.MULTILINE | re.DOTALL,
)


def compose(passages: Sequence[Passage], query: str) -> str:
    """Return the answer to `query` from `passages`, the best first, with its sources."""
    if not passages:
        return NOT_COVERED
    best, *others = passages
    # Links of a page don't work where the answer is read.
    quoted = _LINK.sub(r"\1", excerpt(best.text, query))
    answer = f"From {_source(best)}:\n\n{quoted}"
    others = others[:SEE_ALSO_MAX]
    if others:
        answer += f"\n\nSee also {' and '.join(_source(passage) for passage in others)}."
    return answer


def _source(passage: Passage) -> str:
    return f"**{passage.heading}** (`{passage.page}`)"


def to_pieces(text: str) -> list[str]:
    """Return `text` word by word, each with its spaces; joined they are `text` again."""
    return _PIECE.findall(text)


@dataclass(frozen=True, slots=True)
class _Block:
    """A unit that is useful only whole: a paragraph, a list item, code, a table's row."""

    text: str
    head: str = ""
    """The two lines above a table's rows."""


def excerpt(text: str, query: str) -> str:
    """Return `text`; of a long one only the blocks that have most words of `query`."""
    if len(text) <= EXCERPT_MAX_CHARACTERS:
        return text
    stems = [_stem(word) for word in find_content_words(query)]
    blocks = _without_idle_rows(list(_blocks(text)), stems)
    kept: set[_Block] = set()
    room = EXCERPT_MAX_CHARACTERS
    for block in sorted(blocks, key=lambda block: -_worth(block, stems)):
        if not kept or len(block.text) <= room:
            kept.add(block)
            room -= len(block.text)
    return _join([block for block in blocks if block in kept])


def _stem(word: str) -> str:
    """Return the form of `word` to search for: a name whole, another word without its ending."""
    return word[: max(STEM_CHARACTERS, len(word) - ENDING_CHARACTERS)] if word.isalpha() else word


def _without_idle_rows(blocks: Sequence[_Block], stems: Sequence[str]) -> list[_Block]:
    """Return `blocks`; a table with a matching row keeps only its matching rows."""
    is_told_by_rows = any(block.head and _worth(block, stems) for block in blocks)
    return [
        block for block in blocks if not (is_told_by_rows and block.head) or _worth(block, stems)
    ]


def _worth(block: _Block, stems: Iterable[str]) -> int:
    lowered = block.text.lower()
    return sum(stem in lowered for stem in stems)


def _blocks(text: str) -> Iterator[_Block]:
    for found in _BLOCK.finditer(text):
        block = found[0].strip()
        if block.startswith("|"):
            title, rule, *rows = block.splitlines()
            yield from (_Block(row, f"{title}\n{rule}\n") for row in rows)
        else:
            yield _Block(block)


def _join(blocks: Sequence[_Block]) -> str:
    """Return the blocks joined, the rows of one table under one head."""
    joined = blocks[0].head + blocks[0].text
    for above, block in pairwise(blocks):
        is_same_table = block.head and block.head == above.head
        joined += f"\n{block.text}" if is_same_table else f"\n\n{block.head}{block.text}"
    return joined
