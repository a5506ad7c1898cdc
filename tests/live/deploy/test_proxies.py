"""The proxy files that are shipped: real nginx and real Caddy, with TLS, at `/` and `/chat/`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import pytest
import pytest_asyncio
from tests.live.client import SUBPROTOCOL, Client, begin, run_frame
from tests.live.deploy.front import (
    NAME,
    Front,
    find_assets,
    running_front,
)
from tests.live.event_stream import open_stream
from tests.live.people import COOKIE, new_person, sign_in
from tests.live.server import START_TIMEOUT_S, Looks, Server
from tests.live.stage import SCRIPT, Lane, mint, own_server, steps
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

PROXIES: Final = ("nginx", "caddy")
PLACES: Final = [(kind, path) for kind in PROXIES for path in ("", "/chat")]
TOKEN_BYTES: Final = 16 * 1024


@dataclass(frozen=True)
class Deployment:
    """A gateway and the proxy before it."""

    server: Server
    front: Front

    def connect(
        self,
        token: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        query: str = "",
        hello: bool = True,
    ) -> AbstractAsyncContextManager[Client]:
        """Open a socket through the proxy."""
        offered = [SUBPROTOCOL, *([Subprotocol(f"bearer.{token}")] if token else [])]
        return socket_through(self.front, offered, headers or {}, query, hello=hello)


@asynccontextmanager
async def socket_through(
    front: Front, offered: list[Subprotocol], headers: dict[str, str], query: str, *, hello: bool
) -> AsyncIterator[Client]:
    """Open a socket through a proxy."""
    async with open_websocket(
        front.websocket_url + query,
        ssl=front.tls,
        subprotocols=offered,
        additional_headers=headers,
        max_size=None,
        proxy=None,
        ping_interval=None,
        close_timeout=2.0,
    ) as socket:
        yield await begin(socket, hello=hello)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=PLACES, ids=[kind + path for kind, path in PLACES]
)
async def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    """Give a gateway behind each proxy, on a host of its own and below a path."""
    kind, path = request.param
    folder = tmp_path_factory.mktemp("front")
    server = Server(folder / "data", (SCRIPT,))
    async with running_front(kind, folder, server.address, path=path) as front:
        env = {"ISOLANE_PUBLIC_URL": front.url}
        async with own_server(folder / "data", SCRIPT, env=env, port=server.port) as server:
            yield Deployment(server, front)
    for secret in ("?", "ticket=", "bearer.", "eyJ"):
        assert secret not in front.read_logs()


def new_user(deployment: Deployment) -> tuple[str, str]:
    """Return a user whom no other test knows, and a token of theirs."""
    user = Lane(deployment.server).user
    return user, mint(user)


async def test_page_and_its_files_are_served(deployment: Deployment) -> None:
    async with deployment.front.http() as http:
        page = await http.get("/")
        assert page.status_code == 200
        assets = find_assets(page.text)
        assert assets
        for asset in assets:
            answer = await http.get(urljoin(deployment.front.url + "/", asset))
            assert (answer.status_code, asset) == (200, asset)


async def test_browser_signs_in_with_a_secure_cookie_and_opens_a_socket(
    deployment: Deployment,
) -> None:
    person = await new_person(deployment.server)
    front = deployment.front
    async with front.http() as http:
        answer = await sign_in(http, person.name, Origin=front.origin)
        assert answer.status_code == 200
        attributes = answer.headers["set-cookie"].split("; ")
        assert "Secure" in attributes
        assert f"Path={front.path or '/'}" in attributes or f"Path={front.path}/" in attributes
        headers = {"Cookie": f"{COOKIE}={http.cookies[COOKIE]}"}
        assert (await http.get("/api/me")).json()["userId"] == person.name
        own = {**headers, "Origin": front.origin}
        async with deployment.connect(headers=own) as client:
            assert client.welcome is not None
            assert client.welcome["userId"] == person.name
        with pytest.raises(InvalidStatus, match="403"):
            async with open_websocket(
                front.websocket_url,
                ssl=front.tls,
                additional_headers={**headers, "Origin": f"http://{NAME}:{front.port}"},
                proxy=None,
            ):
                pass


async def test_events_of_a_socket_and_of_a_stream_come_before_the_run_ends(
    deployment: Deployment,
) -> None:
    user, token = new_user(deployment)
    text = steps(["say", "begun "], ["hold", user])
    async with deployment.connect(token) as client, deployment.front.http(token) as http:
        follower = await client.subscribe("t")
        async with open_stream(http, "/agui", run_frame("t", "r", text)) as stream:
            await stream.until_type("TEXT_MESSAGE_CONTENT")
            await client.until_true(lambda: "begun" in follower.text)
            assert not follower.has_ended("r")
            await Lane(deployment.server).open_gate(user)
            await stream.until_end("r")
        await client.until_true(lambda: follower.has_ended("r"))


async def test_reader_who_leaves_is_noticed_behind_the_proxy(deployment: Deployment) -> None:
    _, token = new_user(deployment)
    baseline = await deployment.server.gauges()
    async with deployment.front.http(token) as http:
        text = steps(["say", "begun "], ["hold", "never"])
        async with open_stream(http, "/agui", run_frame("t", "r", text)) as stream:
            await stream.until_type("TEXT_MESSAGE_CONTENT")
            assert (await deployment.server.gauges())["isolane_followers"] > 0
        async with deployment.connect(token) as client:
            await client.abort("r")
            await client.until_type("stopping")
    await deployment.server.wait_for_gauges(baseline, within_s=20)


@pytest.mark.parametrize("where", ["header", "subprotocol"])
async def test_token_of_16_kib_passes(deployment: Deployment, where: str) -> None:
    user, _ = new_user(deployment)
    token = mint(user, groups="x" * (TOKEN_BYTES * 3 // 4 - 250))
    assert TOKEN_BYTES - 400 < len(token) <= TOKEN_BYTES
    async with deployment.front.http(token) as http:
        assert (await http.get("/api/me")).json()["userId"] == user
    how: dict[str, Any] = (
        {"token": token}
        if where == "subprotocol"
        else {"headers": {"Authorization": f"Bearer {token}"}}
    )
    async with deployment.connect(**how) as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == user


async def test_gateway_itself_says_which_body_is_too_large(deployment: Deployment) -> None:
    """A list of many messages passes, and so does one in which too much is new."""
    _, token = new_user(deployment)
    async with deployment.front.http(token) as http:
        for new, status in ((10_000, 422), (2 << 20, 413)):
            said = [{"role": "assistant", "content": "x" * (3 << 20)}]
            answer = await http.post("/agui", json={"messages": said, "state": "x" * new})
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"


async def test_ticket_opens_a_socket_and_stands_in_no_log(deployment: Deployment) -> None:
    user, token = new_user(deployment)
    async with deployment.front.http(token) as http:
        ticket = (await http.post("/api/tickets")).json()["ticket"]
    async with deployment.connect(query=f"?ticket={ticket}") as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == user
    await until_logged(deployment.front, f"{deployment.front.path}/ws")
    assert ticket not in deployment.front.read_logs()


async def until_logged(front: Front, text: str) -> None:
    """Return once the proxy has written a text."""
    async for _ in Looks(START_TIMEOUT_S):
        if text in front.read_logs():
            return
    raise TimeoutError(f"{text!r} is not in {front.read_logs()}")


async def test_the_walk_of_isolane_check_holds(deployment: Deployment) -> None:
    tokens = [mint(new_user(deployment)[0], scope="check") for _ in range(2)]
    words = [word for token in tokens for word in ("--token", token)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isolane", "check", deployment.front.url, *words),
        env={**os.environ, "SSL_CERT_FILE": str(deployment.front.authority)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out.decode()


async def test_restart_of_the_gateway_is_survived_and_what_fails_meanwhile_is_not_written_down(
    deployment: Deployment,
) -> None:
    user, token = new_user(deployment)
    async with deployment.connect(token) as client:
        await deployment.server.stop()
        assert (await client.closed())[0] == 1001
    with pytest.raises(InvalidStatus, match="502"):
        async with deployment.connect(token, query="?ticket=a-secret"):
            pass
    await until_logged(deployment.front, "502")
    await deployment.server.start()
    async with deployment.connect(token) as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == user


async def test_http_2_is_spoken(deployment: Deployment) -> None:
    tls = deployment.front.tls
    tls.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(NAME, deployment.front.port, ssl=tls)
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.transport.abort()
    assert chosen == "h2"


async def test_sockets_survive_a_reload_of_nginx(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", (SCRIPT,))
    async with running_front("nginx", tmp_path, server.address) as front:
        env = {"ISOLANE_PUBLIC_URL": front.url}
        async with own_server(tmp_path / "data", SCRIPT, env=env, port=server.port) as server:
            both = Deployment(server, front)
            _, token = new_user(both)
            async with both.connect(token) as client:
                follower = await client.subscribe("t")
                await client.run("t", "r", steps(["say", "1 "], ["hold", "g"], ["say", "2"]))
                await client.until_true(lambda: bool(follower.text))
                front.send_signal(signal.SIGHUP)
                await until_logged(front, "gracefully shutting down")
                await Lane(server).open_gate("g")
                await client.until_true(lambda: follower.has_ended("r"))
            assert follower.text == "1 2"
