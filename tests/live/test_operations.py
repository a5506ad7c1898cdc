"""What those see who run the server: its health, its figures, its logs, its command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from tests.live.client import connect, is_terminal
from tests.live.server import (
    GAUGES,
    LIVE_FOLDER,
    START_TIMEOUT_S,
    Server,
    ServerError,
    running_server,
)
from tests.live.stage import (
    SCRIPT,
    SECRET_KEY,
    Lane,
    mint,
    own_server,
    settled,
    shared_server,
    steps,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEPENDENCIES = ("database", "event loops", "memory", "disk")
METRICS_TOKEN = "metrics-token-of-the-live-tests"
server = shared_server(SCRIPT, env={"ISOLANE_METRICS_TOKEN": METRICS_TOKEN})


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


async def isolane(*command: str, env: dict[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isolane", *command),
        cwd=LIVE_FOLDER,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        pytest.fail(f"{command} goes on: {err.decode()}")
    return Ended(process.returncode or 0, out.decode(), err.decode())


# --- health and figures --------------------------------------------------------------------------


async def test_health_says_that_it_lives_and_readiness_names_each_dependency(
    server: Server,
) -> None:
    async with server.http() as http:
        alive, ready = await http.get("/healthz"), await http.get("/readyz")
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    body = ready.json()
    node = body.pop("node")
    assert (ready.status_code, body) == (
        200,
        {"status": "ready", "dependencies": dict.fromkeys(DEPENDENCIES, "ok")},
    )
    assert node.pop("name").endswith(f":{server.port}")
    assert node == {
        "role": "all",
        "lease": "held",
        "leaseAgeMs": 0,
        "bell": "ok",
        "clockSkewMs": 0,
        "nodes": 1,
    }


async def test_metrics_need_their_token_once_there_is_one(server: Server) -> None:
    for token, reason in (
        (None, "missing"),
        ("wrong", "invalid"),
        (METRICS_TOKEN + "x", "invalid"),
        (mint("ann"), "invalid"),
    ):
        async with server.http(token) as http:
            answer = await http.get("/metrics")
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (401, "unauthenticated")
        assert (problem["reason"], METRICS_TOKEN in answer.text) == (reason, False)
    async with server.http(METRICS_TOKEN) as http:
        answer = await http.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"][:10]) == (200, "text/plain")
    assert METRICS_TOKEN not in "\n".join(server.lines)


async def test_gauges_are_there_from_the_start_and_need_no_credential(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        async with server.http() as http:
            text = (await http.get("/metrics")).text
        for gauge in GAUGES:
            assert f"# TYPE {gauge} gauge" in text
        gauges = await server.gauges()
        assert {name: gauges[name] for name in GAUGES if name != "isolane_tasks"} == dict.fromkeys(
            (name for name in GAUGES if name != "isolane_tasks"), 0.0
        )
        assert "user_id" not in text
        assert (await isolane_gauges_in_use(server))["isolane_connections"] == 2
        await server.wait_for_gauges(gauges)


async def isolane_gauges_in_use(server: Server) -> dict[str, float]:
    """Return the gauges while one user has two sockets, a thread and a run."""
    lane = Lane(server)
    async with lane.connect() as client, lane.connect():
        await client.run("t", "r-1", steps(["say", "x"], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        gauges = await server.gauges()
        for name in ("isolane_managers", "isolane_followers", "isolane_runs_active"):
            assert gauges[name] == 1
        await client.abort("r-1")
        await client.until_end("r-1")
    return gauges


async def test_after_a_storm_the_gauges_are_equal_to_the_baseline(server: Server) -> None:
    baseline = await server.gauges()

    async def storm(lane: Lane, number: int) -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(lane.connect()) for _ in range(4)]
            for place, client in enumerate(clients):
                await client.subscribe(f"t-{place % 2}")
                await client.run(f"t-{place}", f"r-{number}-{place}", steps(["count", 50]))
            await clients[0].send("no JSON")
            await clients[1].abort(f"r-{number}-2")
            await clients[2].send({"type": "unsubscribe", "threadId": "t-0"})
            await clients[3].until(is_terminal)
            for client in clients[::2]:
                client.socket.transport.abort()
        async with lane.replay(f"r-{number}-0") as replay:
            assert (await replay.closed())[0] == 1000

    lanes = [Lane(server) for _ in range(5)]
    for number in range(3):
        await asyncio.gather(*(storm(lane, number) for lane in lanes))
    for lane in lanes:  # what runs still is not yet quiet
        async with lane.connect() as client:
            assert client.welcome is not None
            for active in client.welcome["activeRuns"]:
                async with lane.replay(active["runId"]) as replay:
                    await replay.closed()
    await server.wait_for_gauges(baseline)


async def test_refused_upgrades_leave_nothing_behind(server: Server) -> None:
    baseline = await server.gauges()
    for token in (None, "bad", mint("ann", expires_s=-9)):
        for _ in range(10):
            async with connect(server.websocket_url(), token, hello=False) as client:
                assert (await client.closed())[0] == 4401
    await server.wait_for_gauges(baseline)


# --- logs ----------------------------------------------------------------------------------------


async def test_log_is_a_json_object_a_line_without_tokens_or_text(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        token = mint(lane.user)
        async with lane.connect_with(token) as client:
            await client.send({"type": "hello", "v": 1})
            await client.run("t", "r-1", "words-that-are-nobodys-business")
            await client.until(is_terminal)
            await client.send({"type": "auth", "token": "token-that-is-none"})
            await client.send('{"type": "text-of-no-frame", ')
            await client.send({"type": "subscribe", "threadId": "t", "after": "cursor-of-none"})
            await client.run("t", "r-2", steps(["raise", "ValueError", "why"]))
            await client.until(is_terminal)
            await settled(client)
        (ticket,) = await server.tickets(token)
        async with connect(f"{server.websocket_url()}?ticket={ticket}", None) as client:
            await settled(client)
        await server.stop()
        entries = [json.loads(line) for line in server.lines]
    assert all(isinstance(entry, dict) for entry in entries)
    assert all({"event", "level", "timestamp"} <= entry.keys() for entry in entries)
    said = "\n".join(server.lines)
    for secret in (*token.split(".")[1:], ticket, "token-that-is-none", SECRET_KEY):
        assert secret not in said
    assert "words-that-are-nobodys-business" not in said
    assert "text-of-no-frame" not in said
    connected = next(entry for entry in entries if entry["event"] == "connected")
    assert connected["user_id"] == lane.user
    ids = {entry.get("connection_id") for entry in entries if entry["event"] == "disconnected"}
    assert connected["connection_id"] in ids
    failed = next(entry for entry in entries if entry["event"] == "run_failed")
    assert {"user_id", "thread_id", "run_id", "request_id", "error_id"} <= failed.keys()


# --- its end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_idle_server_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    env = {"ISOLANE_DRAIN_TIMEOUT_S": "30"}
    async with own_server(tmp_path, SCRIPT, env=env) as server, Lane(server).connect() as client:
        stopped, close = await asyncio.gather(server._end(number), client.closed())
    assert (stopped.code, stopped.duration_s < 5) == (0, True)
    assert close == (1001, "going_away")


# --- the command line ----------------------------------------------------------------------------

WRONG = [
    *(("HEARTBEAT_S", "soon"), ("RUN_TIMEOUT_S", "inf"), ("LIMIT_FRAME_BYTES", "10")),
    *(("POLICY", "fight"), ("ALLOWED_ORIGINS", "no origin")),
]
WRONG_SECRETS = [
    ("SECRET_KEY", "thirty-one-bytes-are-not-enough"),
    ("DATABASE_URL", "mysql://ann:pass-word@host/name"),
]


@pytest.mark.parametrize("name,value", [*WRONG, *WRONG_SECRETS])
async def test_wrong_setting_stops_the_start_with_one_sentence(
    tmp_path: Path, name: str, value: str
) -> None:
    variable = f"ISOLANE_{name}"
    # `token` reads the settings as `serve` does.
    ended = await isolane(
        *("token", "--user", "ann", "--data", str(tmp_path)), env={variable: value}
    )
    assert (ended.code != 0, ended.out) == (True, "")
    (sentence,) = ended.err.splitlines()
    assert variable in sentence
    assert (value in sentence) == ((name, value) in WRONG)
    assert sentence.endswith(".")


async def test_server_does_not_start_with_a_wrong_setting(tmp_path: Path) -> None:
    ended = await isolane(
        *("serve", "--agent", "protocol_agents:script", "--data", str(tmp_path), "--port", "0"),
        env={"ISOLANE_HEARTBEAT_S": "soon"},
    )
    assert ended.code != 0
    assert len(ended.err.splitlines()) == 1


async def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "isolane.toml"
    config.write_text("limit_runs_per_user = 3\nlimit_threads_per_user = 4\n")
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    env = {
        "ISOLANE_SECRET_KEY": SECRET_KEY,
        "ISOLANE_LIMIT_THREADS_PER_USER": "7",
        "ISOLANE_SEND_TIMEOUT_S": "2.5",
        "ISOLANE_DATA": str(elsewhere),
    }
    server = Server(data, (SCRIPT,), env, ("--config", str(config)))
    await server.start()
    try:
        async with Lane(server).connect() as client:
            assert client.welcome is not None
            limits = client.welcome["limits"]
    finally:
        await server.stop()
    assert (limits["runsPerUser"], limits["threadsPerUser"]) == (3, 7)
    assert limits["sendTimeoutMs"] == 2500
    assert (data.is_dir(), elsewhere.exists()) == (True, False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Give a server with a signing key of its own making."""
    async with running_server(tmp_path_factory.mktemp("keyed"), SCRIPT) as server:
        yield server
    server.assert_clean()


