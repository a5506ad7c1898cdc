"""From `name=module:attribute` to an object, and from whatever made it to an agent."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from isolane.agents.function import WANTED, adapt_function
from isolane.contracts import Agent, ensure
from isolane.errors import AgentRefused

DEFAULT_NAME = "default"


def load_agents(specs: tuple[str, ...]) -> dict[str, object]:
    """Return what `specs` name, in order, unjudged; the first is the default.

    The working folder is importable. Raises `AgentRefused` for what can't be found.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    agents: dict[str, object] = {}
    for spec in specs:
        name, target = _split(spec)
        if name in agents:
            raise AgentRefused(f"--agent {spec}: the name {name} is taken; write another=…")
        agents[name] = _import(target, spec)
    return agents


def adapt(value: object, *, name: str) -> Agent:
    """Return the agent that `value` is, whatever made it; `name` is how an error calls it."""
    if "pydantic_ai" in sys.modules:  # only who imported it can have made an agent with it
        from isolane.agents import pydantic_ai  # noqa: PLC0415 - an optional engine's driver

        agent = pydantic_ai.adapt_pydantic(value)
        if agent is not None:
            return ensure(agent, Agent)
    return ensure(adapt_function(value, name=name), Agent)


def _split(spec: str) -> tuple[str, str]:
    name, separator, target = spec.rpartition("=")
    name = name if separator else DEFAULT_NAME
    if not name or ":" not in target.strip(":"):
        raise AgentRefused(f"--agent {spec}: write module:attribute or name=module:attribute.")
    return name, target


def _import(target: str, spec: str) -> object:
    module, _, path = target.partition(":")
    try:
        value: object = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
    except ImportError as error:
        raise AgentRefused(f"--agent {spec}: can't import {module}: {error}; {WANTED}.") from error
    except AttributeError as error:
        raise AgentRefused(f"--agent {spec}: {module} has no {path}; {WANTED}.") from error
    return value
