"""The packages under test: built here, or those of `--packages`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.package.workshop import copy_checkout, run_well


class Packages(NamedTuple):
    """An sdist, the wheel that was built from it, and the checkout that both come from."""

    sdist: Path
    wheel: Path
    checkout: Path | None
    """None where the packages were built elsewhere."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the folder of packages that were built already."""
    parser.addoption("--packages", type=Path, help="folder with an sdist and a wheel to try")


@pytest.fixture(scope="session")
def packages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Give an sdist and a wheel."""
    given: Path | None = request.config.getoption("--packages")
    if given is not None:
        return _find(given.resolve(), None)
    checkout = copy_checkout(tmp_path_factory.mktemp("clone") / "isolane")
    dist = tmp_path_factory.mktemp("dist")
    run_well(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, folder=checkout)
    return _find(dist, checkout)


def _find(dist: Path, checkout: Path | None) -> Packages:
    (sdist,) = dist.glob("isolane-*.tar.gz")
    (wheel,) = dist.glob("isolane-*-py3-none-any.whl")
    return Packages(sdist, wheel, checkout)
