"""Shows which version of each agent framework fits beside Isolane in one environment.

`beside.py` checks the pins in requirements/beside against pyproject.toml and asks no registry, so
that no release of anybody changes its verdict. `beside.py --lock` writes the pins anew with the
newest versions that fit. `beside.py --newest` only says what they would be today. `beside.py --try`
makes an environment with the pins of each framework that remembers, and lets its agent meet two
users there; `--try --newest` does it with the newest versions that fit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "requirements" / "beside"
UV: Final = str(Path(sys.prefix) / "bin" / "uv")
FRAMEWORKS: Final[Mapping[str, Sequence[str]]] = {
    "LangGraph": ("langgraph", "ag-ui-langgraph"),
    "OpenAI Agents": ("openai-agents",),
    "Google ADK": ("google-adk", "ag-ui-adk"),
    "Pydantic AI": ("pydantic-ai-slim[ag-ui]",),
    "Agno": ("agno",),
    "Strands": ("strands-agents", "ag-ui-strands"),
    "LlamaIndex": ("llama-index-core",),
    "CrewAI": ("crewai",),
    "Microsoft Agent Framework": ("agent-framework-core",),
}
NEWEST_FITS: Final = ("LangGraph", "OpenAI Agents", "Google ADK")
"""Their newest release must fit on the day of the lock."""
REMEMBERING: Final[Mapping[str, str]] = {
    "LangGraph": "langgraph",
    "Google ADK": "adk",
    "Agno": "agno",
}
"""Those that remember by the thread id that they are given, and their modules in tests/beside."""
ENVIRONMENTS: Final = ROOT / ".venvs"
SHOWN: Final = ("fastapi", "pydantic", "uvicorn", "websockets")
"""What most frameworks restrict, shown beside each."""
NEWEST: Final = "# newest that day: "

Pins = Mapping[str, str]
"""Versions by the canonical names of packages."""


@dataclass(frozen=True)
class Lock:
    """A framework and all its packages, at versions that were resolved beside Isolane."""

    framework: str
    pins: Pins
    newest: Pins
    """The newest versions that the framework's own packages had without Isolane, on that day."""

    @property
    def own(self) -> Pins:
        """The versions of the framework's own packages."""
        return {name: self.pins[name] for name in own_names(self.framework)}


def own_names(framework: str) -> list[str]:
    """Return the canonical names of a framework's own packages."""
    return [canonicalize_name(Requirement(each).name) for each in FRAMEWORKS[framework]]


def lock_path(framework: str) -> Path:
    """Return the file with the pins of a framework."""
    return FOLDER / f"{framework.lower().replace(' ', '-')}.lock"


def read_pins(text: str) -> Pins:
    """Return what a lock pins."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    pairs = [line.partition("==")[::2] for line in lines if line]
    return {canonicalize_name(name.partition("[")[0]): version for name, version in pairs}


def load_lock(framework: str) -> Lock:
    """Return the lock of a framework as it lies in the folder."""
    return parse_lock(framework, read_lock(framework))


def parse_lock(framework: str, text: str) -> Lock:
    """Return what the text of a framework's lock says."""
    newest = next(line for line in text.splitlines() if line.startswith(NEWEST))
    return Lock(
        framework, read_pins(text), read_pins("\n".join(newest.removeprefix(NEWEST).split()))
    )


def load_requirements() -> list[Requirement]:
    """Return what Isolane needs, as pyproject.toml says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(each) for each in project["dependencies"]]


def find_misfits(lock: Lock, requirements: Sequence[Requirement]) -> Iterator[str]:
    """Yield a sentence for each requirement of Isolane that the pins don't meet."""
    for each in requirements:
        pinned = lock.pins.get(canonicalize_name(each.name))
        if pinned is None:
            yield f"{lock.framework}: Isolane needs {each}, which its lock lacks: make lock"
        elif not each.specifier.contains(pinned, prereleases=True):
            yield f"{lock.framework}: Isolane needs {each}, and what fits is {pinned}"
    if lock.framework in NEWEST_FITS and lock.own != lock.newest:
        wanted = ", ".join(f"{name} {version}" for name, version in lock.newest.items())
        yield f"{lock.framework}: the newest of the lock's day doesn't fit: {wanted}"


