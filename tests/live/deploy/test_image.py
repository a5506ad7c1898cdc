"""The image and the compose file: the same steps under the same conditions, without an engine."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from tests.live.client import connect
from tests.live.deploy.container import UID, Container
from tests.live.deploy.front import DEPLOY, ROOT
from tests.live.server import LIVE_FOLDER, LOOPBACK, free_port
from tests.live.stage import SCRIPT, steps
from tests.live.untold import note

from isolane.server import BYE_S, BYE_SPREAD_S
from isolane.settings import PREFIX, Settings

IMAGE: Final = DEPLOY / "docker/Dockerfile"
COMPOSE: Final = DEPLOY / "docker/compose.yaml"

Instruction = tuple[str, str]


def read_image() -> list[Instruction]:
    """Return the instructions of the Dockerfile, in order."""
    lines = [line for line in IMAGE.read_text().splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, value)
        for name, _, value in (line.partition(" ") for line in whole.splitlines() if line)
    ]


def find(name: str) -> str:
    """Return the last instruction of a name: what counts for the image that runs."""
    return [value for each, value in read_image() if each == name][-1]


def find_copied(stage: str | None = None) -> list[list[str]]:
    """Return the words of each COPY from the repository, in a stage or in all: sources, target."""
    copies, here = [], ""
    for name, value in read_image():
        if name == "FROM":
            here = value.partition(" AS ")[2]
        elif name == "COPY" and not value.startswith("--from") and stage in {None, here}:
            copies.append(value.split())
    return copies


def read_compose() -> dict[str, Any]:
    """Return the compose file."""
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return content


# --- what the files say --------------------------------------------------------------------------


def test_image_copies_only_what_there_is_and_what_the_context_holds() -> None:
    sources = [source for *sources, _ in find_copied() for source in sources]
    rules = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == each or source.startswith(f"{each}/") for each in allowed), source
    for each in allowed:
        assert any(each == source or source.startswith(f"{each}/") for source in sources), each


def test_image_runs_one_process_by_itself_without_rights() -> None:
    assert find("USER") == f"{UID}:{UID}"
    assert find("VOLUME") == "/data"
    assert find("STOPSIGNAL") == "SIGTERM"
    assert json.loads(find("CMD"))[:2] == ["isolane", "serve"]
    assert all(name != "ENTRYPOINT" for name, _ in read_image())


def test_compose_file_gives_no_more_than_is_needed_and_time_to_drain() -> None:
    gateway = read_compose()["services"]["isolane"]
    assert (gateway["read_only"], gateway["cap_drop"]) == (True, ["ALL"])
    grace_s = int(gateway["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_timeout_s + BYE_S + BYE_SPREAD_S
    assert (COMPOSE.parent / gateway["build"]["context"]).resolve() == ROOT
    assert (ROOT / gateway["build"]["dockerfile"]).samefile(IMAGE)


def test_compose_file_trusts_the_network_through_which_the_proxy_comes() -> None:
    compose = read_compose()
    gateway, proxy = compose["services"]["isolane"], compose["services"]["proxy"]
    shared = set(gateway["networks"]) & set(proxy["networks"])
    assert shared == {"inside"}
    (config,) = compose["networks"]["inside"]["ipam"]["config"]
    trusted = gateway["environment"]["ISOLANE_TRUSTED_PROXIES"]
    assert ipaddress.ip_network(trusted) == ipaddress.ip_network(config["subnet"])


def test_variables_of_the_compose_file_are_read_by_somebody() -> None:
    services = read_compose()["services"]
    for name in services["isolane"]["environment"]:
        assert name.removeprefix(PREFIX).lower() in Settings.model_fields
    caddy = "".join(file.read_text() for file in (DEPLOY / "caddy").iterdir())
    for name in services["proxy"]["environment"]:
        assert f"{{${name}:" in caddy, name
    assert services["proxy"]["volumes"][0].startswith("../caddy:")


# --- what runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from nothing but what the image copies, and unpack it."""
    context = tmp_path_factory.mktemp("context")
    for *sources, target in find_copied("environment"):
        for source in sources:
            copy(ROOT / source, context / target, is_into=target.endswith("/"))
    shutil.copytree(ROOT / "page/dist", context / "page/dist", dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    folder = tmp_path_factory.mktemp("packages")
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "w")]
    subprocess.run([*build, str(context)], check=True)
    (wheel,) = (folder / "w").glob("isolane-*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "opt")]
    subprocess.run([*install, str(wheel)], check=True)
    return folder / "opt"


def copy(source: Path, target: Path, *, is_into: bool) -> None:
    """Copy a file or a folder as COPY does, without what the context leaves out."""
    if source.is_dir():
        left_out = shutil.ignore_patterns("dist", "node_modules", "__pycache__")
        shutil.copytree(source, target, ignore=left_out, dirs_exist_ok=True)
        return
    place = target / source.name if is_into else target
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


def image_env() -> dict[str, str]:
    """Return the environment of the image; without its PATH, for the packages lie elsewhere."""
    words = find("ENV").split()
    env = dict(word.split("=", 1) for word in words)
    python = f"{sys.prefix}/bin"
    return {**env, "PATH": f"{python}:/usr/bin:/bin", "PYTHONPATH": "/opt/isolane"}


def with_port(command: list[str], port: int) -> list[str]:
    """Return a command of the image for another port than 8000."""
    return [word.replace("8000", str(port)) for word in command]


def as_module(command: list[str]) -> list[str]:
    """Return a command of the image with the interpreter that the tests have."""
    return ["python", "-m", *command]


@pytest.mark.timeout(180)
async def test_image_serves_answers_keeps_and_drains_as_a_stranger_on_a_read_only_root(
    tmp_path: Path, packages: Path
) -> None:
    port = free_port()
    container = Container(tmp_path, packages, LIVE_FOLDER, tmp_path / "data")
    container.prepare()
    serve = as_module(with_port(json.loads(find("CMD")), port))
    env = image_env()
    async with container.running(*serve, "--agent", SCRIPT, env=env) as running:
        await running.until_said('"event": "ready"')
        assert_without_rights(running.read_status())
        await until_healthy(port)
        code, out = await container.run(*as_module(["isolane", "token", "--user", "ada"]), env=env)
        assert code == 0, out
        for place in ("/", "/agents", "/opt/isolane", "/usr"):
            assert (await container.run("touch", f"{place}/x", env=env))[0] == 1
        token = note(out.strip())
        await assert_page(port)
        async with connect(f"ws://{LOOPBACK}:{port}/ws", token) as client:
            follower = await client.subscribe("t")
            await client.run("t", "r", steps(["say", "begun "], ["hold", "never"]))
            await client.until_true(lambda: bool(follower.text))
            stopping = asyncio.create_task(running.stop())
            await client.until_type("draining")
            await client.abort("r")
            await client.until_true(lambda: follower.has_ended("r"))
            assert await stopping == 0
    assert not [line for line in container.said if "Traceback" in line]
    kept = {file.name: file.stat() for file in container.data.iterdir()}
    assert kept.keys() >= {"isolane.db", "signing.key"}
    assert {file.st_uid for file in kept.values()} == {UID}
    assert kept["signing.key"].st_mode & 0o077 == 0


def assert_without_rights(status: Mapping[str, str]) -> None:
    """Fail unless the process is number 1 in there, and may do nothing that root may."""
    assert status["NSpid"].split()[1] == "1"
    assert set(status["Uid"].split()) == {str(UID)}
    assert {status[name] for name in ("CapEff", "CapBnd", "CapInh")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


async def until_healthy(port: int) -> None:
    """Run what the image calls its health check: it says yes once the server answers."""
    check = json.loads(re.sub(r"^.*?CMD ", "", find("HEALTHCHECK")))
    assert check[0] == "python"
    healthy = await asyncio.create_subprocess_exec(sys.executable, *with_port(check, port)[1:])
    assert await asyncio.wait_for(healthy.wait(), 30) == 0
    sick = await asyncio.create_subprocess_exec(
        sys.executable, *with_port(check, free_port())[1:], stderr=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(sick.wait(), 30) == 1


async def assert_page(port: int) -> None:
    """Fail unless the page that is part of the wheel is served."""
    async with httpx.AsyncClient(trust_env=False) as http:
        page = await http.get(f"http://{LOOPBACK}:{port}/")
    assert page.status_code == 200
    assert "<script" in page.text