async def test_token_is_alone_on_stdout(keyed: Server) -> None:
    ended = await isolane("token", "--user", "no.account:needed", "--data", str(keyed.data))
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", ended.out)
    async with connect(keyed.websocket_url(), ended.out.strip()) as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == "no.account:needed"


async def test_negative_expiry_makes_an_expired_token(keyed: Server) -> None:
    token = await keyed.token("ann", expires=-60)
    async with connect(keyed.websocket_url(), token, hello=False) as client:
        assert (await client.recv())["reason"] == "expired"
        assert await client.closed() == (4401, "expired")


async def test_token_is_for_who_can_be_a_user(keyed: Server) -> None:
    ended = await isolane("token", "--user", "none", "--data", str(keyed.data))
    assert (ended.code != 0, ended.out) == (True, "")
    assert "--user" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "spec,said",
    [
        ("protocol_agents:coroutine_function", "coroutine function"),
        ("protocol_agents:sync_generator", "generator"),
        ("protocol_agents:Rambler", "class Rambler"),
        ("protocol_agents:mock", "mock"),
        ("protocol_agents:called", "call"),
        ("protocol_agents:nobody", "nobody"),
        ("protocol_agents", "module:attribute"),
    ],
)
async def test_what_is_no_agent_is_refused_with_what_is_wanted(
    tmp_path: Path, spec: str, said: str
) -> None:
    ended = await isolane("serve", "--agent", f"me={spec}", "--data", str(tmp_path), "--port", "0")
    assert ended.code not in {0, -9}
    (sentence,) = ended.err.splitlines()
    assert said in sentence
    assert "async generator function" in sentence or "module:attribute" in sentence
    assert "Traceback" not in ended.err


