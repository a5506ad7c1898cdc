"""`isolane check`: a healthy server holds, and of a broken one the layer is named."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from tests.live.build import Mistake, build_with
from tests.live.certificate import make_certificate
from tests.live.client import connect, run_frame
from tests.live.forwarding import ReverseProxy, reverse_proxy
from tests.live.server import LOOPBACK, Server, free_port, running_server
from tests.live.stage import (
    SCRIPT,
    SECRET_KEY,
    Lane,
    mint,
    read_to_close,
    shared_server,
    steps,
)

from isolane.check.finding import Round, Verdict
from isolane.check.layers import LAYERS, take_round
from isolane.check.report import to_json, to_lines
from isolane.check.target import find_secret, parse_target
from isolane.check.walk import Request

pytestmark = pytest.mark.asyncio(loop_scope="module")

METRICS_TOKEN: Final = "the metrics have a token of their own"
server = shared_server(
    SCRIPT, env={"ISOLANE_METRICS_TOKEN": METRICS_TOKEN, "ISOLANE_AGENT_THREADS": "1"}
)

NAMES: Final = [name for name, _ in LAYERS]
PATIENCE_S: Final = 40.0


def scoped(user: str, *, expires_s: float = 3600, key: str = SECRET_KEY) -> str:
    """Return a token that may run the agent `check`."""
    return mint(user, expires_s=expires_s, key=key, scope="check")


@dataclass(frozen=True)
class Ended:
    """How the command ended, and what it printed."""

    code: int | None
    out: str
    err: str

    def read(self) -> dict[str, Any]:
        """Return the one JSON object that was printed."""
        report: dict[str, Any] = json.loads(self.out)
        return report


async def run_check(url: str, *words: str) -> Ended:
    """Run the command as a person does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isolane", "check", url, *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return Ended(process.returncode, out.decode(), err.decode())


async def walk(url: str, *tokens: str) -> Round:
    """Take one round; whatever came of it, no part of a token is shown."""
    taken = await take_round(Request(parse_target(url), tokens))
    shown = "\n".join([*to_lines(taken), to_json(url, 1, taken)])
    assert find_secret(shown, tokens) == []
    return taken


def broken_at(taken: Round) -> str:
    """Return the layer that broke: the last that was tried, and all before it held."""
    *held, broken = taken.findings
    assert taken.evidence is not None, to_lines(taken)
    assert broken.verdict is Verdict.BROKE
    assert [finding.layer for finding in taken.findings] == NAMES[: len(taken.findings)]
    assert all(finding.verdict is not Verdict.BROKE for finding in held)
    return broken.layer


def chain_of(taken: Round) -> str:
    """Return what happened from the surface to the root."""
    assert taken.evidence is not None, to_lines(taken)
    return " <- ".join(taken.evidence.chain)


async def threads_of(server: Server, token: str) -> list[str]:
    """Return the ids of the user's threads."""
    async with server.http(token) as http:
        answer = await http.get("/api/threads")
    return [thread["threadId"] for thread in answer.raise_for_status().json()["threads"]]


# --- a healthy server ----------------------------------------------------------------------------


async def test_every_layer_of_a_healthy_server_holds(server: Server) -> None:
    tokens = scoped("check-ann"), scoped("check-bob")
    baseline = await server.gauges()
    ended = await run_check(
        server.url,
        *("--token", tokens[0], "--token", tokens[1]),
        *("--metrics-token", METRICS_TOKEN, "--repeat", "2"),
    )
    assert ended.code == 0, ended
    rounds = [line for line in ended.out.splitlines() if line.startswith("round ")]
    assert [line.split(": ")[:2] for line in rounds] == [["round 1", "held"], ["round 2", "held"]]
    told = {line.split()[1]: line.split()[0] for line in ended.out.splitlines() if " ms " in line}
    assert told == {name: "skipped" if name == "tls" else "held" for name in NAMES}
    assert find_secret(ended.out + ended.err, [*tokens, METRICS_TOKEN]) == []
    assert [await threads_of(server, token) for token in tokens] == [[], []]
    await server.wait_for_gauges(baseline)


