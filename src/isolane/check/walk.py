"""The state of one walk, which each layer passes to the next."""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from isolane.check.finding import Skipped
from isolane.check.gauges import Gauges, Metrics
from isolane.check.lane import Lane
from isolane.check.order import Frame
from isolane.check.target import Target
from isolane.check.wire import Socket


@dataclass(frozen=True, slots=True)
class Request:
    """The caller's request: the target and the tokens."""

    target: Target
    tokens: Sequence[str] = field(repr=False)
    """One token, or two of different users for the layer `isolation`."""
    metrics_token: str | None = field(default=None, repr=False)
    has_page: bool = True
    """True when the page must be there. A proxy may pass on only the API."""

    @property
    def secrets(self) -> list[str]:
        """Texts that must never be printed."""
        return [*self.tokens, *([self.metrics_token] if self.metrics_token else [])]


@dataclass(eq=False)
class Walk:
    """One round, from the name to the clean-up."""

    request: Request
    tls: ssl.SSLContext | None
    lanes: list[Lane]
    metrics: Metrics
    baseline: Gauges | Skipped
    """The gauges before the first socket, or why there are none."""
    socket: Socket | None = None
    """The first user's socket with control frames."""
    run: Run | None = None
    frames_per_minute: float = math.inf
    """Frames per minute that a user may send; the layer `context` reads it."""

    @property
    def lane(self) -> Lane:
        """The first user."""
        return self.lanes[0]

    def pause_s(self, took_s: float) -> float:
        """Return the seconds to wait before another round keeps within the limit."""
        sent = max(lane.sent_count for lane in self.lanes)
        return max(sent * 60 / self.frames_per_minute - took_s, 0)

    def get_socket(self) -> Socket:
        """Return the first user's socket, which the layer `context` opened."""
        assert self.socket is not None  # noqa: S101 - the layer `context` comes earlier
        return self.socket

    def get_run(self) -> Run:
        """Return the run, which the layer `manager` chose."""
        assert self.run is not None  # noqa: S101 - the layer `manager` comes earlier
        return self.run


@dataclass(eq=False)
class Run:
    """The run that several layers look at."""

    thread_id: str
    run_id: str
    after: str
    """The place in the log before the run."""
    envelopes: list[Frame] = field(default_factory=list)


def start_walk(request: Request) -> Walk:
    """Return a walk that has tried nothing yet."""
    tls = request.target.create_tls()
    return Walk(
        request,
        tls,
        [Lane(request.target, tls, token) for token in request.tokens],
        Metrics(request.target, tls, request.metrics_token),
        Skipped("the walk did not come to it"),
    )