async def refusal_of(*options: str, code: int = 1, env: dict[str, str] | None = None) -> str:
    """Return the one sentence with which `isolane serve` refuses to start."""
    ended = await isolane("serve", *options, env=env)
    assert (ended.code, ended.out) == (code, "")
    (sentence,) = ended.err.splitlines()
    assert "Traceback" not in sentence
    return sentence


async def test_module_that_fails_at_its_import_is_told_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("x = 1\n\nraise ValueError('two\\nlines')\n")
    options = ("--agent", "me=broken_module:agent", "--data", str(tmp_path))
    env = {"PYTHONPATH": str(tmp_path)}
    sentence = await refusal_of(*options, env=env)
    for word in ("--agent me=broken_module:agent", "broken_module.py, line 3", "two lines"):
        assert word in sentence
    ended = await isolane("serve", *options, "--log-level", "debug", env=env)
    log, repeated = ended.err.splitlines()
    assert (ended.code, repeated) == (1, sentence)
    assert "Traceback" in json.loads(log)["exception"]


async def test_unknown_names_stop_the_start(tmp_path: Path) -> None:
    config = tmp_path / "isolane.toml"
    config.write_text("hartbeat_s = 5\n")
    assert "write heartbeat_s." in await refusal_of("--config", str(config))
    env = {"ISOLANE_HARTBEAT_S": "5"}
    ended = await isolane("token", "--user", "ann", "--data", str(tmp_path), env=env)
    assert (ended.code, ended.out) == (1, "")
    assert "write ISOLANE_HEARTBEAT_S" in ended.err


