"""The check at the door, as an assertion."""

from __future__ import annotations

from typing import Protocol

import pytest

from isolane.errors import ContractError
from isolane.testing import assert_conforms


class Lamp(Protocol):
    """A contract."""

    async def light(self, colour: str) -> bool: ...


class GoodLamp:
    async def light(self, colour: str) -> bool:
        return bool(colour)


class PlainLamp:
    def light(self, colour: str) -> bool:
        return bool(colour)


async def make_lamp() -> GoodLamp:
    return GoodLamp()


def test_who_keeps_the_contract_passes() -> None:
    assert_conforms(GoodLamp(), Lamp)


def test_who_breaks_it_is_named_with_the_method_and_what_was_wanted() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_conforms(PlainLamp(), Lamp)
    assert str(caught.value) == (
        "PlainLamp doesn't keep Lamp: "
        "Lamp wants an async def, got a plain function: PlainLamp.light"
    )
    assert isinstance(caught.value.__cause__, ContractError)


def test_a_coroutine_is_told_with_the_mend_and_its_maker_at_the_root() -> None:
    with pytest.raises(AssertionError, match=r"write: await make_lamp\(…\)") as caught:
        assert_conforms(make_lamp(), Lamp)
    assert caught.value.__cause__ is not None
    assert __file__ in str(caught.value.__cause__.__cause__)
