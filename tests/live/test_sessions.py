"""Sessions in a browser: what its cookie is like, how long it lives, and who sees and ends them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import RECV_TIMEOUT_S, Client
from tests.live.people import (
    COOKIE,
    Browser,
    Person,
    cookie_socket,
    new_person,
    query,
    sign_in,
    ticket_socket,
)
from tests.live.server import POLL_S, Server
from tests.live.stage import SCRIPT, own_server, read_to_close, shared_server
from tests.live.stopwatch import stopwatch
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_MS: Final = 3_600_000
IDLE_MS: Final = 8 * HOUR_MS
MAX_MS: Final = 7 * 24 * HOUR_MS
MARGIN_MS: Final = 60_000
"""Ages are set from here, and judged by the server a moment later."""

server = shared_server(SCRIPT)


@pytest_asyncio.fixture(loop_scope="module")
async def ada(server: Server) -> Person:
    return await new_person(server)


async def listed(browser: Browser) -> list[dict[str, Any]]:
    """Return the sessions that the user is shown."""
    answer = (await browser.http.get("/api/sessions")).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["sessions"]
    return found


async def id_of(browser: Browser) -> str:
    """Return the name by which the user speaks of this browser's session."""
    (own,) = [each for each in await listed(browser) if each["isCurrent"]]
    return str(own["sessionId"])


def age(browser: Browser, session_id: str, *, unused_ms: int, old_ms: int) -> None:
    """Let a session have begun, and have been used last, so long ago."""
    now_ms = time.time_ns() // 1_000_000
    query(
        browser.server,
        "UPDATE sessions SET created_at = :began, last_seen_at = :seen WHERE session_id = :id",
        began=now_ms - old_ms,
        seen=now_ms - unused_ms,
        id=session_id,
    )


# ---- the cookie ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_cookie_is_kept_from_scripts_other_sites_and_plain_lines(
    ada: Person, scheme: str
) -> None:
    async with ada.server.http() as http:
        answer = await sign_in(http, ada.name, **{"x-forwarded-proto": scheme})
    (cookie,) = answer.headers.get_list("set-cookie")
    name, *flags = cookie.split("; ")
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}", name)
    wanted = {"HttpOnly", "SameSite=lax", "Path=/", f"Max-Age={MAX_MS // 1000}"}
    assert set(flags) == (wanted | {"Secure"} if scheme == "https" else wanted)


async def test_each_sign_in_is_a_session_of_its_own(ada: Person) -> None:
    async with ada.sign_in() as one, ada.sign_in() as other:
        assert one.cookie != other.cookie
        assert await id_of(one) != await id_of(other)


async def test_cookie_that_somebody_chose_becomes_no_session(ada: Person) -> None:
    chosen = {"Cookie": f"{COOKIE}=chosen-by-somebody-else-who-knows-it-now"}
    async with ada.server.http() as http:
        answer = await sign_in(http, ada.name, Origin=ada.server.url, **chosen)
        assert answer.status_code == 200
        assert "chosen-by" not in http.cookies[COOKIE]
    async with ada.server.http() as http:
        assert (await http.get("/api/me", headers=chosen)).status_code == 401


# ---- seeing and ending them ----------------------------------------------------------------------


async def test_user_sees_where_they_are_signed_in(ada: Person) -> None:
    began_ms = time.time() * 1000
    async with (
        ada.sign_in(**{"user-agent": "A phone"}) as phone,
        ada.sign_in(**{"user-agent": "A desk " + "x" * 1000}) as desk,
    ):
        phone_id, desk_id = await id_of(phone), await id_of(desk)
        age(phone, phone_id, unused_ms=HOUR_MS, old_ms=HOUR_MS)
        first, second = await listed(desk)
        assert (await desk.http.get("/api/sessions")).text.count(desk.cookie) == 0
    assert first["sessionId"] == desk_id
    assert (first["isCurrent"], second["isCurrent"]) == (True, False)
    assert first["device"] == ("A desk " + "x" * 1000)[:200]
    assert began_ms - 1 <= first["createdAt"] == first["lastSeenAt"] <= time.time() * 1000
    assert (second["sessionId"], second["device"]) == (phone_id, "A phone")
    assert second["createdAt"] == second["lastSeenAt"] < began_ms


