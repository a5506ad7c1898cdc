"""The credential behind a socket: what is said before its end, and what a renewal changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Final

import pytest
from tests.house import ALICE, Socket, connect, until

from isolane.contracts import Identity, Scope
from isolane.doors import pulse as pulse_module
from isolane.doors.pulse import EXPIRY_WARNING_MS, Pulse
from isolane.errors import IdentityMismatch, MissingScope
from isolane.sockets.connection import WebSocketConnection
from isolane.tasks import TaskOwner

NOW_MS: Final = 1_000_000
READ: Final = frozenset({Scope.READ})


@pytest.fixture
async def gateway() -> AsyncIterator[Any]:
    """As much of a gateway as a pulse needs; its clock stands still."""
    tasks = TaskOwner()
    yield SimpleNamespace(
        tasks=tasks,
        credentials=SimpleNamespace(
            clock=lambda: NOW_MS, sessions=SimpleNamespace(touch_ms=60_000)
        ),
    )
    assert await tasks.close() == 0


def pulse_of(gateway: Any, connection: WebSocketConnection) -> Pulse:  # noqa: ANN401 - as above
    return Pulse(connection, gateway.credentials, gateway.tasks, heartbeat_s=0.0)


def socket_of(gateway: Any, *, left_ms: int) -> tuple[WebSocketConnection, Socket]:  # noqa: ANN401 - as above
    """Return a greeted socket whose credential ends so soon."""
    socket = Socket()
    connection = connect(socket, gateway.tasks)
    connection.identity = Identity(ALICE, NOW_MS + left_ms)
    connection.has_greeted = True
    return connection, socket


async def test_greeted_socket_is_told_that_its_credential_has_expired(gateway: Any) -> None:  # noqa: ANN401 - as above
    connection, socket = socket_of(gateway, left_ms=0)
    with pulse_of(gateway, connection).beating():
        await socket_ends(connection)
    (error,) = socket.frames
    assert (error["type"], error["code"]) == ("error", "unauthenticated")
    assert socket.closes == [(4401, "expired")]


async def test_socket_is_warned_once_and_pinged_at_each_heartbeat(gateway: Any) -> None:  # noqa: ANN401 - as above
    connection, socket = socket_of(gateway, left_ms=EXPIRY_WARNING_MS)
    with pulse_of(gateway, connection).beating():
        await until(lambda: len(socket.frames) >= 5)
    kinds = [frame["type"] for frame in socket.frames]
    assert (kinds.count("auth_expiring"), set(kinds)) == (1, {"auth_expiring", "ping"})
    await connection.dispose()


async def test_nothing_is_looked_at_once_the_socket_has_ended(gateway: Any) -> None:  # noqa: ANN401 - as above
    connection, socket = socket_of(gateway, left_ms=2 * EXPIRY_WARNING_MS)
    pulse = pulse_of(gateway, connection)
    with pulse.beating():
        await until(lambda: len(socket.frames) >= 2)
    pulse.wake()  # as a use of the session does that was noted late
    await asyncio.sleep(0)
    told = len(socket.frames)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (len(socket.frames), pulse._timer) == (told, None)
    await connection.dispose()


async def test_quiet_socket_hears_nothing_and_closes_all_the_same(gateway: Any) -> None:  # noqa: ANN401 - as above
    connection, socket = socket_of(gateway, left_ms=0)
    connection.is_quiet, connection.has_greeted = True, False
    with pulse_of(gateway, connection).beating():
        await socket_ends(connection)
    assert (socket.frames, socket.closes) == ([], [(4401, "expired")])


@pytest.mark.parametrize(
    "newer, error",
    [
        (Identity("bob", scopes=READ), IdentityMismatch),
        (Identity(ALICE, scopes=frozenset()), MissingScope),
    ],
    ids=["of another user", "that may not read"],
)
async def test_renewal_with_a_credential_changes_nothing(
    gateway: Any,  # noqa: ANN401 - as above
    monkeypatch: pytest.MonkeyPatch,
    newer: Identity,
    error: type[Exception],
) -> None:
    async def judge(_credentials: object, _token: str) -> Identity:
        return newer

    monkeypatch.setattr(pulse_module, "judge_token", judge)
    connection, _ = socket_of(gateway, left_ms=1)
    before = connection.identity
    with pytest.raises(error):
        await pulse_of(gateway, connection).renew("token")
    assert connection.identity is before
    await connection.dispose()


async def socket_ends(connection: WebSocketConnection) -> None:
    """Return when a socket is closed by us."""
    await until(lambda: connection.is_closing)
    await connection.close()
