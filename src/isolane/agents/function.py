"""Agents that are async generator functions, or objects whose `run` is one."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from ag_ui.core import RunAgentInput

from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal
from isolane.errors import AgentRefused

ARGUMENTS_MAX: Final = 3
MARKS: Final = ("raw_ids", "restartable")
"""What an agent's author may set on it: see `Agent.run`."""
WANTED: Final = (
    "an agent is an async generator function (async def with yield) that takes (input), "
    "(input, context) or (input, context, stop), an object whose .run is one, or a pydantic-ai "
    "Agent"
)

Generator = Callable[..., AsyncGenerator[object, None]]


class FunctionAgent:
    """Calls a generator function with those of `input`, `context` and `stop` that it takes."""

    def __init__(
        self,
        function: Generator,
        *,
        arguments: int,
        raw_ids: bool = False,
        restartable: bool = False,
    ) -> None:
        """Keep a function that `adapt_function` has checked."""
        self._function = function
        self._arguments = arguments
        self.hears_stop = arguments == ARGUMENTS_MAX
        """True when the function is given the stop signal. Otherwise only cancelling ends it."""
        self.raw_ids = raw_ids
        """True when `input` has the client's own ids of thread and run."""
        self.restartable = restartable
        """True when it may begin a run anew that another process had under way."""

    def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Return the function's own stream."""
        return self._function(*(input, context, stop)[: self._arguments])


def adapt_function(value: object, *, name: str) -> FunctionAgent:
    """Return an agent that calls `value`.

    Raises:
        AgentRefused: The value is no agent; the text says what it is and what is wanted.
    """
    function: Any = value if inspect.isroutine(value) else getattr(value, "run", None)
    fault = _fault(value, function)
    if fault is not None:
        raise AgentRefused(f"{name} is {fault}; {WANTED}.")
    arguments = _count_arguments(function, name)
    # A mark may be on a method or on its object.
    told = (value, function, getattr(function, "__self__", None))
    marks = {mark: any(has_mark(each, mark, name=name) for each in told) for mark in MARKS}
    return FunctionAgent(function, arguments=arguments, **marks)


def has_mark(value: object, mark: str, *, name: str) -> bool:
    """Say whether an agent has a mark, one of `MARKS`, that its author set.

    Raises:
        AgentRefused: The mark is not True or False. The text "no" would count as true, and
            `raw_ids` would mix the memories of users.
    """
    wanted = getattr(value, mark, False)
    if type(wanted) is not bool:
        raise AgentRefused(f"{name} has a {mark} of {wanted!r}: write True or False.")
    return wanted


def _fault(value: object, function: object) -> str | None:
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine, made by a call that nobody awaited"
    if inspect.isasyncgen(value):
        return "an async generator that runs already: name the function, without calling it"
    if isinstance(value, type):
        return f"the class {value.__name__}, not an instance of it"
    if hasattr(value, "a_name_that_only_mocks_have"):
        return "a mock that answers to every name"
    if function is None:
        return f"of type {type(value).__name__}"
    if inspect.iscoroutinefunction(function):
        return "a coroutine function (async def without yield)"
    if inspect.isgeneratorfunction(function):
        return "a plain generator function (def with yield)"
    if not inspect.isasyncgenfunction(function):
        return "a plain function" if inspect.isroutine(function) else "no function at all"
    return None


def _count_arguments(function: Any, name: str) -> int:  # noqa: ANN401 - any callable
    parameters = list(inspect.signature(function).parameters.values())
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
    ]
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    takes_any = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    if takes_any and len(required) <= ARGUMENTS_MAX:
        return ARGUMENTS_MAX
    count = min(len(positional), ARGUMENTS_MAX)
    if not 1 <= len(required) <= ARGUMENTS_MAX or len(required) > count:
        raise AgentRefused(f"{name} takes {len(required)} required arguments; {WANTED}.")
    return count


_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
