"""Hostile input, line by line of `docs/hostile.md`: the server lives, and nobody beside it notices.

Each row is an attack on a real server process with an honest neighbour beside it. The neighbour
is refused nothing and hardly waits; then connections, tasks and descriptors are what they were
before the first attack, and the answers were those of the row.
"""

from __future__ import annotations

import re
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import pytest
import pytest_asyncio
from tests.live.hostile import agents, chats, credentials, doors, framing, names, words
from tests.live.hostile.attack import ATTACKS
from tests.live.hostile.siege import KINDS, Siege, siege_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODULES: Final = (agents, chats, credentials, doors, framing, names, words)
"""Each registers its attacks when it is imported."""
PAGE: Final = Path(__file__).parents[2] / "docs" / "hostile.md"
ROW: Final = re.compile(r"^\| `(\w+/[\w-]+)` \| (.+) \| (.+) \|$", re.MULTILINE)
Besiege: TypeAlias = Callable[[str], Awaitable[Siege]]


class Row(NamedTuple):
    """A line of the list: what is sent, and what is answered."""

    name: str
    sent: str
    answer: str

    @property
    def answers(self) -> set[str]:
        """The answers that it names: statuses, codes and ends of the line."""
        return set(re.findall(r"`([^`]+)`", self.answer))


ROWS: Final = [Row(*cells) for cells in ROW.findall(PAGE.read_text(encoding="utf-8"))]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def besiege(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Besiege]:
    """Give a function that starts the server of a kind, once."""
    sieges: dict[str, Siege] = {}
    async with AsyncExitStack() as stack:

        async def begin(kind: str) -> Siege:
            if kind not in sieges:
                data = tmp_path_factory.mktemp(kind) / "data"
                sieges[kind] = await stack.enter_async_context(siege_of(data, kind))
            return sieges[kind]

        yield begin


@pytest.fixture(scope="module", autouse=True)
def _room_for_two_thousand() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_every_row_is_an_attack_and_every_attack_a_row() -> None:
    rows = [row.name for row in ROWS]
    assert sorted(rows) == sorted(ATTACKS)
    assert {attack.kind for attack in ATTACKS.values()} == set(KINDS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_nobody_notices(besiege: Besiege, row: Row) -> None:
    attack = ATTACKS[row.name]
    siege = await besiege(attack.kind)
    assert await siege.withstand(attack) == row.answers
