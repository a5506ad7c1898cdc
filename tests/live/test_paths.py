"""The gateway below a path: behind proxies that strip it or keep it, and mounted in host apps."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import pytest
from tests.live.client import Client
from tests.live.forwarding import ReverseProxy, reverse_proxy
from tests.live.people import COOKIE, PASSWORD, open_accounts
from tests.live.provider import Provider
from tests.live.server import LOOPBACK, POLL_S, START_TIMEOUT_S, ServerError, free_port
from tests.live.stage import SCRIPT, own_server
from websockets.asyncio.client import connect as open_websocket
from websockets.typing import Subprotocol

HERE: Final = Path(__file__).parent
USER: Final = "ada"
AWAY: Final = Provider("away")
"""Nobody is ever there, so signing in at it fails."""
_LINK: Final = re.compile(r'<(?:script|link)\b[^>]*\b(?:src|href)="([^"]+)"')


async def new_account(data: Path) -> None:
    """Make the account that each test signs in with."""
    await asyncio.to_thread(data.mkdir, parents=True, exist_ok=True)
    async with open_accounts(data) as accounts:
        await accounts.add(USER, PASSWORD)


@asynccontextmanager
async def host_app(
    name: str, data: Path, *, mounted: str = "/agent", words: tuple[str, ...] = (), **env: str
) -> AsyncIterator[int]:
    """Serve an app of `path_hosts` by uvicorn, as its owner would; yield the port."""
    port = free_port()
    told = {"ISOLANE_DATA": str(data), "ISOLANE_TEST_MOUNT": mounted, "ISOLANE_PROVIDERS": AWAYS}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore::DeprecationWarning", "-m", "uvicorn", "--factory"),
        *(f"path_hosts:{name}", "--port", str(port), *words, "--log-level", "warning"),
        cwd=HERE,
        env={**os.environ, **told, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await _wait_until_listening(process, port)
        yield port
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
        assert "Traceback" not in out.decode(), out.decode()


AWAYS: Final = json.dumps([AWAY.settings])


async def _wait_until_listening(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, port)
            except OSError:
                await asyncio.sleep(POLL_S)
                continue
            writer.close()
            await writer.wait_closed()
            return
    raise ServerError(f"uvicorn ended with {process.returncode}")


# ---- what a visitor does -------------------------------------------------------------------------


def visitor(**headers: str) -> httpx.AsyncClient:
    """Return somebody who keeps cookies by their paths, as browsers do."""
    return httpx.AsyncClient(headers=headers, trust_env=False, timeout=20)


async def see_page(http: httpx.AsyncClient, url: str) -> None:
    """Fail unless the page and all that it names are there, with and without its slash."""
    bare = await http.get(f"{url}?kept=1", follow_redirects=True)
    whole = await http.get(f"{url}/")
    for page in (bare, whole):
        assert page.headers["content-type"].startswith("text/html")
        assert '<meta name="generator" content="Isolane"' in page.text, page.text[:300]
        named = [urljoin(str(page.url), address) for address in _LINK.findall(page.text)]
        kinds = [(await http.get(each)).headers["content-type"].split(";")[0] for each in named]
        assert sorted(kinds) == ["image/svg+xml", "text/css", "text/javascript"]
        assert all(each.startswith(f"{url}/assets/") for each in named)
    assert urlsplit(str(bare.url)).query == "kept=1"
    head = await http.head(f"{url}/")
    assert (head.status_code, head.content) == (200, b"")


async def sign_in_and_out(http: httpx.AsyncClient, url: str, origin: str) -> None:
    """Fail unless a person's session begins, opens a socket and ends, all below the path."""
    path = unquote(urlsplit(url).path) or "/"
    http.headers["Origin"] = origin
    given = await http.post(f"{url}/api/session", json={"username": USER, "password": PASSWORD})
    assert given.is_success, given.text
    assert f"; Path={urlsplit(url).path or '/'};" in f"{given.headers['set-cookie']};"
    cookie = http.cookies[COOKIE]
    assert [each.path for each in http.cookies.jar if each.name == COOKIE] == [
        urlsplit(url).path or "/"
    ], path
    assert (await http.get(f"{url}/api/me")).json()["userId"] == USER
    assert (await http.post(f"{url}/api/threads", json={})).status_code == 201
    async with open_websocket(
        f"{url.replace('http', 'ws', 1)}/ws",
        subprotocols=[Subprotocol("agui.v1")],
        additional_headers=[("Cookie", f"{COOKIE}={cookie}"), ("Origin", origin)],
        proxy=None,
    ) as socket:
        client = Client(socket)
        await client.send({"type": "hello", "v": 1})
        assert (await client.until_type("welcome"))["userId"] == USER
    foreign = await http.delete(f"{url}/api/session", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert (await http.delete(f"{url}/api/session")).status_code == 204
    assert COOKIE not in http.cookies
    stale = {"Cookie": f"{COOKIE}={cookie}"}
    assert (await http.get(f"{url}/api/me", headers=stale)).status_code == 401


async def follow_links(http: httpx.AsyncClient, url: str) -> None:
    """Fail unless whatever the gateway names is below the path."""
    path = urlsplit(url).path
    ways = (await http.get(f"{url}/api/signin")).json()
    assert [way["href"] for way in ways["providers"]] == [f"{path}/signin/{AWAY.name}"]
    failed = await http.get(f"{url}/signin/{AWAY.name}", headers={"Accept": "text/html"})
    assert failed.headers["location"] == f"{path}/?signin=unavailable"
    used = await http.get(f"{url}/signin?code=used", headers={"Accept": "text/html"})
    assert used.headers["location"] == f"{path}/"
    described = await http.get(f"{url}/openapi.json")
    assert described.json().get("servers", [{"url": ""}])[0]["url"] == unquote(path)


async def walk_through(url: str) -> None:
    """Do all that a visitor does."""
    parts = urlsplit(url)
    async with visitor() as http:
        await see_page(http, url)
        await sign_in_and_out(http, url, f"{parts.scheme}://{parts.netloc}")
        await follow_links(http, url)


# ---- behind a proxy ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix, strips",
    [
        ("/chat", True),
        ("/chat", False),
        ("/api", True),  # called like routes of the gateway's own
        ("/api", False),
        ("/a/b/caf%C3%A9%20c", False),
    ],
)
async def test_public_url_is_all_that_a_proxy_needs(
    prefix: str, tmp_path: Path, *, strips: bool
) -> None:
    data = tmp_path / "data"
    await new_account(data)
    port = free_port()
    env = {
        "ISOLANE_PUBLIC_URL": f"http://{LOOPBACK}:{port}{prefix}",
        "ISOLANE_PROVIDERS": AWAYS,
    }
    async with (
        own_server(data, SCRIPT, env=env) as server,
        # `Host` is the server's own, as nginx sends it unless told otherwise.
        reverse_proxy(
            ReverseProxy(server.port, prefix, strips, {"Host": server.address}, port=port)
        ) as proxy,
    ):
        await walk_through(proxy.url)


