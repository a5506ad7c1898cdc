"""A contract says what it means: each method, and what becomes of it when it is cancelled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from isolane import contracts

PROTOCOLS = [
    value
    for value in vars(contracts).values()
    if inspect.isclass(value) and getattr(value, "_is_protocol", False)
]


def methods() -> Iterator[tuple[type, Callable[..., Any]]]:
    for protocol in PROTOCOLS:
        for name, member in vars(protocol).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                yield protocol, member


def test_there_are_contracts_to_read() -> None:
    assert len(PROTOCOLS) >= 9
    assert len(list(methods())) >= 40


@pytest.mark.parametrize(
    "protocol, method", list(methods()), ids=lambda value: getattr(value, "__qualname__", "")
)
def test_each_method_says_what_it_means(protocol: type, method: Callable[..., Any]) -> None:
    own = inspect.getdoc(method)
    assert own
    if inspect.iscoroutinefunction(method):
        assert "cancel" in f"{own} {inspect.getdoc(protocol)}".lower()
