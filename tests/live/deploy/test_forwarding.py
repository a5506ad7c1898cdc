"""What a gateway is told of a client by the shipped proxy files, and what never reaches it."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from tests.live.deploy.front import ADDRESSES, NAME, PREPARE, running_front
from tests.live.server import LOOPBACK, START_TIMEOUT_S

LIES: Final = (
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Prefix: /evil",
    "X-Real-IP: 192.0.2.1",
    "Forwarded: for=192.0.2.1;proto=http;host=evil.example",
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", PREPARE)
async def test_what_a_client_says_of_itself_is_overwritten(
    kind: str, address: str, tmp_path: Path
) -> None:
    heads: asyncio.Queue[str] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.put_nowait((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(answer, LOOPBACK, 0)
    upstream = f"{LOOPBACK}:{listener.sockets[0].getsockname()[1]}"
    async with listener, running_front(kind, tmp_path, upstream) as front:
        _, writer = await asyncio.open_connection(
            address, front.port, ssl=front.tls, server_hostname=NAME
        )
        lines = ("GET /api/me HTTP/1.1", f"Host: {NAME}:{front.port}", *LIES, "", "")
        writer.write("\r\n".join(lines).encode())
        head = await asyncio.wait_for(heads.get(), START_TIMEOUT_S)
        writer.transport.abort()
    told = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
    place = f"{NAME}:{front.port}"
    wanted = {
        "host": place,
        "x-forwarded-for": address,
        "x-forwarded-proto": "https",
        "x-forwarded-host": place,
    }
    assert {name: value for name, value in told.items() if "forward" in name or name in wanted} == (
        wanted
    )
    assert "x-real-ip" not in told
    assert head.lower().count("x-forwarded-for:") == 1


async def test_plain_http_is_sent_to_tls(tmp_path: Path) -> None:
    async with running_front("nginx", tmp_path, f"{LOOPBACK}:1") as front:
        reader, writer = await asyncio.open_connection(LOOPBACK, front.http_port)
        writer.write(b"GET /ws?ticket=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
        with suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
    assert answer.startswith("HTTP/1.1 301")
    assert f"location: https://{NAME}/\r\n" in answer.lower()
