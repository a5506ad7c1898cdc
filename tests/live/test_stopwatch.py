"""The stopwatch that judges a server: what the machine is late is no time of its own."""

from __future__ import annotations

import asyncio

import pytest
from tests.interleaving.explorer import play
from tests.interleaving.scheduler import ShuffledLoop
from tests.live.stopwatch import TICK_S, stopwatch


def test_what_is_waited_for_counts_in_full() -> None:
    async def scenario(_: ShuffledLoop) -> None:
        with stopwatch() as watch:
            await asyncio.sleep(0.5)  # for a server
            assert watch.took_s == pytest.approx(0.5)
        assert watch.late_s() == 0

    play(scenario, 0)


def test_what_the_machine_stood_still_does_not() -> None:
    async def scenario(loop: ShuffledLoop) -> None:
        with stopwatch() as watch:
            await asyncio.sleep(0.1)
            loop._now_s += 0.7
            assert watch.took_s == pytest.approx(0.1, abs=TICK_S), "it still stands"
            await asyncio.sleep(0.1)
            assert watch.took_s == pytest.approx(0.2, abs=TICK_S)
        assert watch.late_s() == pytest.approx(0.7, abs=TICK_S)

    play(scenario, 0)
