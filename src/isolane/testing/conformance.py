"""The check at the door, as an assertion."""

from __future__ import annotations

from typing import Any

from isolane import IsolaneError, ensure


def assert_conforms(value: object, contract: type[Any]) -> None:
    """Fail unless `value` keeps `contract`, a Protocol, by the judgement of `isolane.ensure`.

    The AssertionError names the class, its method, what was wanted and the mend; its cause is the
    error that a gateway would raise where the object enters.
    """
    __tracebackhide__ = True
    try:
        ensure(value, contract)
    except IsolaneError as error:
        kind = type(value).__name__
        raise AssertionError(f"{kind} doesn't keep {contract.__name__}: {error}") from error
