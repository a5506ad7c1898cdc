"""What proxies say of visitors, at a real server: whom it is believed of, and what follows."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.live.client import run_frame
from tests.live.false_provider import FalseProvider
from tests.live.forwarding import ReverseProxy, reverse_proxy
from tests.live.people import PASSWORD
from tests.live.server import LOOPBACK, Server, free_port
from tests.live.stage import SCRIPT, mint, own_server
from tests.live.test_paths import USER, new_account

PAGE: Final = "https://example.org"
BODY: Final = {"username": USER, "password": PASSWORD}
ATTEMPTS: Final = 10
"""At one account from one address in a minute."""
BELIEVES_NOBODY: Final = {"ISOLANE_TRUSTED_PROXIES": "", "FORWARDED_ALLOW_IPS": "*"}
"""uvicorn's own variable doesn't count."""


async def sign_in(server: Server, **headers: str) -> httpx.Response:
    """Sign in as a page does whose requests a proxy passes on."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with server.http() as http:
        return await http.post("/api/session", json=BODY, headers=named)


async def guess(server: Server, visitors: list[str]) -> list[int]:
    """Return how a wrong password is answered to each visitor, one after the other."""
    wrong = {"username": USER, "password": "not this one"}
    async with server.http() as http:
        answers = [
            await http.post("/api/session", json=wrong, headers={"X-Forwarded-For": each})
            for each in visitors
        ]
    return [answer.status_code for answer in answers]


async def refusal(server: Server) -> dict[str, Any]:
    """Return the log's record of a refused origin."""
    return await server.wait_for_log(
        lambda entry: entry.get("event") == "refused" and "Origin" in entry["reason"]
    )


@pytest.mark.parametrize(
    "env, headers, parts",
    [
        (
            {"ISOLANE_PUBLIC_URL": f"{PAGE}/chat"},
            {"X_Forwarded_Proto": "http", "X_Forwarded_Host": "evil.example"},
            {"Secure", "Path=/chat"},
        ),
        ({}, {"Host": "example.org", "X_Forwarded_Proto": "https"}, {"Secure", "Path=/"}),
        (
            {},
            {
                "X_Forwarded_Host": "example.org",
                "X_Forwarded_Proto": "https",
                "X_Forwarded_Prefix": "/chat",
            },
            {"Secure", "Path=/chat"},
        ),
    ],
    ids=["by the setting", "by the scheme", "by host, scheme and prefix"],
)
async def test_page_behind_a_proxy_gets_a_cookie_of_its_own_address(
    env: dict[str, str], headers: dict[str, str], parts: set[str], tmp_path: Path
) -> None:
    await new_account(tmp_path / "data")
    async with own_server(tmp_path / "data", SCRIPT, env=env) as server:
        answer = await sign_in(server, Origin=PAGE, **headers)
        assert answer.is_success, answer.text
        assert parts <= set(answer.headers["set-cookie"].split("; "))
        assert (await sign_in(server, Origin="https://evil.example", **headers)).status_code == 403


async def test_origin_that_is_refused_names_what_would_mend_it(tmp_path: Path) -> None:
    await new_account(tmp_path / "data")
    async with own_server(tmp_path / "data", SCRIPT) as server:
        answer = await sign_in(server, Origin=PAGE)
        reason = (await refusal(server))["reason"]
    assert answer.json()["detail"] == "This is not allowed."  # what is wrong is for the log
    assert repr(PAGE) in reason
    assert repr(server.url) in reason
    assert "ISOLANE_PUBLIC_URL" in reason
    assert "ISOLANE_TRUSTED_PROXIES" not in reason


async def test_nothing_is_believed_of_whom_nobody_named(tmp_path: Path) -> None:
    await new_account(tmp_path / "data")
    async with own_server(tmp_path / "data", SCRIPT, env=BELIEVES_NOBODY) as server:
        answer = await sign_in(server, Origin=PAGE, Host="example.org", X_Forwarded_Proto="https")
        assert answer.status_code == 403
        reason = (await refusal(server))["reason"]
        assert "name the proxy 127.0.0.1 in ISOLANE_TRUSTED_PROXIES" in reason
        visitors = [f"203.0.113.{number}" for number in range(ATTEMPTS + 1)]
        assert await guess(server, visitors) == [401] * ATTEMPTS + [429]
        ignored = [log for log in server.logs if log["event"] == "forwarded_headers_ignored"]
        assert [(log["address"], log["level"]) for log in ignored] == [("127.0.0.1", "warning")]
        assert "ISOLANE_TRUSTED_PROXIES" in ignored[0]["advice"]