# ---- in a host app -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, mounted, words, prefix, strips",
    [
        ("plain", "/agent", (), "", False),
        ("plain", "/api/ws/a%20b", (), "", False),
        ("plain", "/agent", ("--root-path", "/api"), "/api", True),
        ("rooted", "/agent", (), "/api", True),
        ("rooted", "/agent", (), "/api", False),
        ("nested", "/agent", (), "", False),
        ("nested", "/agent", ("--root-path", "/api"), "/api", True),
    ],
)
async def test_mounted_gateway_is_whole_below_its_path(
    name: str, mounted: str, words: tuple[str, ...], prefix: str, tmp_path: Path, *, strips: bool
) -> None:
    data = tmp_path / "data"
    await new_account(data)
    async with (
        host_app(name, data, mounted=unquote(mounted), words=words) as port,
        reverse_proxy(ReverseProxy(port, prefix, strips)) as proxy,
    ):
        await walk_through(f"{proxy.url}{'/outer' if name == 'nested' else ''}{mounted}")


async def test_two_gateways_of_one_host_share_nothing(tmp_path: Path) -> None:
    for name in ("agent", "second"):
        await new_account(tmp_path / name)
    async with host_app("two", tmp_path) as port, visitor() as http:
        outer, inner = (f"http://{LOOPBACK}:{port}/agent{more}" for more in ("", "/second"))
        http.headers["Origin"] = f"http://{LOOPBACK}:{port}"
        body = {"username": USER, "password": PASSWORD}
        await http.post(f"{outer}/api/session", json=body)
        assert (await http.get(f"{inner}/api/me")).status_code == 401
        await http.post(f"{inner}/api/session", json=body)
        await http.post(f"{inner}/api/threads", json={})
        # The browser sends both cookies to the one below, its own first.
        lists = [(await http.get(f"{url}/api/threads")).json()["threads"] for url in (outer, inner)]
        assert [len(threads) for threads in lists] == [0, 1]
        for url in (outer, inner):
            failed = await http.get(f"{url}/signin/{AWAY.name}", headers={"Accept": "text/html"})
            assert failed.headers["location"] == f"{urlsplit(url).path}/?signin=unavailable"
        assert (await http.delete(f"{inner}/api/session")).status_code == 204
        whose = [(await http.get(f"{url}/api/me")).status_code for url in (outer, inner)]
        assert whose == [200, 401]
