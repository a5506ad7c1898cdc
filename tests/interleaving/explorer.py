"""Plays one scenario in many orders, and says how to play again the one that went wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import pytest
from structlog.testing import capture_logs
from tests.interleaving.scheduler import ShuffledLoop

Scenario = Callable[[ShuffledLoop], Coroutine[Any, Any, None]]
"""Plays once in the loop it is given, and asserts what must hold in every order."""

SEED: Final = "ISOLANE_SEED"
SEEDS: Final = 500
_SEEDS_A_TEST: Final = 50


def _seeds() -> list[range]:
    """Return all seeds in parts that end in a test's time, or the one that is asked for."""
    if SEED in os.environ:
        one = int(os.environ[SEED])
        return [range(one, one + 1)]
    return [range(first, first + _SEEDS_A_TEST) for first in range(0, SEEDS, _SEEDS_A_TEST)]


every_seed = pytest.mark.parametrize(
    "seeds",
    [pytest.param(part, id=f"{part[0]}-{part[-1]}") for part in _seeds()],
)


def explore(scenario: Scenario, seeds: Iterable[int]) -> None:
    """Play `scenario` once for each seed; the first that fails raises and is named."""
    for seed in seeds:
        try:
            play(scenario, seed)
        except BaseException as error:
            error.add_note(f"Seed {seed}. The same once more: {_command(seed)}")
            raise


def play(scenario: Scenario, seed: int) -> ShuffledLoop:
    """Play `scenario` in the order of `seed`; raise what it raises, or what no task may raise."""
    loop = ShuffledLoop(seed)
    with capture_logs() as logs, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(scenario(loop))
    failed = [log for log in logs if log["event"] == "task_failed"]
    assert not failed, failed
    assert not loop.troubles, loop.troubles
    return loop


def _command(seed: int) -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "tests/interleaving").partition("[")[0]
    return f"{SEED}={seed} .venv/bin/pytest {test.partition(' ')[0]}"
