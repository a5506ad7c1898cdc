"""The words of a question that tell its subject. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

WORDS_MAX: Final = 24
WORD_MAX_CHARACTERS: Final = 64

_APOSTROPHE: Final = "['\u2019]"
_WORD: Final = re.compile(rf"[^\W_]+(?:_+[^\W_]+)*(?:{_APOSTROPHE}[^\W_]+)?")


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_STOP_WORDS: Final = _set_of("""
    a about actually after again all also am an and another any anybody anyone anything are aren as
    ask at available be because been before being but by bye can cannot cause could couldn did didn
    do does doesn doing don done each either else etc even ever every everything exactly explain for
    from get gets getting give gives go goes going good got had happen happened happening happens
    has have haven having he hello help her here hey hi him his how however i if in into is isn it
    its itself just kind know let like ll look lot make makes many may maybe me mean means might
    more most much must my myself need needed needs no nor not now of off ok okay on once one only
    onto or other our ours out over own please possible question questions quite re really s same
    say says see shall she should shouldn show so some somebody someone something still such support
    supported supports suppose sure t take takes tell than thank thanks that the their them then
    there these they thing things think this those though through to too under until up upon us use
    used uses using usually ve very via want wanted wants was wasn way we well were weren what
    whatever when where whether which while who whom whose why will wish with within without won
    work working works would wouldn yes yet you your yours
""")
_POINTERS: Final = _set_of("it its itself that them then these they this those")
_OPENERS: Final = _set_of("and but or so then why")
_OPENING_PAIRS: Final = frozenset({("what", "about"), ("how", "about"), ("how", "so")})


def find_content_words(text: str) -> tuple[str, ...]:
    """Return the words of `text` without grammar words, each once, in order and in lower case."""
    words = (word for word in _words(text) if word not in _STOP_WORDS)
    return tuple(dict.fromkeys(words))[:WORDS_MAX]


def to_query(questions: Sequence[str]) -> str:
    """Return the search words for the newest of a conversation's `questions`; may be empty.

    A question that points back ("and how long does that take?") takes its subject from the last
    question that had one.
    """
    if not questions:
        return ""
    *earlier, newest = questions
    words = find_content_words(newest)
    if earlier and _points_back(newest, words):
        subjects = (find_content_words(question) for question in reversed(earlier))
        words = (*next((subject for subject in subjects if subject), ()), *words)
    return " ".join(dict.fromkeys(words))


def _points_back(question: str, content: Sequence[str]) -> bool:
    words = _words(question)
    opening = next(pairwise(words), ())
    return bool(words) and (
        words[0] in _OPENERS
        or opening in _OPENING_PAIRS
        or bool(content and not _POINTERS.isdisjoint(words))
    )


def _words(text: str) -> list[str]:
    """Return all words of `text`, without endings after an apostrophe."""
    found = (re.split(_APOSTROPHE, word)[0].lower() for word in _WORD.findall(text))
    return [word for word in found if len(word) <= WORD_MAX_CHARACTERS]