async def test_one_token_tries_all_but_isolation_and_a_program_reads_it(server: Server) -> None:
    ended = await run_check(server.websocket_url(), "--token", scoped("check-cid"), "--json")
    report = ended.read()
    assert (ended.code, report["held"], report["brokenAt"], report["rounds"]) == (0, True, None, 1)
    verdicts = {layer["layer"]: layer["verdict"] for layer in report["layers"]}
    assert list(verdicts) == NAMES
    assert {name for name in NAMES if verdicts[name] != "held"} == {
        "tls",  # the URL asks for none
        "isolation",  # it takes two users
        "clean-up",  # the metrics' token was not given
    }
    assert "--metrics-token" in report["layers"][-1]["note"]
    assert all(layer["tookMs"] > 0 for layer in report["layers"] if layer["verdict"] == "held")


async def test_two_tokens_of_one_user_are_wrong_use(server: Server) -> None:
    token = scoped("check-one")
    ended = await run_check(server.url, "--token", token, "--token", token)
    assert (ended.code, ended.out) == (2, "")
    assert "both tokens are of one user" in ended.err


# --- who may run the agent -----------------------------------------------------------------------


async def test_agent_wants_its_scope_at_every_door(server: Server) -> None:
    lane = Lane(server)
    async with server.http(lane.token) as http:
        answers = [
            await http.post("/agui/check", json=run_frame("t", "r-1", steps(["say", "x"]))),
            await http.get("/agui/check/capabilities"),
        ]
        assert [(a.status_code, a.json()["code"]) for a in answers] == [(403, "forbidden")] * 2
        async with lane.connect(agent="check", hello=False) as client:
            frames, close = await read_to_close(client)
        assert ([frame["code"] for frame in frames], close) == (["forbidden"], (4403, "forbidden"))
        assert (await http.get("/api/runs/r-1")).status_code == 404


async def test_run_wants_the_scope_of_the_token_that_counts_now(server: Server) -> None:
    user = "check-renewed"
    async with connect(server.websocket_url("check"), scoped(user)) as client:
        await client.run("t", "r-1", steps(["say", "before"]))
        await client.until_end("r-1")
        await client.send({"type": "auth", "token": mint(user)})
        await client.until_type("auth_ok")
        await client.run("t", "r-2", steps(["say", "after"]))
        assert (await client.until_type("error"))["code"] == "forbidden"
    async with server.http(mint(user)) as http:
        assert (await http.get("/api/runs/r-2")).status_code == 404


async def test_agent_is_never_the_default_and_its_name_is_taken(
    server: Server, tmp_path: Path
) -> None:
    events = await Lane(server).play("t", "r-1", "words are said back by the default agent")
    assert len([e for e in events if e["type"] == "TEXT_MESSAGE_CONTENT"]) > 1
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isolane", "serve", "--port", "0", "--data", str(tmp_path)),
        *("--agent", "check=protocol_agents:script"),
        cwd=Path(__file__).parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert "Error: agent check: the name is that of the built-in one" in err.decode()


# --- what breaks below the gateway ---------------------------------------------------------------

BODY: Final = b"nothing here"