async def test_nobody_else_sees_them(ada: Person) -> None:
    eve = await new_person(ada.server)
    async with ada.sign_in() as browser, eve.sign_in() as other:
        assert await id_of(browser) not in [each["sessionId"] for each in await listed(other)]
        async with ada.server.http(eve.lane.token) as http:  # a token is of no session
            (only,) = (await http.get("/api/sessions")).json()["sessions"]
            assert only["isCurrent"] is False


async def test_sessions_are_ended_one_by_one(ada: Person) -> None:
    async with ada.sign_in() as here, ada.sign_in() as lost, ada.sign_in() as other:
        lost_id = await id_of(lost)
        assert (await here.http.delete(f"/api/sessions/{lost_id}")).status_code == 204
        assert await lost.who() == (401, "invalid")
        assert await here.who() == await other.who() == (200, None)
        assert lost_id not in [each["sessionId"] for each in await listed(here)]
        assert (await here.http.delete(f"/api/sessions/{lost_id}")).status_code == 404
        assert (await here.http.delete(f"/api/sessions/{await id_of(here)}")).status_code == 204
        assert await here.who() == (401, "invalid")


async def test_another_users_session_is_answered_as_an_unknown_one(ada: Person) -> None:
    eve = await new_person(ada.server)
    async with ada.sign_in() as browser, eve.sign_in() as other:
        foreign_id = await id_of(browser)
        unknown_id = foreign_id[::-1]
        foreign, unknown = [
            without_names(await other.http.delete(f"/api/sessions/{each}"))
            for each in (foreign_id, unknown_id)
        ]
        assert foreign == unknown
        assert foreign[0] == 404
        assert await browser.who() == (200, None)


def without_names(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], str]:
    """Return all of an answer but the error's own id and the date."""
    headers = [(name, value) for name, value in answer.headers.items() if name != "date"]
    return answer.status_code, headers, re.sub(r"err_[0-9a-f-]+", "err_…", answer.text)


async def test_ticket_of_a_page_is_for_pages_of_its_origin(ada: Person) -> None:
    async with ada.sign_in() as browser:
        for origin in ("https://evil.example", None):
            ticket = await browser.buy_ticket()
            for wrong_then_right in (origin, ada.server.url):  # it has been seen elsewhere
                opening = ticket_socket(ada.server, ticket, origin=wrong_then_right, hello=False)
                async with opening as client:
                    assert (await read_to_close(client))[1] == (4401, "invalid")
        async with browser.redeem(await browser.buy_ticket()) as client:
            await is_served(client)


async def test_session_id_opens_nothing(ada: Person) -> None:
    async with ada.sign_in() as browser:
        session_id = await id_of(browser)
    async with cookie_socket(ada.server, session_id, ada.server.url) as client:
        assert (await read_to_close(client))[1] == (4401, "invalid")


# ---- how long they live --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unused_ms, old_ms, is_live",
    [
        (IDLE_MS - MARGIN_MS, IDLE_MS, True),
        (IDLE_MS, IDLE_MS, False),
        (0, MAX_MS - MARGIN_MS, True),
        (0, MAX_MS, False),
    ],
)
async def test_session_ends_after_8_hours_unused_and_after_7_days(
    ada: Person, unused_ms: int, old_ms: int, *, is_live: bool
) -> None:
    async with ada.sign_in() as browser, ada.sign_in() as other:
        session_id = await id_of(browser)
        age(browser, session_id, unused_ms=unused_ms, old_ms=old_ms)
        assert (session_id in [each["sessionId"] for each in await listed(other)]) is is_live
        if is_live:
            assert await browser.who() == (200, None)
            async with browser.connect() as client:
                await is_served(client)
            return
        assert await browser.who() == (401, "expired")
        async with browser.connect(hello=False) as client:
            assert (await read_to_close(client))[1] == (4401, "expired")


