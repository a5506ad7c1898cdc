"""A provider that others wrote: npm's `oidc-provider`, in a Node process of its own."""

from __future__ import annotations

import asyncio
import html
import json
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any, Final, Protocol

import httpx
from tests.live.server import LOOPBACK, START_TIMEOUT_S, free_port
from tests.live.untold import note

DRIVER: Final = Path(__file__).with_name("node") / "provider.mjs"
CLIENT_ID: Final = "isolane-under-test"
CLIENT_SECRET: Final = note("as+openssl/makes+them%20for=clients")
"""With what has a meaning in a form: RFC 6749, 2.3.1, has it encoded."""
MOST_PAGES: Final = 12
_ACTION: Final = re.compile(r'<form[^>]* action="([^"]+)"')
_PROMPT: Final = re.compile(r'name="prompt" value="(\w+)"')


class Visited(Protocol):
    """A server, or the proxy before it."""

    @property
    def url(self) -> str:
        """Where people find it."""
        ...


@dataclass(frozen=True)
class Provider:
    """One issuer; it is at its address while it is served."""

    name: str
    algorithm: str = "RS256"
    """What its ID tokens are signed with."""
    is_public: bool = True
    """Whether its client has no secret."""
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """Its issuer, and where it listens."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the gateway is told about it."""
        told = {"name": self.name, "issuer": self.url, "client_id": CLIENT_ID}
        named = {**told, "label": self.name.title()}
        return named if self.is_public else {**named, "client_secret": CLIENT_SECRET}

    def registration(self, gateway: Visited) -> dict[str, Any]:
        """Return what it is told about the gateway."""
        client = {
            "client_id": CLIENT_ID,
            "redirect_uris": [f"{gateway.url}/signin/{self.name}/callback"],
            "grant_types": ["authorization_code"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none" if self.is_public else "client_secret_basic",
            **({} if self.is_public else {"client_secret": CLIENT_SECRET}),
        }
        return {"port": self.port, "algorithm": self.algorithm, "client": client}


@asynccontextmanager
async def serving(gateway: Visited, *providers: Provider) -> AsyncIterator[None]:
    """Serve providers that know the gateway, while the block runs."""
    told = json.dumps([provider.registration(gateway) for provider in providers])
    node = which("node", path=Path(sys.executable).parent) or which("node")
    assert node is not None, "there is no node on the PATH"
    process = await asyncio.create_subprocess_exec(
        *(node, str(DRIVER), told), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S) == b"ready\n"
        yield
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), START_TIMEOUT_S)


async def walk_pages(http: httpx.AsyncClient, address: str, subject: str, *, until: str) -> str:
    """Go to the provider as a browser does; return the first address that begins with `until`.

    The provider's own forms are filled in on the way: sign in as `subject`, and agree.
    """
    answer = await http.get(address)
    for _ in range(MOST_PAGES):
        if answer.is_redirect:
            address = str(answer.url.join(answer.headers["location"]))
            if address.startswith(until):
                return address
            answer = await http.get(address)
        else:
            form, prompt = _ACTION.search(answer.text), _PROMPT.search(answer.text)
            assert form, f"{answer.url} answered {answer.status_code}: {answer.text[-500:]}"
            filled = {"login": subject, "password": "any", "prompt": prompt[1] if prompt else ""}
            answer = await http.post(html.unescape(form[1]), data=filled)
    raise AssertionError(f"{MOST_PAGES} pages don't lead to {until}")
