"""What the server listens on: bound before the gateway opens, refused with one sentence."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from isolane.serving.listening import CannotListen, open_sockets

LOOPBACK = "127.0.0.1"
LOCAL = [(socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, (LOOPBACK, 0))]


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        sockets = open_sockets(host, port)
        for one in sockets:
            stack.enter_context(one)
        yield sockets


def refusal_of(host: str, port: int) -> str:
    with pytest.raises(CannotListen) as caught, listening(host, port):
        pass
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("host", [LOOPBACK, "0.0.0.0", "localhost", ""])  # noqa: S104 - for a moment
def test_port_that_is_taken_is_refused_also_by_one_that_accepts_nobody_yet(host: str) -> None:
    with listening(LOOPBACK) as (one,):
        port = one.getsockname()[1]
        assert f"Port {port} " in refusal_of(host, port)
        assert "is taken" in refusal_of(host, port)
    with listening(LOOPBACK, port):
        pass  # it was let go of


def test_name_with_two_addresses_has_one_port_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: _answers(LOCAL * 2))
    with listening("localhost") as sockets:
        ports = {one.getsockname()[1] for one in sockets}
        assert (len(sockets), len(ports)) == (2, 1)
        for one in sockets:
            with socket.socket(one.family) as client:
                client.connect(one.getsockname())


def test_address_of_a_name_that_this_machine_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = (socket.AF_INET, ("203.0.113.9", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: _answers([elsewhere, LOCAL[1]]))
    with listening("two.example") as (one,):
        assert one.getsockname()[0] == LOOPBACK


def _answers(addresses: Sequence[tuple[int, tuple[object, ...]]]) -> list[tuple[object, ...]]:
    return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]


def test_host_that_is_not_ours_is_refused() -> None:
    assert "--host 203.0.113.9 is no address of this machine" in refusal_of("203.0.113.9", 0)


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 70}.example", "[::1]"])
def test_host_that_cannot_be_resolved_is_refused(host: str) -> None:
    assert f"--host {host} can't be resolved" in refusal_of(host, 0)


@pytest.mark.parametrize(
    "number, told", [(errno.EACCES, "needs rights"), (errno.ENOBUFS, "Can't listen on port 80")]
)
def test_what_the_system_refuses_is_told(
    number: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "refused by the system")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert told in refusal_of(LOOPBACK, 80)
