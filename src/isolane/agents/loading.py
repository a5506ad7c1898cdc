"""Loading of agents: from `name=module:attribute` to an object, and from any object to an agent."""

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
"""Name of the one agent whose spec names none."""
REASON_MAX_CHARACTERS: Final = 300
"""Maximum characters of a module's own error that our error repeats."""

_INSTALLED: Final = tuple(sysconfig.get_paths().values())
"""Folders of installed packages, whose code isn't the user's own."""


def load_agents(specs: tuple[str, ...]) -> dict[str, object]:
    """Return the objects that `specs` name, unchecked and in order; the first one is the default.

    The working folder is importable.

    Raises:
        AgentRefused: An object can't be found or imported.
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
    """Return the objects that `specs` name, after a check that each is an agent.

    `create_app` checks again, because a host may pass objects without specs.

    Raises:
        AgentRefused: An object can't be found, or is no agent; the text has the spec as typed.
    """
    agents = load_agents(specs)
    for spec, value in zip(specs, agents.values(), strict=True):
        adapt(value, name=f"--agent {spec}")
    return agents


def adapt(value: object, *, name: str) -> Agent:
    """Return an agent for `value`; `name` is its name in errors.

    Raises:
        AgentRefused: The value is no agent.
    """
    if _is_of_pydantic_ai(value):
        from isolane.agents import pydantic_ai  # noqa: PLC0415 - imported here, because pydantic-ai is optional

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
    except Exception as error:  # the module's own `__getattr__` or property may raise anything
        raise AgentRefused(f"--agent {spec}: {path} can't be read{_tell(error)}.") from error
    return value


def _import_module(module: str, spec: str) -> object:
    try:
        return importlib.import_module(module)
    except IsolaneError:  # the guide's own text says what is missing
        raise
    except BaseException as error:  # a SystemExit of the module must not end the server
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, of=module):
            raise AgentRefused(
                f"--agent {spec}: can't import {module}: no module {error.name} is in "
                f"{Path.cwd()} or installed; write module:attribute, or start in its folder."
            ) from error
        raise AgentRefused(f"--agent {spec}: importing {module} failed{_tell(error)}.") from error


def _is_part(name: str | None, *, of: str) -> bool:
    return name is not None and f"{of}.".startswith(f"{name}.")


def _tell(error: BaseException) -> str:
    """Return one line with the place of an error in the user's own code, and its text."""
    place = _find_place(error)
    where = "" if place is None else f" in {_shorten(place[0])}, line {place[1]}"
    # The text of a SyntaxError has its place in brackets already.
    text = (error.msg if isinstance(error, SyntaxError) else str(error)) or "no reason given"
    return f"{where}: {type(error).__name__}: {_to_line(text)}"


def _find_place(error: BaseException) -> tuple[str, int] | None:
    """Return file and line of broken syntax, else of the innermost call in the user's own code."""
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
    """Return a file's path relative to the working folder, when it is in there."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _to_line(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= REASON_MAX_CHARACTERS else f"{line[:REASON_MAX_CHARACTERS]}…"
