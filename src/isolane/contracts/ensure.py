"""The check of an object against a contract, at the door where the object enters."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from types import GeneratorType
from typing import Any, Final, TypeVar, cast

from isolane.errors import ContractError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _kept(function: F) -> F:
    """Cache the results of `function` per class; the type of `function` is kept."""
    return cast("F", lru_cache(maxsize=1024)(function))


_PROBE: Final = "isolane_probe_that_no_contract_has"


def ensure(value: T, contract: type[Any]) -> T:
    """Return `value` when it keeps `contract`.

    The check runs once per object, where the object enters. The verdict per class is cached, so the
    second object of a class costs one look-up.

    Raises:
        ContractError: The object breaks the contract; the text names the fault and the mend.
    """
    names = _names_to_shadow(type(value), contract)
    if names is not None and names.isdisjoint(getattr(value, "__dict__", ())):
        return value
    if not _is_contract(contract):
        raise ContractError(f"ensure wants a Protocol to check against, got {contract!r}")
    if inspect.isawaitable(value) or inspect.isasyncgen(value):
        raise _blame_awaitable(value, contract)
    if isinstance(value, type):
        raise ContractError(
            f"{_wanted(contract)} an instance, got the class {value.__name__}; write "
            f"{value.__name__}(…)"
        )
    fault = _fault(value, contract)
    if fault is not None:
        raise ContractError(f"{_wanted(contract)} {fault}")
    return value


def _is_contract(contract: type[Any]) -> bool:
    return getattr(contract, "_is_protocol", False)


def _wanted(contract: type[Any]) -> str:
    return f"{contract.__name__} wants"


def _blame_awaitable(value: object, contract: type[Any]) -> ContractError:
    """Return an error for an awaitable; its cause says where the awaitable was made."""
    source = value.get_coro() if isinstance(value, asyncio.Task) else value
    name, place = _origin(source)
    mend = f"async for … in {name}(…)" if inspect.isasyncgen(source) else f"await {name}(…)"
    if inspect.iscoroutine(value):
        value.close()
    kind = type(value).__name__
    error = ContractError(
        f"{_wanted(contract)} an object, got a {kind} that nobody awaited; write: {mend}"
    )
    error.__cause__ = ContractError(f"the {kind} was made by {name}{place}; write: {mend}")
    return error


def _origin(value: object) -> tuple[str, str]:
    code = getattr(value, "cr_code", None) or getattr(value, "ag_code", None)
    if code is None:
        return getattr(value, "__qualname__", type(value).__name__), ""
    return code.co_qualname, f" in {code.co_filename}, line {code.co_firstlineno}"


@_kept
def _names_to_shadow(cls: type[Any], contract: type[Any]) -> frozenset[str] | None:
    """Return the method names of a sound class that one of its instances could overwrite.

    The result is None when each instance needs a closer look. Then the class breaks the contract,
    or its instances are awaitables.
    """
    is_odd = issubclass(cls, (type, GeneratorType)) or hasattr(cls, "__await__")
    if is_odd or hasattr(cls, "__anext__") or not _is_contract(contract):
        return None
    if _fault(cls, contract) is not None:
        return None
    return frozenset(_methods(contract))


def _fault(value: object, contract: type[Any]) -> str | None:
    if callable(getattr(value, _PROBE, None)):
        return "a real object, got a mock that answers to every name; use create_autospec"
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    for method, wanted in _methods(contract).items():
        found = getattr(value, method, None)
        if not callable(found):
            return f"a method {method}{inspect.signature(wanted)}, and {name} has none"
        fault = _asynchrony_fault(wanted, found) or _parameter_fault(
            wanted, found, is_bound=not isinstance(value, type)
        )
        if fault is not None:
            return f"{fault}: {name}.{method}"
    return None


def _public_names(contract: type[Any]) -> list[str]:
    protocols = [base for base in contract.__mro__ if getattr(base, "_is_protocol", False)]
    return sorted({name for base in protocols for name in vars(base) if not name.startswith("_")})


@_kept
def _methods(contract: type[Any]) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for name in _public_names(contract)
        if inspect.isfunction(member := getattr(contract, name))
    }


def _asynchrony_fault(wanted: Callable[..., Any], found: Callable[..., Any]) -> str | None:
    is_async = bool(_code_flags(found) & inspect.CO_COROUTINE)
    if not inspect.iscoroutinefunction(wanted):
        return "a plain def, got an async def" if is_async else None
    if _code_flags(found) & inspect.CO_ASYNC_GENERATOR:
        return "a coroutine function (async def without yield), got an async generator"
    return None if is_async else "an async def, got a plain function"


def _code_flags(function: Callable[..., Any]) -> int:
    """Return the flags of the code; `inspect` would take an autospecced plain method for async."""
    while isinstance(function, partial):
        function = function.func
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return flags if isinstance(flags, int) else 0


def _parameter_fault(
    wanted: Callable[..., Any], found: Callable[..., Any], *, is_bound: bool
) -> str | None:
    there = list(inspect.signature(found).parameters.values())[0 if is_bound else 1 :]
    asked = list(inspect.signature(wanted).parameters.values())[1:]
    kinds = {parameter.kind for parameter in there}
    for parameter in asked:
        by_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        fitting = _BY_KEYWORD if by_keyword else _BY_POSITION
        names = {own.name for own in there if own.kind in fitting}
        caught = inspect.Parameter.VAR_KEYWORD if by_keyword else inspect.Parameter.VAR_POSITIONAL
        if parameter.name not in names and caught not in kinds:
            return f"a parameter {parameter.name}"
    required = [p for p in there if p.default is p.empty and p.kind not in _VARIADIC]
    extra = [p.name for p in required if p.name not in {q.name for q in asked}]
    return f"no further required parameter ({', '.join(extra)})" if extra else None


_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_BY_KEYWORD: Final = (
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_BY_POSITION: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