async def test_variables_that_change_nothing_are_warnings(tmp_path: Path) -> None:
    of_kubernetes = {
        "ISOLANE_SERVICE_HOST": "10.0.0.7",
        "ISOLANE_PORT": "tcp://10.0.0.7:8000",
        "ISOLANE_DATA_PORT_8000_TCP": "tcp://10.0.0.8:8000",
    }
    env = {**of_kubernetes, "WEB_CONCURRENCY": "4"}
    async with own_server(tmp_path / "data", SCRIPT, env=env) as server:
        names, workers = (entry for entry in server.logs if entry["level"] == "warning")
    assert (names["event"], names["names"]) == ("settings_unknown", sorted(of_kubernetes))
    assert (workers["event"], workers["web_concurrency"]) == ("workers_ignored", "4")


async def test_more_workers_than_one_are_refused() -> None:
    assert "one process" in await refusal_of("--workers", "2", code=2)


async def test_port_that_is_taken_stops_the_start_before_anything_is_opened(
    keyed: Server, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    options = ("--agent", "protocol_agents:script", "--data", str(data))
    taken = await refusal_of(*options, "--port", str(keyed.port))
    assert f"Port {keyed.port} of 127.0.0.1 is taken" in taken
    assert not list(data.glob("*.db"))


async def test_of_two_servers_that_start_at_once_on_one_folder_one_serves(tmp_path: Path) -> None:
    env = {"ISOLANE_LOG_LEVEL": "info"}
    one, other = (Server(tmp_path / "data", (SCRIPT,), env) for _ in range(2))
    started = await asyncio.gather(one.start(), other.start(), return_exceptions=True)
    (refused,) = [result for result in started if result is not None]
    assert "another gateway has" in str(refused)
    assert "Traceback" not in str(refused)
    (serving,) = [server for server in (one, other) if server.is_running]
    assert (await serving.stop()).code == 0


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
async def test_server_by_a_link_to_a_served_database_is_refused(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    async with own_server(tmp_path / "one", SCRIPT) as server, Lane(server).connect():
        other = tmp_path / "other.db"
        link(other, tmp_path / "one" / "isolane.db")
        env = {"ISOLANE_DATABASE_URL": f"sqlite:///{other}"}
        with pytest.raises(ServerError, match="another gateway has"):
            async with running_server(tmp_path / "two", SCRIPT, env=env):
                pass


async def test_start_that_fails_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "isolane.db").write_bytes(b"this is no database, whatever its name says" * 100)
    options = ("--agent", "protocol_agents:script", "--data", str(tmp_path), "--port", "0")
    assert "file is not a database" in await refusal_of(*options)


async def test_folder_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT):
        pass
    file = tmp_path / "isolane.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = file.read_bytes()
    options = ("--agent", "protocol_agents:script", "--data", str(tmp_path), "--port", "0")
    said = await refusal_of(*options)
    assert "A newer version of Isolane wrote the database" in said
    assert str(file) in said
    assert file.read_bytes() == before


async def test_console_lines_have_no_colours_where_no_terminal_is(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", (SCRIPT,), options=("--log-format", "console"))
    await server.start()
    await server.stop()
    (line,) = [line for line in server.lines if "ready" in line]
    assert "\x1b" not in line