async def test_limits_by_address_are_each_visitors_own(tmp_path: Path) -> None:
    await new_account(tmp_path / "data")
    async with own_server(tmp_path / "data", SCRIPT) as server:
        # What a visitor writes in front changes nothing.
        eve = [f"198.51.100.{number}, 203.0.113.7" for number in range(ATTEMPTS + 1)]
        assert await guess(server, eve) == [401] * ATTEMPTS + [429]
        assert await guess(server, ["203.0.113.8"]) == [401]


# ---- a proxy on another machine ------------------------------------------------------------------

ANOTHER: Final = "127.0.0.2"
"""Stands for the address of another container, which nobody believes unasked."""
EVIL: Final = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}


@pytest.mark.parametrize(
    "env",
    [
        {"ISOLANE_PUBLIC_URL": PAGE, "ISOLANE_TRUSTED_PROXIES": ""},
        {"ISOLANE_PUBLIC_URL": PAGE, "ISOLANE_TRUSTED_PROXIES": ANOTHER},
        {"ISOLANE_TRUSTED_PROXIES": ANOTHER},
    ],
    ids=["named by its address", "named and believed", "believed"],
)
async def test_proxy_on_another_machine_hides_nothing(env: dict[str, str], tmp_path: Path) -> None:
    corp = FalseProvider("corp", url=f"http://{LOOPBACK}:{free_port()}")
    corp.port = urlsplit(corp.url).port or 0
    corp.write_discovery()
    await new_account(tmp_path / "data")
    env = {**env, "ISOLANE_PROVIDERS": json.dumps([corp.settings])}
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"}
    async with AsyncExitStack() as stack:
        await corp.bring_up()
        stack.push_async_callback(corp.close)
        server = await stack.enter_async_context(own_server(tmp_path / "data", SCRIPT, env=env))
        before = ReverseProxy(server.port, source=ANOTHER, headers=said)
        proxy = await stack.enter_async_context(reverse_proxy(before))
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        answer = await http.post(f"{proxy.url}/api/session", json=BODY, headers={"Origin": PAGE})
        assert answer.status_code == 200, answer.text
        assert "Secure" in answer.headers["set-cookie"].split("; ")
        out = await http.get(f"{proxy.url}/signin/corp")
        assert parse_qs(urlsplit(out.headers["location"]).query)["redirect_uri"] == [
            f"{PAGE}/signin/corp/callback"
        ]
        assert "Secure" in out.headers["set-cookie"].split("; ")
        bearer = {"Authorization": f"Bearer {mint('ada')}"}
        run = run_frame("t", "r-1", "hello")
        ran = await http.post(f"{proxy.url}/agui/", json=run, headers=bearer)
        assert (ran.status_code, "RUN_FINISHED" in ran.text) == (200, True)


async def test_host_of_a_stranger_is_told_to_nobody(tmp_path: Path) -> None:
    corp = FalseProvider("corp", url=f"http://{LOOPBACK}:{free_port()}")
    corp.port = urlsplit(corp.url).port or 0
    corp.write_discovery()
    await corp.bring_up()
    env = {
        "ISOLANE_PUBLIC_URL": f"{PAGE}/chat",
        "ISOLANE_TRUSTED_PROXIES": ANOTHER,
        "ISOLANE_PROVIDERS": json.dumps([corp.settings]),
    }
    async with own_server(tmp_path / "data", SCRIPT, env=env) as server, server.http() as http:
        for path in (
            "/signin/corp",
            "/signin/corp/callback",
            "/signin?code=x",
            "/agui/",
            "/chat",
            "/api/threads/",
            "/assets/",
            "/nowhere/",
            "/openapi.json",
        ):
            answer = await http.get(path, headers={**EVIL, "Accept": "text/html"})
            assert "evil" not in f"{answer.headers} {answer.text}", path
    await corp.close()
