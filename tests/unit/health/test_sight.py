"""A process that can't see what others revoke lets nothing out."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from isolane.health import sight as module
from isolane.health.sight import BLIND_S, Sight


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the steady clock of the process, as a list of one."""
    held = [monotonic()]
    monkeypatch.setattr(module, "monotonic", lambda: held[0])
    return held


def blind(sight: Sight) -> bool:
    return sight.is_blind


async def test_it_is_blind_a_second_after_its_last_look_began(now: list[float]) -> None:
    sight = Sight(is_needed=True)
    now[0] += BLIND_S
    assert blind(sight) is False
    now[0] += 0.1
    assert blind(sight) is True
    waiting = asyncio.ensure_future(sight.wait())
    sight.note(now[0] - BLIND_S - 0.05)  # a look that took too long ends
    await asyncio.sleep(0)
    assert blind(sight) is True
    assert not waiting.done()
    sight.note(now[0])
    await waiting


async def test_a_look_that_ends_late_counts_from_its_beginning(now: list[float]) -> None:
    sight = Sight(is_needed=True)
    began = now[0]
    now[0] += BLIND_S
    sight.note(began + 0.5)
    sight.note(began)  # one that began before, and ends after
    now[0] += 0.5
    assert not sight.is_blind


async def test_nobody_is_blind_who_serves_a_database_alone(now: list[float]) -> None:
    sight = Sight(is_needed=False)
    now[0] += 1000
    assert not sight.is_blind
    await sight.wait()
