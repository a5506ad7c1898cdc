"""The check at the door: what `isinstance` lets pass and `ensure` doesn't."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, runtime_checkable
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

from isolane.contracts import ensure
from isolane.errors import ContractError


@runtime_checkable
class Lamp(Protocol):
    """A contract with each kind of method."""

    async def light(self, colour: str, *, level: int = 1) -> bool: ...

    def is_lit(self) -> bool: ...

    def glow(self) -> AsyncIterator[int]: ...


class GoodLamp:
    async def light(self, colour: str, *, level: int = 1) -> bool:
        return bool(colour and level)

    def is_lit(self) -> bool:
        return True

    async def glow(self) -> AsyncIterator[int]:
        yield 1


class MoreThanAsked(GoodLamp):
    async def light(self, colour: str, *, level: int = 1, warm: bool = False) -> bool:
        return bool(colour and level and warm)

    def burn(self) -> None: ...


class CatchAll:
    async def light(self, *args: object, **kwargs: object) -> bool:
        return bool(args or kwargs)

    def is_lit(self, *_args: object) -> bool:
        return True

    def glow(self) -> object:
        return self


class StaticLamp(GoodLamp):
    @staticmethod
    def is_lit() -> bool:
        return True


class SlottedLamp(GoodLamp):
    __slots__ = ()


@pytest.mark.parametrize(
    "make",
    [GoodLamp, MoreThanAsked, CatchAll, StaticLamp, SlottedLamp,
     lambda: create_autospec(GoodLamp, instance=True)],
    ids=["good", "more", "catch-all", "static", "slots", "autospec"],
)  # fmt: skip
def test_who_keeps_the_contract_is_returned(make: Callable[[], Any]) -> None:
    lamp = make()
    for _ in range(2):
        assert ensure(lamp, Lamp) is lamp


class PlainLight(GoodLamp):
    def light(self, colour: str, *, level: int = 1) -> bool:  # type: ignore[override]
        return bool(colour and level)


class GeneratorLight(GoodLamp):
    async def light(self, colour: str, *, level: int = 1) -> AsyncIterator[bool]:  # type: ignore[override]
        yield bool(colour and level)


class AsyncIsLit(GoodLamp):
    async def is_lit(self) -> bool:  # type: ignore[override]
        return True


class NoGlow:
    async def light(self, colour: str, *, level: int = 1) -> bool:
        return bool(colour and level)

    def is_lit(self) -> bool:
        return True


class MissingParameter(GoodLamp):
    async def light(self, colour: str) -> bool:  # type: ignore[override]
        return bool(colour)


class RenamedParameter(GoodLamp):
    async def light(self, color: str, *, level: int = 1) -> bool:
        return bool(color and level)


class ExtraRequired(GoodLamp):
    async def light(self, colour: str, volume: int, *, level: int = 1) -> bool:  # type: ignore[override]
        return bool(colour and level and volume)


class PositionalOnly(GoodLamp):
    async def light(self, colour: str, level: int = 1, /) -> bool:  # type: ignore[override]
        return bool(colour and level)


class KeywordOnly(GoodLamp):
    async def light(self, *, colour: str, level: int = 1) -> bool:  # type: ignore[override]
        return bool(colour and level)


class NotCallable(GoodLamp):
    is_lit = True  # type: ignore[assignment]


class Answerer:
    def __getattr__(self, name: str) -> object:
        return lambda *_: name


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "plain for async": (PlainLight, r"an async def, got a plain function: PlainLight\.light"),
    "generator for coroutine": (GeneratorLight, "got an async generator: GeneratorLight.light"),
    "async for plain": (AsyncIsLit, r"a plain def, got an async def: AsyncIsLit\.is_lit"),
    "missing method": (NoGlow, r"a method glow\(self\).*NoGlow has none"),
    "missing parameter": (MissingParameter, "a parameter level: MissingParameter.light"),
    "renamed parameter": (RenamedParameter, "a parameter colour: RenamedParameter.light"),
    "extra required": (ExtraRequired, r"no further required parameter \(volume\)"),
    "keyword by position only": (PositionalOnly, "a parameter level: PositionalOnly.light"),
    "position by keyword only": (KeywordOnly, "a parameter colour: KeywordOnly.light"),
    "not callable": (NotCallable, "a method is_lit"),
    "mock": (MagicMock, "a mock that answers to every name; use create_autospec"),
    "plain mock": (Mock, "a mock that answers to every name"),
    "async mock": (AsyncMock, "a mock that answers to every name"),
    "anything": (Answerer, "a mock that answers to every name"),
    "class": (lambda: GoodLamp, r"an instance, got the class GoodLamp; write GoodLamp\(…\)"),
    "none": (lambda: None, "a method"),
}


@pytest.mark.parametrize("make, mend", BROKEN.values(), ids=BROKEN)
def test_who_breaks_the_contract_is_named_with_the_mend(make: Callable[[], Any], mend: str) -> None:
    for _ in range(2):  # the verdict is kept, and stays the same
        with pytest.raises(ContractError, match=mend) as caught:
            ensure(make(), Lamp)
        assert str(caught.value).startswith("Lamp wants")
        assert isinstance(caught.value, TypeError)


def test_a_name_alone_would_pass_isinstance() -> None:
    assert isinstance(PlainLight(), Lamp)
    with pytest.raises(ContractError):
        ensure(PlainLight(), Lamp)


async def make_lamp() -> GoodLamp:
    return GoodLamp()


async def many_lamps() -> AsyncIterator[GoodLamp]:
    yield GoodLamp()


def test_a_coroutine_that_nobody_awaited_is_closed_and_its_maker_named() -> None:
    # Warnings are errors: a coroutine left open would fail this test.
    with pytest.raises(ContractError, match=r"a coroutine that nobody awaited") as caught:
        ensure(make_lamp(), Lamp)  # type: ignore[unused-coroutine]  # the mistake itself
    assert "write: await make_lamp(…)" in str(caught.value)
    line = make_lamp.__code__.co_firstlineno
    assert str(caught.value.__cause__) == (
        f"the coroutine was made by make_lamp in {__file__}, line {line}; write: await make_lamp(…)"
    )


def test_a_stream_that_nobody_read_is_named_with_the_loop_to_write() -> None:
    with pytest.raises(ContractError, match=r"write: async for … in many_lamps\(…\)"):
        ensure(many_lamps(), Lamp)


async def test_a_task_that_nobody_awaited_is_named_by_what_it_runs() -> None:
    task = asyncio.create_task(make_lamp())
    with pytest.raises(ContractError, match=r"a Task that nobody awaited; write: await make_lamp"):
        ensure(task, Lamp)  # type: ignore[unused-awaitable]  # the mistake itself
    await task


async def test_a_future_is_no_object_either() -> None:
    future: Awaitable[object] = asyncio.get_running_loop().create_future()
    with pytest.raises(ContractError, match="nobody awaited"):
        ensure(future, Lamp)  # type: ignore[unused-awaitable]  # the mistake itself


def test_an_instance_that_shadows_its_class_is_looked_at_itself() -> None:
    ensure(GoodLamp(), Lamp)  # the class's verdict is kept
    lamp = GoodLamp()
    lamp.light = lambda _colour, **_: True  # type: ignore[method-assign,assignment]
    with pytest.raises(ContractError, match="an async def, got a plain function"):
        ensure(lamp, Lamp)


def test_a_partial_is_judged_by_what_it_holds() -> None:
    class Wrapped(GoodLamp):
        def __init__(self) -> None:
            self.light = functools.partial(super().light)  # type: ignore[method-assign]

    ensure(Wrapped(), Lamp)


@pytest.mark.parametrize("contract", [dict, GoodLamp, object])
def test_what_is_no_contract_checks_nothing_and_says_so(contract: type) -> None:
    with pytest.raises(ContractError, match="ensure wants a Protocol to check against"):
        ensure(GoodLamp(), contract)
