"""Connecting: which credential counts, how a refusal looks, how long a socket lives by it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.live.client import Client, Frame
from tests.live.server import Server, running_server
from tests.live.stage import (
    SCRIPT,
    SECRET_KEY,
    Lane,
    mint,
    own_server,
    read_to_close,
    settled,
    shared_server,
)
from tests.live.stopwatch import stopwatch
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)
strict_server = shared_server(
    SCRIPT,
    env={
        "ISOLANE_ISSUER": "https://issuer.example",
        "ISOLANE_AUDIENCE": "isolane",
        "ISOLANE_LIMIT_CONNECTIONS_PER_USER": "3",
    },
)

AGUI = "agui.v1"
LIFE_S = 4
"""Of a token that is to expire, its begun second included: longer than connecting takes."""


class How(TypedDict, total=False):
    """What `socket()` takes beside the address."""

    offered: tuple[str, ...]
    token: str | None
    headers: Mapping[str, str]


@dataclass
class Answer:
    """How an upgrade ended: the status, and what followed."""

    status: int
    protocol: str | None
    headers: dict[str, str]
    body: dict[str, Any]
    frames: list[Frame]
    close: tuple[int | None, str]


@pytest.fixture
def lane(server: Server) -> Iterator[Lane]:
    """Give a user, of whose credentials no part may have been logged in the end."""
    lane = Lane(server)
    yield lane
    assert_not_logged(server, lane.token)


def address(lane: Lane, query: str = "", *, path: str = "/ws") -> str:
    return f"ws://{lane.server.address}{path}{query}"


@asynccontextmanager
async def socket(
    url: str,
    *,
    offered: tuple[str, ...] = (),
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Client]:
    """Open a socket with exactly these subprotocols and headers."""
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with open_websocket(
        url,
        subprotocols=[Subprotocol(name) for name in offered] or None,
        additional_headers={**bearer, **(headers or {})},
        compression=None,
        proxy=None,
        ping_interval=None,
        close_timeout=2.0,
    ) as opened:
        yield Client(opened)


async def knock(url: str, **how: Unpack[How]) -> Answer:
    """Try to connect and return how that was refused."""
    try:
        async with socket(url, **how) as client:
            frames, close = await read_to_close(client)
            protocol = client.socket.subprotocol
            return Answer(101, protocol, headers_of(client.socket.response), {}, frames, close)
    except InvalidStatus as refusal:
        response = refusal.response
        body = json.loads(response.body or b"{}")
        return Answer(response.status_code, None, headers_of(response), body, [], (None, ""))


def headers_of(response: Response | None) -> dict[str, str]:
    assert response is not None
    return {name.lower(): value for name, value in response.headers.raw_items()}


async def user_of(client: Client) -> str:
    await client.send({"type": "hello", "v": 1})
    return str((await client.until_type("welcome"))["userId"])


async def assert_refused(
    url: str, code: str, *, status: int, close: int, **how: Unpack[How]
) -> None:
    """Look at both ways to be refused: as one who offered our protocol, and as another client."""
    offered = how.pop("offered", ())
    plain = await knock(url, **how)
    assert (plain.status, plain.body["status"], plain.body["code"]) == (status, status, code)
    assert plain.headers["content-type"] == "application/problem+json"
    assert plain.body["errorId"]
    how["offered"] = (AGUI, *offered)
    told = await knock(url, **how)
    assert (told.status, told.protocol, told.close[0]) == (101, AGUI, close)
    (frame,) = told.frames
    assert (frame["type"], frame["code"]) == ("error", code)
    assert frame["errorId"]
    if code == "unauthenticated":
        assert told.close[1] == frame["reason"] == plain.body["reason"]
        assert plain.headers["www-authenticate"] == "Bearer"
    else:
        assert told.close[1] == code


def parts_of(credential: str) -> list[str]:
    """Return what must not be found anywhere: each longer part of a credential."""
    return [part for part in (credential, *credential.split(".")) if len(part) > 8]


def assert_not_logged(server: Server, credential: str) -> None:
    # The head of a token says only that it is one, as that of every other does.
    head, dot, _ = credential.partition(".")
    secrets = [part for part in parts_of(credential) if not dot or part != head]
    assert [line for line in server.lines if any(part in line for part in secrets)] == []


# --- subprotocols --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offered,selected",
    [
        pytest.param((), None, id="none"),
        pytest.param((AGUI,), AGUI, id="ours"),
        pytest.param(("chat", AGUI, "x"), AGUI, id="ours among others"),
        pytest.param((AGUI, "bearer.x.y.z"), AGUI, id="beside a credential"),
        pytest.param(("bearer.x.y.z", AGUI), AGUI, id="behind a credential"),
    ],
)
async def test_only_our_subprotocol_is_selected_and_only_when_offered(
    lane: Lane, offered: tuple[str, ...], selected: str | None
) -> None:
    async with socket(address(lane), offered=offered, token=lane.token) as client:
        assert client.socket.subprotocol == selected
        assert headers_of(client.socket.response).get("sec-websocket-protocol") == selected
        assert await user_of(client) == lane.user


@pytest.mark.parametrize("offered", [("chat",), ("bearer.x.y.z",), ("AGUI.V1",), ("agui.v10", "a")])
async def test_offer_without_our_subprotocol_is_refused(
    lane: Lane, offered: tuple[str, ...]
) -> None:
    refused = await knock(address(lane), offered=offered, token=lane.token)
    assert (refused.status, refused.body["code"]) == (400, "invalid_frame")
    assert "sec-websocket-protocol" not in refused.headers
    bearer = await knock(address(lane), offered=(*offered, f"bearer.{lane.token}"))
    assert bearer.status == 400
    assert lane.token not in str(bearer)


# --- credentials ---------------------------------------------------------------------------------


async def test_header_subprotocol_and_ticket_are_credentials(lane: Lane) -> None:
    (ticket,) = await lane.server.tickets(lane.token)
    ignored = f"?threadId=t&runId=ignored&x=1&token={mint('eve')}"
    ways: list[tuple[str, How]] = [
        ("", {"token": lane.token}),
        ("", {"headers": {"authorization": f"bearer  {lane.token}"}}),
        ("", {"offered": (AGUI, f"bearer.{lane.token}")}),
        ("", {"offered": (f"bearer.{lane.token}", AGUI)}),
        (f"?ticket={ticket}", {}),
        (ignored, {"token": lane.token}),
    ]
    for query, how in ways:
        async with socket(address(lane, query), **how) as client:
            assert await user_of(client) == lane.user


async def test_first_credential_present_is_the_one_that_counts(lane: Lane, server: Server) -> None:
    others = [Lane(server), Lane(server)]
    (ticket,) = await server.tickets(others[1].token)
    with_ticket = address(lane, f"?ticket={ticket}")
    protocols = (AGUI, f"bearer.{others[0].token}")
    async with socket(with_ticket, offered=protocols, token=lane.token) as client:
        assert await user_of(client) == lane.user
    async with socket(with_ticket, offered=protocols) as client:
        assert await user_of(client) == others[0].user
    for header in ("Bearer bad", "Bearer ", "Bearer", "Basic dXNlcjpwYXNz", lane.token):
        how: How = {"headers": {"Authorization": header}, "offered": protocols[1:]}
        await assert_refused(with_ticket, "unauthenticated", status=401, close=4401, **how)
    async with socket(with_ticket) as client:  # nobody has spent it
        assert await user_of(client) == others[1].user


async def test_token_in_the_address_is_no_credential(lane: Lane) -> None:
    for name in ("token", "access_token", "bearer", "authorization", "jwt", "Ticket"):
        refused = await knock(address(lane, f"?{name}={lane.token}"))
        assert (refused.status, refused.body["reason"]) == (401, "missing")
        assert lane.token not in str(refused)
    refused = await knock(address(lane, f"?ticket={lane.token}"))
    assert (refused.status, refused.body["reason"]) == (401, "invalid")


SAYS_WHO = (
    *("X-User-Id", "userId", "X-Forwarded-User", "sub"),
    *("X-Test-User", "X-Test-Mode", "X-E2E-User", "X-Bypass-Auth"),
)
"""What other servers take for a name, and what their tests switched authentication off with."""


async def test_nobody_says_who_they_are_but_their_token(lane: Lane) -> None:
    url = address(lane, "?userId=eve&user_id=eve&sub=eve&user=eve")
    headers = dict.fromkeys(SAYS_WHO, "eve")
    async with socket(url, token=lane.token, headers=headers) as client:
        await client.send(
            {"type": "hello", "v": 1, "userId": "eve", "user_id": "eve", "sub": "eve"}
        )
        assert (await client.recv())["userId"] == lane.user
    refused = await knock(url, headers=headers)
    assert (refused.status, refused.body.get("reason")) == (401, "missing")


# --- bad tokens ----------------------------------------------------------------------------------


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def public_key() -> str:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def unsigned(**header: object) -> str:
    claims = {"sub": "ann", "exp": 4_000_000_000}
    return f"{b64({'typ': 'JWT', **header})}.{b64(claims)}."


def tampered() -> str:
    head, _, signature = mint("ann").split(".")
    return f"{head}.{b64({'sub': 'eve', 'exp': 4_000_000_000})}.{signature}"


BAD_TOKENS = {
    "no JWT": "opaque-secret-text",
    "dots": "aaaaaaaaaa.bbbbbbbbbb.cccccccccc",
    "none": unsigned(alg="none"),
    "None": unsigned(alg="None"),
    "no algorithm": unsigned(),
    "another key": mint("ann", key="another key that is also long enough"),
    "another algorithm": mint("ann", algorithm="HS512", key=SECRET_KEY * 2),
    "tampered": tampered(),
    "no expiry": mint("ann", exp=None),
    "expiry as text": f"{b64({'alg': 'HS256'})}.{b64({'sub': 'ann', 'exp': 'soon'})}.eHh4eHh4eHg",
    "expiry of no time": mint("ann", exp=10**18),
    "no subject": mint("ann", sub=None),
    "blank subject": mint(" "),
    "subject that names nobody": mint("none"),
    "subject too long": mint("x" * 1025),
    "subject of another type": mint("ann", sub=["ann"]),
    "not yet": mint("ann", nbf=4_000_000_000),
    "issued in the future": mint("ann", iat=4_000_000_000),
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_bad_token_is_refused_and_not_repeated(lane: Lane, token: str) -> None:
    ways: list[How] = [{"token": token}, {"offered": (AGUI, f"bearer.{token}")}]
    for way in ways:
        answer = await knock(address(lane), **way)
        said = answer.body or answer.frames[0]
        assert (said["code"], said["reason"]) == ("unauthenticated", "invalid")
        assert not any(part in str(answer) for part in parts_of(token))
    await assert_refused(address(lane), "unauthenticated", status=401, close=4401, token=token)
    await lane.server.wait_for_log(lambda entry: entry.get("error_id") == said["errorId"])
    assert_not_logged(lane.server, token)


async def test_token_that_is_no_size_for_a_token_is_refused(lane: Lane) -> None:
    huge = mint(lane.user, padding="x" * 100_000)
    assert (await knock(address(lane), token=huge)).status == 431
    async with lane.connect() as client:
        await client.send({"type": "auth", "token": mint(lane.user, padding="x" * 100_000)})
        error = await client.recv()
        assert (error["code"], error["reason"]) == ("unauthenticated", "invalid")


async def test_reason_says_why_a_credential_was_refused(lane: Lane) -> None:
    for reason, token in (
        ("missing", None),
        ("invalid", "x"),
        ("expired", mint("a", expires_s=-9)),
    ):
        await assert_refused(address(lane), "unauthenticated", status=401, close=4401, token=token)
        assert (await knock(address(lane), token=token)).body["reason"] == reason
        frames = (await knock(address(lane), token=token, offered=(AGUI,))).frames
        assert [frame["reason"] for frame in frames] == [reason]


async def test_issuer_and_audience_are_checked_when_configured(strict_server: Server) -> None:
    right: dict[str, Any] = {"iss": "https://issuer.example", "aud": "isolane"}
    lane = Lane(strict_server)
    async with socket(address(lane), token=mint(lane.user, **right)) as client:
        assert await user_of(client) == lane.user
    wrong: list[dict[str, Any]] = [
        *({}, {"iss": right["iss"]}, {"aud": right["aud"]}),
        *(right | {"iss": "https://issuer.example.evil"}, right | {"aud": "other"}),
        right | {"aud": []},
    ]
    for claims in wrong:
        token = mint(lane.user, **claims)
        await assert_refused(address(lane), "unauthenticated", status=401, close=4401, token=token)


# --- tickets -------------------------------------------------------------------------------------


async def test_ticket_lets_its_user_in_once(lane: Lane) -> None:
    async with lane.server.http(lane.token) as http:
        answer = await http.post("/api/tickets")
    given = answer.json()
    assert given.keys() == {"ticket", "expiresAt"}
    assert 25_000 < given["expiresAt"] - time.time() * 1000 <= 30_000
    url = address(lane, f"?ticket={given['ticket']}")
    assert parts_of(given["ticket"])
    async with socket(url, offered=(AGUI,)) as client:
        assert await user_of(client) == lane.user
        await assert_refused(url, "unauthenticated", status=401, close=4401)
        assert (await knock(url)).body["reason"] == "invalid"
    assert given["ticket"] not in "\n".join(lane.server.lines)


async def test_ticket_that_is_raced_lets_one_in(lane: Lane) -> None:
    (ticket,) = await lane.server.tickets(lane.token)
    url = address(lane, f"?ticket={quote(ticket)}")

    async def attempt() -> int:
        try:
            async with socket(url) as client:
                assert await user_of(client) == lane.user
                return 101
        except InvalidStatus as refusal:
            return refusal.response.status_code

    statuses = await asyncio.gather(*(attempt() for _ in range(100)))
    assert sorted(statuses) == [101, *[401] * 99]


async def test_ticket_survives_a_restart_and_is_spent_once(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        for is_killed in (False, True):
            kept, spent = await server.tickets(lane.token, 2)
            async with socket(address(lane, f"?ticket={spent}")):
                pass
            if is_killed:
                await server.kill()
                await server.start()
            else:
                await server.restart()
            await assert_refused(
                address(lane, f"?ticket={spent}"), "unauthenticated", status=401, close=4401
            )
            async with socket(address(lane, f"?ticket={kept}")) as client:
                assert await user_of(client) == lane.user


async def test_files_of_the_database_are_their_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "isolane.db").touch(mode=0o644)  # as a folder of before has it
    async with own_server(tmp_path, SCRIPT) as server, Lane(server).connect():
        files = [tmp_path / f"isolane.db{side}" for side in ("", "-wal", "-shm")]
        assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3


async def test_tickets_are_for_who_is_signed_in(lane: Lane) -> None:
    for header, reason in (
        (None, "missing"),
        ("Bearer x", "invalid"),
        (f"Bearer {mint(lane.user, expires_s=-9)}", "expired"),
        (f"Basic {lane.token}", "invalid"),
    ):
        async with lane.server.http() as http:
            answer = await http.post(
                "/api/tickets", headers={} if header is None else {"Authorization": header}
            )
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, problem["code"]) == (401, "unauthenticated")
        assert (problem["reason"], bool(problem["errorId"])) == (reason, True)
        assert lane.token not in answer.text


async def test_socket_of_a_ticket_lives_as_long_as_the_token_behind_it(lane: Lane) -> None:
    token = mint(lane.user, expires_s=LIFE_S)
    (ticket,) = await lane.server.tickets(token)
    async with socket(address(lane, f"?ticket={ticket}")) as client:
        assert (await read_to_close(client))[1] == (4401, "expired")


# --- what else is refused ------------------------------------------------------------------------


async def test_unknown_agent_is_not_found(lane: Lane) -> None:
    for name in ("nobody", "SCRIPT", "script%2F", "%00", "x" * 500):
        url = address(lane, path=f"/ws/{name}")
        await assert_refused(url, "not_found", status=404, close=1008, token=lane.token)
        # Who is not signed in learns nothing of agents.
        await assert_refused(url, "unauthenticated", status=401, close=4401)


async def test_user_has_exactly_as_many_connections_as_allowed(strict_server: Server) -> None:
    claims: dict[str, Any] = {"iss": "https://issuer.example", "aud": "isolane"}
    lane, other = Lane(strict_server), Lane(strict_server)
    token = mint(lane.user, **claims)
    baseline = await strict_server.gauges()
    async with AsyncExitStack() as stack:

        async def attempt() -> int:
            try:
                await stack.enter_async_context(socket(address(lane), token=token))
            except InvalidStatus as refusal:
                return refusal.response.status_code
            return 101

        statuses = await asyncio.gather(*(attempt() for _ in range(10)))
        assert sorted(statuses) == [*[101] * 3, *[429] * 7]
        await assert_refused(address(lane), "limit_exceeded", status=429, close=4429, token=token)
        refused = await knock(address(lane), token=token)
        assert refused.body["retryAfterMs"] > 0
        assert int(refused.headers["retry-after"]) >= 1
        assert "connectionsPerUser" in refused.body["detail"]
        assert "3" in refused.body["detail"]
        async with socket(address(other), token=mint(other.user, **claims)) as client:
            assert await user_of(client) == other.user
    await strict_server.wait_for_gauges(baseline)
    async with socket(address(lane), token=token) as client:
        assert await user_of(client) == lane.user


# --- how long a socket lives ---------------------------------------------------------------------


@pytest.mark.parametrize("hello", [True, False])
async def test_socket_closes_when_its_token_expires(lane: Lane, *, hello: bool) -> None:
    expires_at = int(time.time()) + LIFE_S
    with stopwatch(lane.server.pid) as watch:
        async with lane.connect_with(mint(lane.user, exp=expires_at)) as client:
            if hello:
                assert await user_of(client) == lane.user
            frames, close = await read_to_close(client)
        assert -0.1 < time.time() - expires_at < 1 + watch.late_s(expires_at)
    assert close == (4401, "expired")
    kinds = [frame["type"] for frame in frames]
    assert kinds == (["auth_expiring", "error"] if hello else [])
    if hello:
        assert frames[0] == {"type": "auth_expiring", "expiresAt": expires_at * 1000}
        assert (frames[1]["code"], frames[1]["reason"]) == ("unauthenticated", "expired")


async def test_runs_go_on_when_the_token_expires(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect_with(mint(lane.user, expires_s=LIFE_S)) as client:
        text = json.dumps([["say", "1 "], ["hold", gate], ["say", "2"]])
        await client.run("t", "r-1", text)
        assert (await client.closed())[0] == 4401
    await lane.open_gate(gate)
    async with lane.replay("r-1") as replay:
        frames, _ = await read_to_close(replay)
    assert frames[-1]["chunk"]["outcome"] == {"type": "success"}


async def test_auth_renews_in_place(lane: Lane) -> None:
    expires_at = int(time.time()) + LIFE_S
    async with lane.connect_with(mint(lane.user, exp=expires_at)) as client:
        await user_of(client)
        assert (await client.recv())["type"] == "auth_expiring"
        await client.send({"type": "auth", "token": mint(lane.user, exp=expires_at + 600)})
        renewed = {"type": "auth_ok", "expiresAt": (expires_at + 600) * 1000}
        assert await client.recv() == renewed
        with pytest.raises(TimeoutError):  # neither a word nor a close when the first one expires
            await client.recv(timeout_s=expires_at + 0.5 - time.time())
        assert await settled(client) == []
        # A shorter one counts as well.
        await client.send({"type": "auth", "token": mint(lane.user, expires_s=30)})
        assert (await client.until_type("auth_ok"))["expiresAt"]
        await client.until_type("auth_expiring")


async def test_failed_auth_changes_nothing(lane: Lane, server: Server) -> None:
    other = Lane(server)
    expired = mint(lane.user, expires_s=-9)
    refusals = [
        *((other.token, "identity_mismatch", None), (expired, "unauthenticated", "expired")),
        *(
            ("bad", "unauthenticated", "invalid"),
            (unsigned(alg="none"), "unauthenticated", "invalid"),
        ),
    ]
    async with lane.connect() as client:
        for token, code, reason in refusals:
            await client.send({"type": "auth", "token": token})
            error = await client.recv()
            assert (error["type"], error.get("code")) == ("error", code)
            assert error.get("reason") == reason
            assert not any(part in json.dumps(error) for part in parts_of(token))
        assert await user_of(client) == lane.user
        assert await settled(client) == []
    assert_not_logged(server, other.token)


async def test_signing_key_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    async with running_server(tmp_path, SCRIPT) as server:
        token = await server.token("ann")
        await server.restart()
        async with socket(f"ws://{server.address}/ws", token=token) as client:
            assert await user_of(client) == "ann"
        foreign = await knock(f"ws://{server.address}/ws", token=mint("ann"))
        assert (foreign.status, foreign.body["reason"]) == (401, "invalid")
    (key,) = tmp_path.glob("*.key")  # noqa: ASYNC240 - a test may wait for a disk
    assert key.stat().st_mode & 0o777 == 0o600
