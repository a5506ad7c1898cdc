"""The released packages stand by themselves: contents, metadata, building."""

from __future__ import annotations

import os
import re
import sys
import tarfile
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import Final

import pytest
from packaging.metadata import Metadata
from tests.package.conftest import Packages
from tests.package.workshop import (
    ROOT,
    copy_checkout,
    make_environment,
    path_without_npm,
    run,
    run_well,
)
from trove_classifiers import classifiers

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE: Final = ROOT / "src" / "isolane"

pytestmark = pytest.mark.timeout(300)


def names_in(packages: Packages) -> set[str]:
    with zipfile.ZipFile(packages.wheel) as wheel:
        return set(wheel.namelist())


def metadata_of(packages: Packages) -> bytes:
    with zipfile.ZipFile(packages.wheel) as wheel:
        return wheel.read(f"isolane-{PROJECT['version']}.dist-info/METADATA")


# --- contents ------------------------------------------------------------------------------------


def test_wheel_holds_the_source_the_documentation_and_the_page_and_nothing_else(
    packages: Packages,
) -> None:
    tracked = run_well("git", "ls-files", "-co", "--exclude-standard", "src/isolane", "docs")
    wanted = {
        "isolane/" + name.removeprefix("src/isolane/")
        for name in tracked.splitlines()
        if not name.endswith(".png") and (ROOT / name).is_file()
    }
    names = names_in(packages)
    page = {name for name in names if name.startswith("isolane/page/")}
    info = {name for name in names if name.startswith(f"isolane-{PROJECT['version']}.dist-info/")}
    assert names - page - info == wanted
    assert "isolane/py.typed" in names
    assert any(name.startswith("isolane/sql/migrations/versions/0001") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in info)


def test_wheel_holds_each_file_that_the_page_asks_for(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as wheel:
        page = wheel.read("isolane/page/index.html").decode()
    assets = re.findall(r'(?:src|href)="[./]*(assets/[^"]+)"', page)
    assert len(assets) >= 3
    assert {f"isolane/page/{asset}" for asset in assets} <= names_in(packages)


def test_sdist_holds_the_built_page_and_no_sources_of_it(packages: Packages) -> None:
    with tarfile.open(packages.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"page/dist/index.html", "hatch_build.py", "docs/index.md", "LICENSE"} <= names
    assert not {name for name in names if name.startswith(("page/src", "tests", "scripts"))}


# --- metadata ------------------------------------------------------------------------------------


def test_metadata_is_valid_and_says_what_the_project_says(packages: Packages) -> None:
    metadata = Metadata.from_email(metadata_of(packages), validate=True)
    assert str(metadata.version) == PROJECT["version"]
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert set(metadata.classifiers or ()) <= classifiers
    assert "Operating System :: POSIX" in (metadata.classifiers or ())
    fields = BytesParser().parsebytes(metadata_of(packages))
    assert fields["Requires-Python"] == PROJECT["requires-python"]


def test_changelog_has_a_section_for_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(
        rf"^## \[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE
    )


# --- building ------------------------------------------------------------------------------------


def build_wheel(source: Path, to: Path, *, path: str | None = None) -> tuple[int, str]:
    env = {} if path is None else {"PATH": path}
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps")
    return run(*pip, "--wheel-dir", to, source, env=env)


def test_wheel_of_a_clone_is_that_of_the_sdist(packages: Packages, tmp_path: Path) -> None:
    if packages.checkout is None:
        pytest.skip("these packages were built elsewhere")
    code, told = build_wheel(packages.checkout, tmp_path, path=path_without_npm(tmp_path / "bin"))
    assert code == 0, told
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.read_bytes() == packages.wheel.read_bytes()


def test_wheel_is_built_from_the_sdist_where_there_is_no_npm(
    packages: Packages, tmp_path: Path
) -> None:
    code, told = build_wheel(packages.sdist, tmp_path, path=path_without_npm(tmp_path / "bin"))
    assert code == 0, told
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.read_bytes() == packages.wheel.read_bytes()


def test_clone_without_page_and_npm_builds_nothing_and_says_why(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "clone")
    out, path = tmp_path / "out", path_without_npm(tmp_path / "bin")
    for source in (checkout, checkout / "."):
        code, told = build_wheel(source, out, path=path)
        assert code != 0
        assert "is not built and no npm was found: install Node.js" in told
        assert "Traceback" not in told
    code, told = run(
        *(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out),
        folder=checkout,
        env={"PATH": path},
    )
    assert code != 0
    assert "is not built and no npm was found: install Node.js" in told
    assert not list(out.glob("*")) if out.exists() else True


def test_page_that_is_older_than_its_sources_is_not_packed(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "clone")
    built = checkout / "page" / "dist" / "index.html"
    built.parent.mkdir()
    built.write_text("of the year 2001", encoding="utf-8")
    os.utime(built, (1e9, 1e9))
    code, told = build_wheel(checkout, tmp_path, path=path_without_npm(tmp_path / "bin"))
    assert (code != 0, "is older than its sources" in told) == (True, True)


def test_npm_that_fails_is_quoted(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "clone")
    npm = tmp_path / "bin" / "npm"
    path = path_without_npm(npm.parent)
    npm.write_text("#!/bin/sh\necho the registry is on holiday\nexit 3\n", encoding="utf-8")
    npm.chmod(0o755)
    code, told = build_wheel(checkout, tmp_path, path=path)
    assert code != 0
    assert "`npm ci` failed" in told
    assert "the registry is on holiday" in told


def test_editable_install_needs_no_page(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "clone")
    python = make_environment(tmp_path / "env")
    builders = ("hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove_classifiers")
    bench = tmp_path / "bench"
    bench.mkdir()
    for name in builders:  # what builds it comes from here, so that nothing is looked up
        place = Path(__import__(name).__file__ or "")
        place = place.parent if place.name == "__init__.py" else place
        (bench / place.name).symlink_to(place)
        for info in place.parent.glob(f"{name}-*.dist-info"):
            (bench / info.name).symlink_to(info)
    pip = (python, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e")
    env = {"PATH": path_without_npm(tmp_path / "bin"), "PYTHONPATH": str(bench)}
    said = run(*pip, checkout, env=env)
    assert said.code == 0, said.text
    where = run_well(
        python, "-c", "import importlib.util as u; print(u.find_spec('isolane').origin)"
    )
    assert Path(where.strip()) == checkout / "src" / "isolane" / "__init__.py"