def resolve(framework: str, *isolane: str) -> str:
    """Return a lock of the newest versions that fit, beside `isolane` when it is named.

    Raises:
        RuntimeError: No versions fit, or the registry didn't answer.
    """
    done = subprocess.run(
        [
            *(UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--no-emit-index-url", "--python-version", "3.11", "--python-platform", "linux"),
            *(*isolane, "-"),
        ],
        cwd=ROOT,
        input="\n".join(FRAMEWORKS[framework]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def new_lock(framework: str) -> str:
    """Return the text of a framework's lock as of today. Raises as `resolve` does."""
    beside, alone = resolve(framework, "pyproject.toml"), read_pins(resolve(framework))
    newest = " ".join(f"{name}=={alone[name]}" for name in own_names(framework))
    today = datetime.now(UTC).date()
    head = f"# {framework} beside Isolane, resolved for Python 3.11 on Linux on {today}"
    return f"{head}\n{NEWEST}{newest}\n{beside}"


def show(lock: Lock) -> str:
    """Return a framework's line: what fits, and what it leaves of what others restrict too."""
    own = ", ".join(f"{name} {version}" for name, version in lock.own.items())
    rest = ", ".join(f"{name} {lock.pins[name]}" for name in SHOWN)
    return f"{lock.framework:26} {own:44} with {rest}"


def check() -> int:
    """Print what fits; return 1 when a pin no longer does."""
    requirements = load_requirements()
    locks = [load_lock(framework) for framework in FRAMEWORKS]
    misfits = [each for lock in locks for each in find_misfits(lock, requirements)]
    for lock in locks:
        print(show(lock))
    for misfit in misfits:
        print(misfit, file=sys.stderr)
    return 1 if misfits else 0


def write_locks() -> int:
    """Write all locks anew."""
    FOLDER.mkdir(exist_ok=True)
    for framework in FRAMEWORKS:
        lock_path(framework).write_text(new_lock(framework), encoding="utf-8")
    return check()


def show_newest() -> int:
    """Say for each framework what fits today, and what is newer than its lock; never fail."""
    for framework in FRAMEWORKS:
        try:
            today = parse_lock(framework, new_lock(framework))
        except RuntimeError as error:
            print(f"{framework}: nothing fits\n{error}")
            continue
        is_newest = today.own == today.newest
        print(show(today), "" if is_newest else f"NOT the newest: {dict(today.newest)}")
        for name, version in today.own.items():
            if version != (locked := load_lock(framework).own[name]):
                print(f"    {name} {version} is newer than the lock's {locked}")
    return 0


def run(*command: str, env: Mapping[str, str] | None = None) -> bool:
    """Run a command in the project's folder; say whether it succeeded."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, check=False)
    return done.returncode == 0


def make_environment(framework: str, lock: str) -> Path | None:
    """Return the interpreter of an environment with the pins of `lock`; None when that fails.

    One that was made from the same text is used again.
    """
    folder = ENVIRONMENTS / f"beside-{lock_path(framework).stem}"
    python, made_from = folder / "bin" / "python", folder / "made-from.lock"
    if made_from.is_file() and made_from.read_text(encoding="utf-8") == lock:
        return python
    if not run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)):
        return None
    pins = folder / "pins.lock"
    pins.write_text(lock, encoding="utf-8")
    install = (UV, "pip", "install", "--quiet", "--no-deps", "--python", str(python))
    if not run(*install, "--requirement", str(pins)):
        return None
    pins.replace(made_from)
    return python


def try_framework(framework: str, lock: str) -> bool:
    """Let the agent of a framework that remembers meet two users; say whether they stay apart."""
    python = make_environment(framework, lock)
    # What Isolane needs is among the pins, so its source is all that is missing.
    env = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "ignore"}
    script = ("tests/beside/try_memory.py", REMEMBERING[framework])
    return python is not None and run(str(python), *script, env=env)


def try_frameworks(load: Callable[[str], str]) -> int:
    """Try each framework that remembers with the lock that `load` returns; 1 when one fails."""
    failed: list[str] = []
    for framework in REMEMBERING:
        try:
            is_apart = try_framework(framework, load(framework))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            is_apart = False
        if not is_apart:
            failed.append(framework)
    if failed:
        print(f"users meet, or it could not be tried: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def read_lock(framework: str) -> str:
    """Return the text of a framework's lock as it lies in the folder."""
    return lock_path(framework).read_text(encoding="utf-8")


ACTS: Final[Mapping[tuple[str, ...], Callable[[], int]]] = {
    (): check,
    ("--lock",): write_locks,
    ("--newest",): show_newest,
    ("--try",): partial(try_frameworks, read_lock),
    ("--try", "--newest"): partial(try_frameworks, new_lock),
}

if __name__ == "__main__":
    if tuple(sys.argv[1:]) not in ACTS:
        sys.exit("beside.py takes nothing, --lock, --newest, --try or --try --newest")
    sys.exit(ACTS[tuple(sys.argv[1:])]())
