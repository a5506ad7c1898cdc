"""Pauses between two tries: how long they are."""

from __future__ import annotations

import asyncio

import pytest

from isolane.backoff import FIRST_S, MAX_S, Backoff


async def test_pauses_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    short, longer = Backoff(), Backoff(first_s=1.5)
    for backoff in (short, short, longer, longer, *[short] * 6):
        await backoff.pause()
    assert waited[:4] == [FIRST_S, 2 * FIRST_S, 1.5, MAX_S]
    assert waited[-2:] == [MAX_S, MAX_S]
