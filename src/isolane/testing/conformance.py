"""The check of a contract, as an assertion."""

from __future__ import annotations

from typing import Any

from isolane import IsolaneError, ensure


def assert_conforms(value: object, contract: type[Any]) -> None:
    """Fail unless `value` keeps `contract`, a Protocol, in the judgement of `isolane.ensure`.

    Raises:
        AssertionError: The value breaks the contract. The text names the class, its method, what is
            wanted and the mend. The cause is the error that a gateway would raise.
    """
    __tracebackhide__ = True
    try:
        ensure(value, contract)
    except IsolaneError as error:
        kind = type(value).__name__
        raise AssertionError(f"{kind} doesn't keep {contract.__name__}: {error}") from error