def answer_with(status: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """Return a server's way to answer everything alike."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 {status}\r\nServer: tester\r\nContent-Length: {len(BODY)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + BODY)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return answer


@asynccontextmanager
async def http_server(status: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve one answer to everything, and yield the port."""
    listener = await asyncio.start_server(answer_with(status), LOOPBACK, 0, ssl=tls)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


def server_side(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return what a server with that certificate needs."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls


async def test_a_name_that_does_not_resolve_is_named() -> None:
    taken = await walk("http://no-such-host.invalid", scoped("ann"))
    assert broken_at(taken) == "name"
    assert "gaierror" in chain_of(taken)


async def test_a_closed_port_is_named_and_the_code_says_it() -> None:
    ended = await run_check(f"http://{LOOPBACK}:{free_port()}", "--token", scoped("a"), "--json")
    report = ended.read()
    assert (ended.code, report["held"], report["brokenAt"]) == (1, False, "tcp")
    assert "ConnectionRefusedError" in report["evidence"]["chain"][-1]
    assert report["evidence"]["expected"] == "a connection"


async def test_a_certificate_that_nobody_vouches_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path, x509.IPAddress(ip_address(LOOPBACK)))
    async with http_server("404 Not Found", server_side(certificate, key)) as port:
        unknown = await walk(f"https://{LOOPBACK}:{port}", scoped("ann"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusted = await walk(f"https://{LOOPBACK}:{port}", scoped("ann"))
    assert broken_at(unknown) == "tls"
    assert "self-signed certificate" in chain_of(unknown)
    assert broken_at(trusted) == "upgrade"
    note = trusted.findings[NAMES.index("tls")].note
    assert note.startswith("issued by Tests of Isolane, valid until ")
    assert note.endswith("(30 days)")


async def test_a_port_without_tls_is_named(server: Server) -> None:
    taken = await walk(f"https://{server.address}", scoped("ann"))
    assert broken_at(taken) == "tls"


@pytest.mark.parametrize(
    "status,root",
    [
        ("404 Not Found", "something answers HTTP there, and knows no such address"),
        ("502 Bad Gateway", "the server behind the proxy does not answer"),
        ("200 OK", "something on the way drops the Upgrade header"),
    ],
)
async def test_an_upgrade_that_is_refused_is_named_with_what_lies_below(
    status: str, root: str
) -> None:
    async with http_server(status) as port:
        taken = await walk(f"http://{LOOPBACK}:{port}", scoped("ann"))
    assert broken_at(taken) == "upgrade"
    assert taken.evidence is not None
    assert f"refused with {status[:3]} <- " in chain_of(taken)
    assert root in chain_of(taken)
    assert f"{status[:3]} from tester: {BODY.decode()}" in taken.evidence.came


@pytest.mark.parametrize(
    "token,reason",
    [
        (scoped("ann", key="a key that this server does not have, and never had"), "invalid"),
        (scoped("ann", expires_s=-60), "expired"),
        (mint("ann"), "isolane token --user NAME --scope check"),
    ],
    ids=["of another key", "expired", "without the scope"],
)
async def test_a_bad_token_is_named(server: Server, token: str, reason: str) -> None:
    taken = await walk(server.url, token)
    assert broken_at(taken) == "credential"
    assert taken.evidence is not None
    assert reason in taken.evidence.came + taken.evidence.expected


# --- what breaks before the page -----------------------------------------------------------------

MISLAID: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "another page": ({"own": "/$"}, "something else answers there with a page of its own"),
    "another page for the files": (
        {"own": "/assets/"},
        "its script does not load <- something else answers for files that it doesn't know",
    ),
    "another page below a path": ({"prefix": "/chat", "own": "/$"}, "the page is not there"),
    "another page without the slash": ({"prefix": "/chat", "own": "$"}, "the page is not there"),
    "a path that nobody told": (
        {"prefix": "/chat"},  # without its slash the page looks for its files above
        "its script does not load <- the proxy hides the path that the page is below",
    ),
    "another host": ({"headers": {"Host": "inner"}}, "ISOLANE_PUBLIC_URL"),
    "an encrypted line": ({"headers": {"X-Forwarded-Proto": "https"}}, "ISOLANE_PUBLIC_URL"),
}


@pytest.mark.parametrize("name", MISLAID)
async def test_page_that_a_proxy_hides_is_named(server: Server, name: str) -> None:
    options, what = MISLAID[name]
    async with reverse_proxy(ReverseProxy(server.port, **options)) as proxy:
        taken = await walk(proxy.url, scoped("check-page"))
    assert broken_at(taken) == "page", to_lines(taken)
    assert what in chain_of(taken)


async def test_page_is_tried_below_a_path_and_may_be_left_out(server: Server) -> None:
    token = scoped("check-path")
    says = {"X-Forwarded-Prefix": "/chat"}
    async with reverse_proxy(ReverseProxy(server.port, "/chat", headers=says)) as proxy:
        taken = await walk(proxy.url, token)
        assert taken.evidence is None, to_lines(taken)
    async with reverse_proxy(ReverseProxy(server.port, own="/(assets/.*)?$")) as proxy:
        ended = await run_check(proxy.url, "--token", token, "--json", "--no-page")
    report = ended.read()
    page = next(layer for layer in report["layers"] if layer["layer"] == "page")
    assert (ended.code, page["verdict"], page["note"]) == (0, "skipped", "--no-page was given")


# --- what breaks in the gateway ------------------------------------------------------------------


def mistake(file: str, right: str, wrong: str) -> Mistake:
    return Mistake(file, right, wrong)


SELECTION: Final = "return self.spoken if self.spoken in self.offered else None"
RUN_OWNER: Final = '_RUN: Final = f"{ROWS} WHERE runs.user_id = ? AND run_id = ?"'
STOPS: Final = "await service.stop(RunKey(connection.user_id, run_id), asked_at=asked_at)"
OWN_SOCKETS: Final = "self.get_sockets(user_id)"
ALL_SOCKETS: Final = "self._all_sockets()"
NEWS: Final = f"for connection in {OWN_SOCKETS}:\n            if connection.has_greeted:"
PLANTED: Final[Mapping[str, tuple[str, str, Mistake]]] = {
    "selects what it does not speak": (
        "subprotocol",
        "let in",
        mistake(
            "doors/handshake.py", SELECTION, "return self.offered[-1] if self.offered else None"
        ),
    ),
    "repeats the token in a header": (
        "credential",
        "repeats the token",
        mistake(
            "doors/websocket.py",
            '"subprotocol": subprotocol}',
            '"subprotocol": subprotocol, "headers":'
            ' [pair for pair in self.scope["headers"] if pair[0] == b"authorization"]}',
        ),
    ),
    "forgets an await": (
        "manager",
        "internal",
        mistake(
            "sockets/open_factory.py",
            "await chosen.create_manager(context)",
            "chosen.create_manager(context)",
        ),
    ),
    "does not stop": (
        "stop",
        "did not come in 5 s",
        mistake("doors/conversation.py", STOPS, "True"),
    ),
    "sends the cursor's own event again": (
        "resume",
        "doubled",
        mistake(
            "log/tail.py",
            "        position = after\n",
            "        position = EventId(after.epoch, max(after.seq - 1, 0))\n",
        ),
    ),
    "tells everybody of a thread": (
        "isolation",
        "reached frames on the second user's socket",
        mistake("sockets/registry.py", NEWS, NEWS.replace(OWN_SOCKETS, ALL_SOCKETS)),
    ),
    "forgets whose run it is": (
        "isolation",
        "a foreign id is answered otherwise",
        mistake("sql/runs.py", RUN_OWNER, RUN_OWNER.replace("runs.user_id =", "'' !=")),
    ),
    "hands the client's ids to the agent": (
        "isolation",
        "by what the agent remembers",
        mistake(
            "runs/agent_input.py",
            "client if is_raw else run.get_begun().agent_ids",
            "client",
        ),
    ),
    "serves none of the page's files": (
        "page",
        "does not load",
        mistake("doors/page.py", 'f"assets/{path}"', "path"),
    ),
    "serves an empty page": (
        "page",
        "the page is not there",
        mistake("doors/page.py", 'folder / "index.html", headers', '"/dev/null", headers'),
    ),
    "keeps its connections": (
        "clean-up",
        "gauges don't return",
        mistake("doors/websocket.py", "await self.gateway.factory.release(connection)", "pass"),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
async def test_the_layer_of_a_mistake_is_named(name: str, tmp_path: Path) -> None:
    layer, what, planted = PLANTED[name]
    env = {"ISOLANE_SECRET_KEY": SECRET_KEY, "ISOLANE_DRAIN_TIMEOUT_S": "0"}
    env |= build_with(tmp_path / "build", planted)
    async with running_server(tmp_path / "data", SCRIPT, env=env, is_planted=True) as server:
        taken = await walk(server.url, scoped("ann"), scoped("bob"))
        assert broken_at(taken) == layer, to_lines(taken)
        assert what in chain_of(taken)
        assert taken.left_behind == ""
        assert await threads_of(server, scoped("ann")) == []
