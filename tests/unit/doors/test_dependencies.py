"""Routes: each one asks for the parts of the gateway that it needs, and not for all of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from isolane.app import ROUTERS
from isolane.doors.dependencies import GatewayDep
from isolane.doors.operations import metrics

ROUTES = [each for router in ROUTERS for each in router.routes if isinstance(each, APIRoute)]
(WHOLE,) = (each.dependency for each in GatewayDep.__metadata__)  # type: ignore[attr-defined]


def walk(dependant: Dependant) -> Iterator[object]:
    """Yield the functions that FastAPI calls for a route."""
    yield dependant.call
    for each in dependant.dependencies:
        yield from walk(each)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.name} {route.path}")
def test_route_asks_for_its_parts_only(route: APIRoute) -> None:
    assert (WHOLE in walk(route.dependant)) == (route.endpoint is metrics)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.name} {route.path}")
def test_no_dependency_of_ours_costs_a_thread(route: APIRoute) -> None:
    """FastAPI calls a plain function in another thread, which costs more than most routes."""
    ours = [call for call in walk(route.dependant) if inspect.isfunction(call)]
    assert all(map(inspect.iscoroutinefunction, ours))
