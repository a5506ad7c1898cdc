"""The layers in their order, and the walk through them up to the first that doesn't hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

from isolane.check.conversation import (
    check_context,
    check_manager,
    check_order,
    check_run_goes,
    check_stop,
)
from isolane.check.finding import Below, Broken, Evidence, Finding, Misuse, Round, Skipped, Verdict
from isolane.check.isolation import check_isolation
from isolane.check.network import (
    check_credential,
    check_name,
    check_subprotocol,
    check_tcp,
    check_tls,
    check_upgrade,
)
from isolane.check.page import check_page
from isolane.check.resume import check_resume
from isolane.check.target import hide_secrets
from isolane.check.walk import Request, Walk, start_walk
from isolane.check.wire import fetch
from isolane.errors import chain_of

Layer = Callable[[Walk], Awaitable[str]]
"""Returns what held; raises `Broken`, or `Skipped` when the layer can't be tried."""

LAYER_S: Final = 60.0
"""Maximum seconds that one layer may take."""


async def clean_up(walk: Walk) -> str:
    """Everything is closed and deleted, and the gauges are back at their baseline."""
    for lane in walk.lanes:
        await lane.clear()
    if isinstance(walk.baseline, Skipped):
        raise walk.baseline
    await walk.metrics.wait_until_back(walk.baseline)
    return "threads are deleted, no gauge is above what it was before"


LAYERS: Final[tuple[tuple[str, Layer], ...]] = (
    ("name", check_name),
    ("tcp", check_tcp),
    ("tls", check_tls),
    ("upgrade", check_upgrade),
    ("subprotocol", check_subprotocol),
    ("credential", check_credential),
    ("context", check_context),
    ("manager", check_manager),
    ("run", check_run_goes),
    ("order", check_order),
    ("stop", check_stop),
    ("resume", check_resume),
    ("isolation", check_isolation),
    ("page", check_page),
    ("clean-up", clean_up),
)
_NETWORK: Final = frozenset({"name", "tcp", "tls"})


async def take_round(request: Request) -> Round:
    """Walk through the layers once. Safe to cancel.

    Raises:
        Misuse: The request can't be tried.
    """
    walk = start_walk(request)
    findings: list[Finding] = []
    broken: Broken | None = None
    try:
        for name, layer in LAYERS:
            finding, broken = await _try_layer(name, layer, walk)
            findings.append(finding)
            if broken is not None:
                break
    finally:
        left_behind = await _tidy(walk)
    evidence = None if broken is None else await _explain(walk, findings[-1].layer, broken)
    took_s = sum(finding.took_ms for finding in findings) / 1000
    return Round(findings, evidence, left_behind, walk.pause_s(took_s))


async def _try_layer(name: str, layer: Layer, walk: Walk) -> tuple[Finding, Broken | None]:
    began = perf_counter()
    broken: Broken | None = None
    try:
        async with asyncio.timeout(LAYER_S):
            verdict, note = Verdict.HELD, await layer(walk)
    except Skipped as reason:
        verdict, note = Verdict.SKIPPED, str(reason)
    except Misuse:
        raise
    except Exception as error:  # noqa: BLE001 - a server may answer anything, so any error here is a broken layer
        broken = _to_broken(error)
        verdict, note = Verdict.BROKE, str(broken)
    took_ms = (perf_counter() - began) * 1000
    return Finding(name, verdict, took_ms, hide_secrets(note, walk.request.secrets)), broken


def _to_broken(error: Exception) -> Broken:
    if isinstance(error, Broken):
        return error
    what = "an answer could not be understood"
    if isinstance(error, TimeoutError):
        what = f"it took more than {LAYER_S:g} s"
    broken = Broken(what, came=repr(error))
    broken.__cause__ = error
    return broken


async def _tidy(walk: Walk) -> str:
    """Clean up after a broken walk; return what could not be cleaned up."""
    left: list[str] = []
    for lane in walk.lanes:
        try:
            await lane.clear()
        except (Broken, OSError):
            left += lane.threads
    return f"threads left behind: {', '.join(left)}" if left else ""


async def _explain(walk: Walk, layer: str, broken: Broken) -> Evidence:
    """Return the evidence of a failure, with its causes as far as they can be seen from outside."""
    chain = [f"{layer}: {broken}", *(_plain(text) for text in chain_of(broken)[1:])]
    if layer not in _NETWORK:
        chain += await _look_below(walk)
    secrets = walk.request.secrets
    return Evidence(
        sent=hide_secrets(broken.sent, secrets),
        came=hide_secrets(broken.came, secrets),
        expected=hide_secrets(broken.expected, secrets),
        chain=[hide_secrets(text.removesuffix(": "), secrets) for text in dict.fromkeys(chain)],
    )


def _plain(text: str) -> str:
    """Return a text without the names of our own errors, which tell a reader nothing."""
    name, _, rest = text.partition(": ")
    return rest if name in {Broken.__name__, Below.__name__, "Refusal"} else text


async def _look_below(walk: Walk) -> list[str]:
    """Ask whether the gateway still answers and is ready."""
    try:
        async with walk.lane.create_http() as http:
            answer = await fetch(http, "GET", "/readyz")
    except Broken as error:
        return [_plain(text) for text in chain_of(error)]
    if answer.status == 200:  # noqa: PLR2004 - OK
        return []
    return [f"GET /readyz answers {answer.status}: {answer.text[:300]}"]
