"""How providers are asked: whose certificates count, and which proxy is between."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from tests.live.certificate import make_certificate
from tests.live.server import LOOPBACK

from isolane.auth.outbound import create_http, make_tls
from isolane.auth.providers import fetch
from isolane.errors import Unavailable
from isolane.settings import InvalidSettings, load_settings

NAME: Final = "id.corp.example"
"""What nobody's name service knows: the proxy does."""
PROXY_VARIABLES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
DOCUMENT: Final = b'{"keys": []}'


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no proxy of this machine be between."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@dataclass(eq=False)
class Company:
    """A provider whose certificate the company has signed, and the way out of its network."""

    authority: Path
    port: int = 0
    proxy_port: int = 0
    connected: list[str] = field(default_factory=list)
    """What the proxy was asked to connect to."""
    passing: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def proxy(self) -> str:
        return f"http://{LOOPBACK}:{self.proxy_port}"

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DOCUMENT) + DOCUMENT)
        await writer.drain()
        writer.close()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.current_task()
        assert passing is not None, "a server calls this in a task"
        self.passing.add(passing)
        head = await reader.readuntil(b"\r\n\r\n")
        self.connected.append(head.split()[1].decode())
        back, out = await asyncio.open_connection(LOOPBACK, self.port)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(_pump(reader, out), _pump(back, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
    sink.close()
    with suppress(OSError):
        await sink.wait_closed()


@pytest.fixture
async def company(tmp_path: Path) -> AsyncIterator[Company]:
    certificate, key = make_certificate(tmp_path, x509.DNSName(NAME))
    one = Company(certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with listening(one.answer, tls) as one.port, listening(one.pass_on) as one.proxy_port:
        yield one
        await asyncio.gather(*one.passing)


@asynccontextmanager
async def listening(
    serve: Any,  # noqa: ANN401 - as asyncio calls it
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, LOOPBACK, 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def ask(company: Company, env: Mapping[str, str] | None = None, **settings: Any) -> bytes:  # noqa: ANN401 - any setting
    async with create_http(load_settings(settings), env or {}) as http:
        return await fetch(http, f"{company.url}/jwks")


async def test_company_of_settings_is_found_and_believed(company: Company) -> None:
    found = await ask(company, provider_proxy=company.proxy, provider_ca_file=company.authority)
    assert found == DOCUMENT
    assert company.connected == [f"{NAME}:{company.port}"]


async def test_company_of_the_environment_is_found_and_believed(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", company.proxy)
    assert await ask(company, {"SSL_CERT_FILE": str(company.authority)}) == DOCUMENT
    assert company.connected == [f"{NAME}:{company.port}"]


async def test_certificate_of_nobody_known_is_refused_and_the_reason_is_told(
    company: Company,
) -> None:
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await ask(company, provider_proxy=company.proxy)


async def test_proxy_of_the_settings_counts_before_that_of_the_environment(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{LOOPBACK}:1")
    monkeypatch.setenv("NO_PROXY", "*")
    found = await ask(company, provider_proxy=company.proxy, provider_ca_file=company.authority)
    assert found == DOCUMENT


async def test_no_proxy_goes_without_one(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", company.proxy)
    monkeypatch.setenv("NO_PROXY", ".corp.example")
    with pytest.raises(Unavailable, match="can't be reached: ConnectError"):
        await ask(company, provider_ca_file=company.authority)
    assert company.connected == []


async def test_plain_provider_of_this_machine_is_asked_without_a_proxy(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{LOOPBACK}:1")
    monkeypatch.setenv("ALL_PROXY", f"http://{LOOPBACK}:1")
    async with listening(company.answer) as port:
        several: list[dict[str, Any]] = [{}, {"provider_proxy": f"http://{LOOPBACK}:1"}]
        for settings in several:
            async with create_http(load_settings(settings), {}) as http:
                assert await fetch(http, f"http://{LOOPBACK}:{port}/jwks") == DOCUMENT


async def test_proxy_that_refuses_is_told(company: Company) -> None:
    with pytest.raises(Unavailable, match="can't be reached: ConnectError"):
        await ask(company, provider_proxy=f"http://{LOOPBACK}:1")


async def test_proxy_of_another_kind_is_refused_in_a_sentence(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy.example")
    with pytest.raises(InvalidSettings, match="ISOLANE_PROVIDER_PROXY"):
        await ask(company)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_the_environment_names_in_vain_are_told(
    variable: str, tmp_path: Path
) -> None:
    if variable == "SSL_CERT_DIR":
        make_tls(None, {variable: str(tmp_path)})  # a folder may be empty
        return
    with pytest.raises(InvalidSettings, match="nowhere"):
        make_tls(None, {variable: str(tmp_path / "nowhere")})


def test_the_systems_store_counts_beside_the_public_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, _ = make_certificate(tmp_path, x509.DNSName(NAME))
    monkeypatch.setattr("isolane.auth.outbound.BUNDLES", ())
    count = make_tls(None, {}).cert_store_stats()["x509"]
    assert count > 50
    monkeypatch.setattr("isolane.auth.outbound.BUNDLES", (str(certificate), "/nowhere"))
    assert make_tls(None, {}).cert_store_stats()["x509"] == count + 1