async def test_use_is_noted(ada: Person) -> None:
    async with ada.sign_in() as browser, ada.sign_in() as other:
        session_id = await id_of(browser)
        age(browser, session_id, unused_ms=IDLE_MS - MARGIN_MS, old_ms=IDLE_MS)
        answer = (await browser.http.get("/api/me")).json()
        assert answer["expiresAt"] > time.time() * 1000 + IDLE_MS - MARGIN_MS
        await until_noted(other, session_id)


async def until_noted(browser: Browser, session_id: str) -> None:
    """Return once a session counts as used just now: that is written beside the answer."""
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while True:
            (one,) = [each for each in await listed(browser) if each["sessionId"] == session_id]
            if one["lastSeenAt"] > time.time() * 1000 - MARGIN_MS:
                return
            await asyncio.sleep(POLL_S)


LIFE_S: Final = 6.0
USE_EVERY_S: Final = 0.5


async def test_requests_and_frames_keep_a_session_alive_and_pings_do_not(tmp_path: Path) -> None:
    env = {"ISOLANE_SESSION_IDLE_S": str(LIFE_S), "ISOLANE_HEARTBEAT_S": "0.5"}
    async with own_server(tmp_path / "data", SCRIPT, env=env) as server:
        ada = await new_person(server)
        async with ada.sign_in() as asking, ada.sign_in() as talking, ada.sign_in() as idle:
            async with talking.connect() as used, idle.connect() as unused:
                until_s = time.monotonic() + 2 * LIFE_S
                await asyncio.gather(
                    again_and_again(lambda: is_signed_in(asking), until_s),
                    again_and_again(lambda: is_served(used), until_s),
                    expires_by_pings_alone(unused, until_s),
                )
                await is_signed_in(talking)
            assert (await idle.who())[0] == 401


async def again_and_again(use: Callable[[], Awaitable[None]], until_s: float) -> None:
    """Use something, as a person does, at a pace of its own."""
    while time.monotonic() < until_s:
        await use()
        await asyncio.sleep(USE_EVERY_S)


async def is_signed_in(browser: Browser) -> None:
    assert await browser.who() == (200, None)


async def is_served(client: Client) -> None:
    await client.send({"type": "unsubscribe", "threadId": "t"})
    await client.until_type("unsubscribed")


async def expires_by_pings_alone(client: Client, until_s: float) -> None:
    """Answer each heartbeat with a ping, as a page does that nobody looks at."""
    try:
        while time.monotonic() < until_s:
            if await client.socket.recv() == '{"type":"ping"}':
                await client.send({"type": "ping"})
    except ConnectionClosed:
        assert (client.socket.close_code, client.socket.close_reason) == (4401, "expired")
        return
    pytest.fail("pings kept the session alive")


async def test_session_ends_in_the_end_however_much_it_is_used(tmp_path: Path) -> None:
    env = {"ISOLANE_SESSION_MAX_S": str(LIFE_S), "ISOLANE_HEARTBEAT_S": "0.5"}
    async with own_server(tmp_path / "data", SCRIPT, env=env) as server:
        ada = await new_person(server)
        async with ada.sign_in() as browser, browser.connect() as client:
            cookie = browser.cookie  # the browser itself will throw it away in time
            ends_at_s = (await listed(browser))[0]["createdAt"] / 1000 + LIFE_S
            with stopwatch(server.pid) as watch, pytest.raises(ConnectionClosed):
                await again_and_again(lambda: is_served(client), time.monotonic() + 3 * LIFE_S)
            assert (client.socket.close_code, client.socket.close_reason) == (4401, "expired")
            assert -0.1 < time.time() - ends_at_s < 2 + watch.late_s(ends_at_s)
        async with cookie_socket(server, cookie, server.url) as late:
            assert (await read_to_close(late))[1] == (4401, "expired")
