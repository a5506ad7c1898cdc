"""A provider for people to sign in at, which answers whatever a test has written."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.live.issuer import DISCOVERY, JWKS, IssuerServer, Key
from tests.live.provider import CLIENT_ID


class Asked(NamedTuple):
    """With what a provider is asked to sign somebody in."""

    address: str
    query: dict[str, str]


@dataclass(eq=False)
class FalseProvider(IssuerServer):
    """A provider that hands out whatever the test has written."""

    token_status: str = "200 OK"
    """How it answers a code."""
    told: str = ""
    """What the gateway sent for the last code."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the gateway is told about it."""
        return {"name": self.name, "issuer": self.url, "client_id": CLIENT_ID}

    def write_discovery(self) -> None:
        """Say where its doors are."""
        names = {"issuer": "", "jwks_uri": JWKS, "token_endpoint": "/token"}
        places = {name: self.url + path for name, path in names.items()}
        document = {**places, "authorization_endpoint": f"{self.url}/authorize"}
        self.documents[DISCOVERY] = json.dumps(document).encode()

    def hand_out(self, **answer: object) -> None:
        """Give this for the next code."""
        self.documents["/token"] = json.dumps({"access_token": "x", **answer}).encode()

    def id_token(self, asked: Asked, *, key: Key | None = None, **claims: object) -> str:
        """Return a right ID token for who asked, save for what is said otherwise."""
        right: dict[str, Any] = {"aud": CLIENT_ID, "nonce": asked.query["nonce"]}
        return self.token("ada", key=key, **{**right, **claims})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The whole request, before the answer: a connection closed on unread bytes is reset.
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.splitlines()[1:] if line)
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        self.told = body.decode() or self.told
        again = asyncio.StreamReader()
        again.feed_data(head)
        await super()._serve(again, writer)

    async def _say(self, path: str) -> tuple[str, bytes]:
        status, body = await super()._say(path)
        return (self.token_status if path == "/token" else status), body
