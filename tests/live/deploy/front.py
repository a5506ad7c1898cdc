"""Real proxies before a gateway, started with the files that are shipped in `deploy/`.

Only what everybody has to change there is changed: names, ports, certificates, places of logs.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
from cryptography import x509
from tests.live.certificate import make_certificate
from tests.live.server import (
    ANSWER_TIMEOUT_S,
    LOOPBACK,
    POLL_S,
    START_TIMEOUT_S,
    free_port,
    has_ipv6,
)
from tests.live.untold import note_request, note_response

ROOT: Final = Path(__file__).parents[3]
DEPLOY: Final = ROOT / "deploy"
NAME: Final = "localhost"


ADDRESSES: Final = (LOOPBACK, "::1") if has_ipv6() else (LOOPBACK,)


@dataclass(eq=False)
class Front:
    """A proxy that runs."""

    port: int
    http_port: int
    path: str
    """The path below which the gateway is reached: empty, or `/chat`."""
    authority: Path
    """The certificate that vouches for it."""
    logs: tuple[Path, ...]
    process: asyncio.subprocess.Process | None = None
    said: list[str] = field(default_factory=list)
    """What the proxy wrote to stdout and stderr."""

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"https://{NAME}:{self.port}"

    @property
    def url(self) -> str:
        """Where the gateway is reached."""
        return self.origin + self.path

    @property
    def websocket_url(self) -> str:
        """Where sockets are opened."""
        return f"wss://{NAME}:{self.port}{self.path}/ws"

    @property
    def tls(self) -> ssl.SSLContext:
        """What trusts the proxy's certificate."""
        return ssl.create_default_context(cafile=str(self.authority))

    def http(self, token: str | None = None) -> httpx.AsyncClient:
        """Return a client for the gateway's routes, signed in when there is a token."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=ANSWER_TIMEOUT_S,
            verify=self.tls,
            trust_env=False,
            event_hooks={"request": [note_request], "response": [note_response]},
        )

    def read_logs(self) -> str:
        """Return all that the proxy has written anywhere."""
        written = [log.read_text() for log in self.logs if log.exists()]
        return "\n".join([*written, *self.said])

    def send_signal(self, number: signal.Signals) -> None:
        """Send the proxy a signal."""
        assert self.process is not None
        self.process.send_signal(number)


def fill_in(file: Path, values: Mapping[str, str], folder: Path) -> Path:
    """Copy a file with values changed, each of which must stand there."""
    text = file.read_text()
    for old, new in values.items():
        assert old in text, f"{file} has no {old!r}"
        text = text.replace(old, new)
    copy = folder / file.name
    copy.write_text(text)
    return copy


# --- nginx ---------------------------------------------------------------------------------------

MAIN: Final = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/main.log notice;
worker_processes 2;
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/isolane-http.conf;
    {rest}
}}
"""
HOST: Final = """
    access_log {folder}/host.log isolane;
    server {{
        {listen}
        server_name localhost;
        ssl_certificate {folder}/fullchain.pem;
        ssl_certificate_key {folder}/privkey.pem;
        include {folder}/isolane-prefix.conf;
        location / {{ return 404; }}
    }}
"""


def prepare_nginx(folder: Path, upstream: str, *, path: str) -> tuple[Front, list[str]]:
    """Write nginx's files below `folder`; return the proxy and the command that starts it."""
    port, http_port = free_port(), free_port()
    certificate, _ = make_certificate(folder, x509.DNSName(NAME))
    logs = {"/var/log/nginx": str(folder)}
    include = {"/etc/nginx/isolane-proxy.conf": str(folder / "isolane-proxy.conf")}
    fill_in(DEPLOY / "nginx/isolane-proxy.conf", {}, folder)
    fill_in(DEPLOY / "nginx/isolane-http.conf", {"127.0.0.1:8000": upstream}, folder)
    listens = [f"listen {_bracketed(each)}:{port} ssl http2;" for each in ADDRESSES]
    if path:
        fill_in(DEPLOY / "nginx/isolane-prefix.conf", {**logs, **include}, folder)
        rest = HOST.format(folder=folder, listen="\n        ".join(listens))
    else:
        values = {
            "listen 443 ssl http2;": listens[0],
            "listen [::]:443 ssl http2;": "".join(listens[1:]),
            "listen 80;": f"listen {LOOPBACK}:{http_port};",
            "listen [::]:80;": "",
            "chat.example.org": NAME,
            "/etc/ssl/isolane": str(folder),
        }
        fill_in(DEPLOY / "nginx/isolane.conf", {**values, **logs, **include}, folder)
        rest = f"include {folder}/isolane.conf;"
    user = "user root;" if os.geteuid() == 0 else ""  # only root may read the folders of tests
    main = folder / "nginx.conf"
    main.write_text(MAIN.format(user=user, folder=folder, rest=rest))
    written = tuple(folder / name for name in ("isolane.log", "isolane-error.log", "host.log"))
    front = Front(port, http_port, path, certificate, (*written, folder / "main.log"))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    return front, [program, "-c", str(main), "-p", str(folder)]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


# --- Caddy ---------------------------------------------------------------------------------------


def prepare_caddy(folder: Path, upstream: str, *, path: str) -> tuple[Front, list[str]]:
    """Return the proxy and the command that starts it; Caddy takes all from the environment."""
    port, http_port = free_port(), free_port()
    data = folder / "share"
    given = {
        "SITE_ADDRESS": NAME,
        "ISOLANE_UPSTREAM": upstream,
        "ACCESS_LOG": str(folder / "isolane.log"),
        "HTTP_PORT": str(http_port),
        "HTTPS_PORT": str(port),
        "CADDY_ADMIN": "off",
        "XDG_DATA_HOME": str(data),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    authority = data / "caddy/pki/authorities/local/root.crt"
    front = Front(port, http_port, path, authority, (folder / "isolane.log",))
    file = DEPLOY / "caddy" / ("Caddyfile.prefix" if path else "Caddyfile")
    words = [f"{name}={value}" for name, value in given.items()]
    run = ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]
    return front, ["env", *words, *run]


# --- both ----------------------------------------------------------------------------------------

PREPARE: Final = {"nginx": prepare_nginx, "caddy": prepare_caddy}


@asynccontextmanager
async def running_front(
    kind: str, folder: Path, upstream: str, *, path: str = ""
) -> AsyncIterator[Front]:
    """Start a proxy before `upstream` and end it with the block."""
    front, command = PREPARE[kind](folder, upstream, path=path)
    front.process = process = await _spawn(command)
    reader = asyncio.create_task(_collect(process, front.said))
    try:
        await _wait_until_open(front)
        yield front
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), START_TIMEOUT_S)
        await reader


async def _spawn(command: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _collect(process: asyncio.subprocess.Process, said: list[str]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        said.append(line.decode(errors="replace").rstrip("\n"))  # noqa: PERF401 - as it comes


async def _wait_until_open(front: Front) -> None:
    """Return once the proxy speaks TLS with a certificate that is vouched for."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            assert front.process is not None
            assert front.process.returncode is None, front.read_logs()
            with suppress(OSError, ssl.SSLError):
                _, writer = await asyncio.open_connection(NAME, front.port, ssl=front.tls)
                writer.transport.abort()
                return
            await asyncio.sleep(POLL_S)


def find_assets(page: str) -> list[str]:
    """Return the addresses of the files that a page names, as they stand there."""
    return re.findall(r'(?:src|href)="([^"]+\.(?:js|css|svg))"', page)
