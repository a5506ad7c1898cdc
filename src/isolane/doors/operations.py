"""Routes for operators: liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping
from typing import Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from isolane.doors.dependencies import GatewayDep, HealthDep, StateDep
from isolane.doors.description import METRICS
from isolane.doors.gateway import Gateway
from isolane.doors.parts import Health, Probe
from isolane.errors import Unauthenticated
from isolane.events.left_out import Kind
from isolane.health.output import count_dropped
from isolane.health.pressure import Step
from isolane.settings import Settings
from isolane.sql.usage import Kept, Usage

PROBE_TIMEOUT_S: Final = 2.0


def make_registry(gateway: Gateway, kept: Kept | None) -> CollectorRegistry:
    """Return the gateway's metrics, read at this moment.

    `kept` is the data of all users together, or None when the database can't say it now.
    """
    registry = CollectorRegistry()
    factory = gateway.factory
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "isolane_connections": ("Open sockets", lambda: gateway.sockets.connection_count),
        "isolane_managers": ("Threads followed on this node", lambda: factory.manager_count),
        "isolane_followers": (
            "Follower tasks",
            lambda: factory.follower_count + gateway.feed.readers,
        ),
        "isolane_authentications_pending": (
            "Tokens that the authenticator hasn't judged yet",
            lambda: gateway.credentials.judge.pending,
        ),
        "isolane_answers_unread_bytes": (
            "Bytes of large answers that their readers haven't taken yet",
            lambda: gateway.unread.total_bytes,
        ),
        "isolane_runs_active": ("Runs under way", lambda: gateway.service.active_count),
        "isolane_shedding": ("What gives way, 0 to 3", lambda: gateway.health.pressure.step),
        "isolane_tasks": ("asyncio tasks that the gateway owns", lambda: len(gateway.tasks)),
    }
    if kept is not None:
        gauges["isolane_stored_threads"] = ("Threads that users keep", lambda: kept.threads)
        gauges["isolane_stored_bytes"] = ("Bytes that users keep", lambda: kept.bytes)
    for name, (text, value) in gauges.items():
        Gauge(name, text, registry=registry).set_function(value)
    registry.register(_Counters(gateway))
    return registry


class _Counters(Collector):
    """The counters, read from the places that count."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> list[CounterMetricFamily]:
        feed, sweeper = self._gateway.feed, self._gateway.factory.sweeper_health
        return [
            CounterMetricFamily(
                "isolane_events_appended", "Events committed to logs", value=feed.appended
            ),
            CounterMetricFamily(
                "isolane_log_reads", "Reads of a log by followers", value=feed.log_reads
            ),
            CounterMetricFamily(
                "isolane_log_bounds_reads",
                "Reads of where a log begins and ends",
                value=feed.bounds_reads,
            ),
            CounterMetricFamily(
                "isolane_loop_blocks",
                "Times that an event loop was blocked",
                value=self._gateway.health.watchdog.blocks,
            ),
            CounterMetricFamily(
                "isolane_agents_abandoned",
                "Agents that swallowed their cancellation",
                value=self._gateway.service.abandoned_count,
            ),
            CounterMetricFamily(
                "isolane_sockets_shed",
                "Idle sockets closed because memory was short",
                value=self._gateway.sockets.shed_count,
            ),
            CounterMetricFamily(
                "isolane_managers_swept", "Managers that nobody came for", value=sweeper.closed
            ),
            CounterMetricFamily("isolane_sweep_errors", "Sweeps that failed", value=sweeper.errors),
            CounterMetricFamily(
                "isolane_log_lines_dropped",
                "Lines of stdout and stderr that nobody read in time",
                value=count_dropped(),
            ),
            _count_left_out(self._gateway.service.left_out),
        ]


def _count_left_out(totals: Mapping[Kind, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(
        "isolane_left_out",
        "What clients and agents sent and nobody here knows, by what it was",
        labels=["kind"],
    )
    for kind in Kind:
        family.add_metric([kind], totals.get(kind, 0))
    return family


router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Not ready; the same body."}})
async def readyz(health: HealthDep, gateway_state: StateDep) -> JSONResponse:
    """Say whether the gateway accepts work, and name each dependency."""
    states = {name: await _probe(probe) for name, probe in health.dependencies.items()}
    is_up = gateway_state == "ready" and all(state == "ok" for state in states.values())
    # A gateway short of memory is still ready, as long as it accepts new runs.
    is_ready = is_up and health.pressure.step < Step.NEW_RUNS
    states |= health.pressure.get_states()
    body = {"status": gateway_state, "dependencies": states, "node": _describe(health)}
    return JSONResponse(body, status_code=200 if is_ready else 503)


def _describe(health: Health) -> dict[str, object]:
    """Return how this process stands among those that serve the database."""
    age_ms = health.members.lease_age_ms()
    is_held = age_ms is not None and age_ms <= health.members.lease_ms
    return {
        "name": health.info.name,
        "role": health.info.role,
        "lease": "held" if is_held else "lost",
        "leaseAgeMs": age_ms,
        "bell": "deaf" if health.bell.is_deaf else "ok",
        "clockSkewMs": health.members.clock_skew_ms(),
        "nodes": len(health.members.get_others()) + 1,
    }


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
    dependencies=[Depends(METRICS)],
)
async def metrics(gateway: GatewayDep, request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    _check_metrics_token(gateway.settings, request)
    registry = make_registry(gateway, await _load_kept(gateway.storage.usage))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _load_kept(usage: Usage) -> Kept | None:
    """Return the data of all users.

    None without the database, so that the other metrics are shown.
    """
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await usage.load_totals()
    except Exception:  # noqa: BLE001 - after any error the other metrics must still be shown
        return None


async def _probe(probe: Probe) -> str:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe()
    except Exception as error:  # noqa: BLE001 - after any error the dependency counts as down
        return f"down: {type(error).__name__}"
    return "ok"


def _check_metrics_token(settings: Settings, request: Request) -> None:
    secret = settings.metrics_token
    if secret is None or not secret.get_secret_value():
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("missing", "the metrics need their token")
    if not hmac.compare_digest(token.encode(), secret.get_secret_value().encode()):
        raise Unauthenticated("invalid", "the metrics token is wrong")
