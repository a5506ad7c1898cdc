"""From `name=module:attribute` to an object, and from whatever made it to an agent."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Final

from isolane.agents.function import WANTED, adapt_function
from isolane.contracts import Agent, ensure
from isolane.errors import AgentRefused, IsolaneError

DEFAULT_NAME: Final = "default"
REASON_MAX_CHARACTERS: Final = 300
"""How much of a module's own words an error repeats."""

_INSTALLED: Final = tuple(sysconfig.get_paths().values())
"""Folders of what the user has not written."""


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


def load_checked_agents(specs: tuple[str, ...]) -> dict[str, object]:
    """Return what `specs` name; raise `AgentRefused`, with the spec as typed, for what is no agent.

    `create_app` judges again, for those who pass objects; it knows no specs.
    """
    agents = load_agents(specs)
    for spec, value in zip(specs, agents.values(), strict=True):
        adapt(value, name=f"--agent {spec}")
    return agents


def adapt(value: object, *, name: str) -> Agent:
    """Return the agent that `value` is, whatever made it; `name` is how an error calls it."""
    if _is_of_pydantic_ai(value):
        from isolane.agents import pydantic_ai  # noqa: PLC0415 - an optional engine's driver

        agent = pydantic_ai.adapt_pydantic(value, name=name)
        if agent is not None:
            return ensure(agent, Agent)
    return ensure(adapt_function(value, name=name), Agent)


def _is_of_pydantic_ai(value: object) -> bool:
    return any(made.__module__.partition(".")[0] == "pydantic_ai" for made in type(value).__mro__)


def _split(spec: str) -> tuple[str, str]:
    name, separator, target = spec.rpartition("=")
    name = name if separator else DEFAULT_NAME
    module, colon, path = target.partition(":")
    if not (name and module and colon and path) or (module[0] == "." and "/" not in module):
        raise AgentRefused(f"--agent {spec}: write module:attribute or name=module:attribute.")
    if "/" in module or module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise AgentRefused(f"--agent {spec}: {module} is a path; write {dotted}:{path}.")
    return name, target


def _import(target: str, spec: str) -> object:
    module, _, path = target.partition(":")
    value = _import_module(module, spec)
    try:
        for part in path.split("."):
            value = getattr(value, part)
    except AttributeError as error:
        raise AgentRefused(f"--agent {spec}: {module} has no {path}; {WANTED}.") from error
    except Exception as error:  # the module's own `__getattr__`, or a property
        raise AgentRefused(f"--agent {spec}: {path} can't be read{_tell(error)}.") from error
    return value


def _import_module(module: str, spec: str) -> object:
    try:
        return importlib.import_module(module)
    except IsolaneError:  # the guide says itself what it lacks
        raise
    except BaseException as error:  # SystemExit too: it is the module's, not the server's
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, of=module):
            raise AgentRefused(
                f"--agent {spec}: can't import {module}: no module {error.name} is in "
                f"{Path.cwd()} or installed; write module:attribute, or start in its folder."
            ) from error
        raise AgentRefused(f"--agent {spec}: importing {module} failed{_tell(error)}.") from error


def _is_part(name: str | None, *, of: str) -> bool:
    return name is not None and f"{of}.".startswith(f"{name}.")


def _tell(error: BaseException) -> str:
    """Return where an error came up in the user's own code, and what it said, in one line."""
    place = _find_place(error)
    where = "" if place is None else f" in {_shorten(place[0])}, line {place[1]}"
    # A SyntaxError says its place itself, between brackets.
    text = (error.msg if isinstance(error, SyntaxError) else str(error)) or "no reason given"
    return f"{where}: {type(error).__name__}: {_to_line(text)}"


def _find_place(error: BaseException) -> tuple[str, int] | None:
    """Return file and line: of the broken syntax, else the innermost that the user has written."""
    if isinstance(error, SyntaxError) and error.lineno and Path(error.filename or "").is_file():
        return str(error.filename), error.lineno
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.lineno and not frame.filename.startswith("<") and frame.filename != __file__
    ]
    own = [frame for frame in frames if not frame[0].startswith(_INSTALLED)]
    return next((frame for frame in reversed(own or frames)), None)


def _shorten(file: str) -> str:
    """Return a file's path from the working folder, where it is below that."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _to_line(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= REASON_MAX_CHARACTERS else f"{line[:REASON_MAX_CHARACTERS]}…"
