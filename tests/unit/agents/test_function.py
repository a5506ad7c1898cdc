"""Agents that are functions: taken as they are, or refused with a sentence."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from unittest.mock import AsyncMock, MagicMock

import pytest
from tests.house import ask, context_of

from isolane.agents.function import WANTED, adapt_function
from isolane.contracts import Agent, ensure
from isolane.errors import AgentRefused
from isolane.runs.stop import Stop


async def one(input: object) -> AsyncIterator[object]:  # noqa: A002
    yield ("one", input)


async def two(input: object, context: object) -> AsyncIterator[object]:  # noqa: A002
    yield ("two", input, context)


async def three(input: object, context: object, stop: object) -> AsyncIterator[object]:  # noqa: A002
    yield ("three", input, context, stop)


async def any_number(*args: object) -> AsyncIterator[object]:
    yield ("three", *args)


async def with_keyword(input: object, **_more: object) -> AsyncIterator[object]:  # noqa: A002
    yield ("one", input)


class Talker:
    async def run(self, input: object, context: object) -> AsyncIterator[object]:  # noqa: A002
        yield ("two", input, context)


class StaticTalker:
    @staticmethod
    async def run(input: object) -> AsyncIterator[object]:  # noqa: A002
        yield ("one", input)


@pytest.mark.parametrize(
    "agent",
    [one, two, three, any_number, with_keyword, Talker(), Talker().run, StaticTalker()],
    ids=["one", "two", "three", "args", "kwargs", "object", "method", "static"],
)
async def test_an_agent_gets_as_many_arguments_as_it_takes(agent: object) -> None:
    context, stop = context_of("r"), Stop()
    run_input = ask(context, "hi")
    adapted = ensure(adapt_function(agent, name="agent"), Agent)
    (said,) = [value async for value in adapted.run(run_input, context, stop)]
    given = (run_input, context, stop)
    assert isinstance(said, tuple)
    assert said[1:] == given[: ["", "one", "two", "three"].index(said[0])]


def plain(input: object) -> list[object]:  # noqa: A002
    return [input]


def generator(input: object) -> Iterator[object]:  # noqa: A002
    yield input


async def coroutine(input: object) -> object:  # noqa: A002
    return input


async def nothing() -> AsyncIterator[object]:
    yield None


async def four(a: object, b: object, c: object, d: object) -> AsyncIterator[object]:
    yield (a, b, c, d)


async def four_and_more(
    a: object, b: object, c: object, d: object, *rest: object
) -> AsyncIterator[object]:
    yield (a, b, c, d, rest)


async def keyword_only(input: object, *, mood: str) -> AsyncIterator[object]:  # noqa: A002
    yield (input, mood)


class Sync:
    def run(self, input: object) -> list[object]:  # noqa: A002
        return [input]


class Nothing:
    run = None


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "plain": (lambda: plain, "a plain function"),
    "lambda": (lambda: lambda input: input, "a plain function"),  # noqa: A006
    "generator": (lambda: generator, "a plain generator function"),
    "coroutine function": (lambda: coroutine, "a coroutine function"),
    "coroutine": (lambda: coroutine(1), "a coroutine, made by a call that nobody awaited"),
    "running generator": (lambda: one(1), "an async generator that runs already"),
    "class": (lambda: Talker, "the class Talker, not an instance"),
    "sync object": (Sync, "a plain function"),
    "empty object": (Nothing, "of type Nothing"),
    "none": (lambda: None, "of type NoneType"),
    "text": (lambda: "module:agent", "of type str"),
    "mock": (MagicMock, "a mock"),
    "async mock": (AsyncMock, "a mock"),
    "partial": (lambda: functools.partial(plain, 1), "of type partial"),
    "no argument": (lambda: nothing, "takes 0 required arguments"),
    "four arguments": (lambda: four, "takes 4 required arguments"),
    "four and more": (lambda: four_and_more, "takes 4 required arguments"),
    "keyword only": (lambda: keyword_only, "takes 2 required arguments"),
    "builtin": (lambda: print, "a plain function"),
}


@pytest.mark.parametrize("make, what", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_told_what_it_is_and_what_is_wanted(
    make: Callable[[], object], what: str
) -> None:
    with pytest.raises(AgentRefused) as caught:
        adapt_function(make(), name="agent of mine")
    sentence = str(caught.value)
    assert sentence.startswith("agent of mine ")
    assert what in sentence
    assert WANTED in sentence


async def test_a_future_is_no_agent() -> None:
    future: Awaitable[object] = asyncio.get_running_loop().create_future()
    with pytest.raises(AgentRefused, match="of type Future"):
        adapt_function(future, name="agent")


# --- which ids it asks for -----------------------------------------------------------------------


async def raw(input: object) -> AsyncIterator[object]:  # noqa: A002
    yield input


raw.raw_ids = True  # type: ignore[attr-defined]  # how a function says it


class RawTalker(Talker):
    raw_ids = True


class RawMethodTalker:
    async def run(self, input: object) -> AsyncIterator[object]:  # noqa: A002
        yield input

    run.raw_ids = True  # type: ignore[attr-defined]  # as above


def test_an_agent_is_asked_for_the_ids_that_it_wants() -> None:
    own = [one, Talker(), Talker().run, StaticTalker()]
    clients = [raw, RawTalker(), RawTalker().run, RawMethodTalker(), RawMethodTalker().run]
    assert [adapt_function(each, name="agent").raw_ids for each in own] == [False] * 4
    assert [adapt_function(each, name="agent").raw_ids for each in clients] == [True] * 5


def test_function_keeps_its_wish_through_a_decorator() -> None:
    @functools.wraps(raw)
    async def around(input: object) -> AsyncIterator[object]:  # noqa: A002
        async for value in raw(input):
            yield value

    assert adapt_function(around, name="agent").raw_ids


@pytest.mark.parametrize("wish", ["False", "no", 0, 1, None, []])
def test_wish_that_is_neither_yes_nor_no_is_refused(wish: object) -> None:
    agent = Talker()
    agent.raw_ids = wish  # type: ignore[attr-defined]  # the mistake
    with pytest.raises(AgentRefused, match=r"^agent of mine has a raw_ids of .*True or False"):
        adapt_function(agent, name="agent of mine")
