"""The unit for systemd, and what the server tells systemd of its life."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
from tests.live.deploy.container import Container
from tests.live.deploy.front import DEPLOY, ROOT, fill_in
from tests.live.server import (
    LIVE_FOLDER,
    LOOPBACK,
    START_TIMEOUT_S,
    Server,
    ServerError,
    free_port,
)
from tests.live.stage import SCRIPT, SECRET_KEY, Lane, steps

from isolane.server import BYE_S, BYE_SPREAD_S
from isolane.settings import Settings

ENV: Final = {"ISOLANE_SECRET_KEY": SECRET_KEY, "ISOLANE_DRAIN_TIMEOUT_S": "30"}


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an address as systemd writes it into NOTIFY_SOCKET."""
    return (
        f"@isolane-{uuid4()}"
        if getattr(request, "param", "") == "abstract"
        else str(tmp_path / "notify")
    )


@pytest.fixture
def systemd(address: str) -> Iterator[socket.socket]:
    """Give a socket that hears what systemd would hear."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(0)
        yield listener


async def hear(systemd: socket.socket) -> bytes:
    """Return the next thing that systemd is told."""
    loop = asyncio.get_running_loop()
    return await asyncio.wait_for(loop.sock_recv(systemd, 4096), START_TIMEOUT_S)


@pytest.mark.parametrize("address", ["path", "abstract"], indirect=True)
async def test_systemd_hears_ready_once_requests_are_answered_and_stopping_before_runs_end(
    tmp_path: Path, systemd: socket.socket, address: str
) -> None:
    server = Server(tmp_path / "data", (SCRIPT,), {**ENV, "NOTIFY_SOCKET": address})
    starting = asyncio.create_task(server.start())
    assert await hear(systemd) == b"READY=1"
    async with server.http() as http:
        assert (await http.get("/readyz")).status_code == 200
    await starting
    lane = Lane(server)
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        await client.run("t", "r", steps(["say", "begun "], ["hold", "end"]))
        await client.until_true(lambda: bool(follower.text))
        stopping = asyncio.create_task(server.stop())
        assert await hear(systemd) == b"STOPPING=1"
        assert not follower.has_ended("r")
        server.send_signal(signal.SIGTERM)
        stopped = await stopping
    assert stopped.code == 0


async def test_server_that_cannot_start_is_never_ready(
    tmp_path: Path, systemd: socket.socket, address: str
) -> None:
    with closing(socket.socket()) as taker:
        taker.bind((LOOPBACK, 0))
        env = {**ENV, "NOTIFY_SOCKET": address}
        server = Server(tmp_path / "data", (SCRIPT,), env, port=taker.getsockname()[1])
        with pytest.raises(ServerError):
            await server.start()
    with pytest.raises(BlockingIOError):
        systemd.recv(4096)


async def test_server_without_anybody_to_tell_starts_with_a_warning(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    server = Server(tmp_path / "data", (SCRIPT,), {**ENV, "NOTIFY_SOCKET": nowhere})
    await server.start()
    await server.close()
    warnings = [entry for entry in server.logs if entry["event"] == "systemd_notify_failed"]
    assert [entry["state"] for entry in warnings] == ["READY=1", "STOPPING=1"]
    assert os.strerror(2) in warnings[0]["reason"]


# --- the unit ------------------------------------------------------------------------------------

UNIT: Final = DEPLOY / "systemd/isolane.service"
PROGRAM: Final = "/opt/isolane/venv/bin/isolane"
PORT: Final = "8000"
EXPOSURE_MAX: Final = 15
"""Tenths of what `systemd-analyze security` counts: 0 is locked in, 100 is unguarded."""
NO_NEW_CODE: Final = """
import ctypes, os, sys
sys.exit(1) if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) else os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Does what MemoryDenyWriteExecute does, then becomes the command: PR_SET_MDWE."""


def read_unit() -> dict[str, list[str]]:
    """Return the settings of the unit; some stand there several times."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd what it thinks of a unit."""
    command = ["systemd-analyze", "--no-pager", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    fill_in(UNIT, {PROGRAM: sys.executable}, tmp_path)
    ended = analyze("--man=no", "verify", str(tmp_path / UNIT.name))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_unit_is_locked_in() -> None:
    ended = analyze("--offline=yes", f"--threshold={EXPOSURE_MAX}", "security", str(UNIT))
    assert ended.returncode == 0, ended.stdout


def test_unit_gives_runs_and_goodbyes_their_time() -> None:
    (stop_s,) = read_unit()["TimeoutStopSec"]
    assert int(stop_s) > Settings().drain_timeout_s + BYE_S + BYE_SPREAD_S


def test_unit_keeps_data_where_the_service_may_write() -> None:
    unit = read_unit()
    given = dict(word.split("=", 1) for value in unit["Environment"] for word in value.split())
    assert given["ISOLANE_DATA"] == f"/var/lib/{unit['StateDirectory'][0]}"


def test_settings_that_the_sample_names_exist() -> None:
    names = re.findall(
        r"^#?(ISOLANE_\w+)=", (UNIT.parent / "isolane.env").read_text(), re.MULTILINE
    )
    assert names
    assert {name.removeprefix("ISOLANE_").lower() for name in names} <= Settings.model_fields.keys()


async def test_command_of_the_unit_starts_as_a_stranger_who_may_write_nothing_else(
    tmp_path: Path,
) -> None:
    address = f"@isolane-{uuid4()}"
    container = Container(tmp_path, ROOT / "src", LIVE_FOLDER, tmp_path / "data")
    container.prepare()
    (words,) = read_unit()["ExecStart"]
    options = {"$SERVE_OPTIONS": f"--agent {SCRIPT}", PORT: str(free_port())}
    for old, new in {PROGRAM: "python -m isolane", **options}.items():
        words = words.replace(old, new)
    env = {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "PYTHONPATH": "/opt/isolane",
        "ISOLANE_DATA": "/data",
        "NOTIFY_SOCKET": address,
    }
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(0)
        command = ("python", "-c", NO_NEW_CODE, *words.split())
        async with container.running(*command, env=env) as running:
            assert await hear(listener) == b"READY=1"
            code, _ = await container.run("sh", "-c", "touch /x /opt/isolane/x /usr/x", env=env)
            assert code == 1
            assert await running.stop() == 0
