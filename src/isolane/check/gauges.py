"""The gateway's gauges: the counts of what it holds."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from isolane.check.finding import Broken, Skipped
from isolane.check.target import Target
from isolane.check.wire import Answer, create_http, fetch

RETURN_S: Final = 5.0
"""Seconds that the gauges may take to return to their baseline."""
_LOOK_S: Final = 0.1
"""Seconds between two looks, because gauges can't call back."""
_OK: Final = 200
_STILL_LOOKS: Final = 10
"""Equal looks in a row after which nothing else moves the gauges."""
NAMES: Final = (
    "isolane_connections",
    "isolane_managers",
    "isolane_followers",
    "isolane_runs_active",
    "isolane_tasks",
)

Gauges = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Metrics:
    """The page with the gauges; its token is not a user's."""

    target: Target
    tls: ssl.SSLContext | None
    token: str | None = field(repr=False)

    async def load(self) -> Gauges:
        """Return the gauges.

        Raises:
            Skipped: The gauges can't be read.
        """
        answer = await self.fetch()
        if answer.status in {401, 403} and self.token is None:
            raise Skipped("/metrics wants a token: give it with --metrics-token")
        if answer.status != _OK:
            raise Skipped(f"/metrics can't be read from here: it answers {answer.status}")
        found = dict(line.split()[:2] for line in answer.text.splitlines() if " " in line)
        missing = [name for name in NAMES if name not in found]
        if missing:
            raise Skipped(f"/metrics is not a gateway's: it has no {missing[0]}")
        return {name: float(found[name]) for name in NAMES}

    async def fetch(self) -> Answer:
        """Return the page as it is."""
        async with create_http(self.target, self.tls, self.token) as http:
            return await fetch(http, "GET", "/metrics")

    async def wait_until_back(self, baseline: Gauges) -> None:
        """Wait until no gauge is above its baseline.

        Raises:
            Broken: A gauge stays above its baseline.
            Skipped: Other users move the gauges.
        """
        deadline = monotonic() + RETURN_S
        looks = [await self.load()]
        while above := _above(looks[-1], baseline):
            if monotonic() > deadline:
                raise _judge(looks, baseline, above)
            await asyncio.sleep(_LOOK_S)
            looks.append(await self.load())


def _above(now: Gauges, baseline: Gauges) -> dict[str, str]:
    return {
        name: f"{baseline[name]:g} -> {now[name]:g}" for name in NAMES if now[name] > baseline[name]
    }


def _judge(looks: list[Gauges], baseline: Gauges, above: dict[str, str]) -> Exception:
    if any(look != looks[-1] for look in looks[-_STILL_LOOKS:]):
        return Skipped("others use this gateway meanwhile: its gauges don't stand still")
    return Broken(
        "gauges don't return to what they were",
        sent="GET /metrics, after everything was closed and deleted",
        came=above,
        expected=dict(baseline),
    )
