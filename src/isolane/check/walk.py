"""One walk's state: what the layers hand on to one another."""

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
    """What the caller asks for: where, and as whom."""

    target: Target
    tokens: Sequence[str] = field(repr=False)
    """One or two; two show that the users don't meet."""
    metrics_token: str | None = field(default=None, repr=False)
    has_page: bool = True
    """Whether the page is to be there: a proxy may pass on nothing but the API."""

    @property
    def secrets(self) -> list[str]:
        """What must never be printed."""
        return [*self.tokens, *([self.metrics_token] if self.metrics_token else [])]


@dataclass(eq=False)
class Walk:
    """One round from the name to the clean-up."""

    request: Request
    tls: ssl.SSLContext | None
    lanes: list[Lane]
    metrics: Metrics
    baseline: Gauges | Skipped
    """The gauges before the first socket, or why there are none."""
    socket: Socket | None = None
    """The first user's, greeted."""
    run: Run | None = None
    frames_per_minute: float = math.inf
    """How many frames a user may send; the layer `context` is told."""

    @property
    def lane(self) -> Lane:
        """The first user's."""
        return self.lanes[0]

    def pause_s(self, took_s: float) -> float:
        """Return how long to wait until another round would not meet the limit, in seconds."""
        sent = max(lane.sent_count for lane in self.lanes)
        return max(sent * 60 / self.frames_per_minute - took_s, 0)

    def get_socket(self) -> Socket:
        """Return the first user's socket, which the layer `context` opened."""
        assert self.socket is not None  # noqa: S101 - the layers come in their order
        return self.socket

    def get_run(self) -> Run:
        """Return the run, which the layer `manager` named."""
        assert self.run is not None  # noqa: S101 - as above
        return self.run


@dataclass(eq=False)
class Run:
    """The run that the walk looks at from close by."""

    thread_id: str
    run_id: str
    after: str
    """The place in the log before it."""
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
