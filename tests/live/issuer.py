"""A provider of the tests' own: it signs, publishes its keys, and can be down, slow or odd."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import Algorithm
from tests.live.server import LOOPBACK
from tests.live.untold import note

Claims: TypeAlias = Mapping[str, Any]

AUDIENCE: Final = "isolane"
DISCOVERY: Final = "/.well-known/openid-configuration"
JWKS: Final = "/jwks"
HS256: Final = "HS256"


# --- keys and what they sign ---------------------------------------------------------------------


def encode_part(part: object) -> str:
    """Return a part of a token; bytes stand in it as they are."""
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass(frozen=True)
class Key:
    """A key that signs; for HS256 `private` is the secret itself."""

    private: Any
    algorithm: str
    kid: str | None

    @property
    def jwk(self) -> dict[str, Any]:
        """What a provider publishes of it."""
        public = self._algorithm.to_jwk(self.private.public_key(), as_dict=True)
        named = {} if self.kid is None else {"kid": self.kid}
        return {**public, **named, "use": "sig", "alg": self.algorithm}

    @property
    def public_text(self) -> str:
        """What anybody may know of it."""
        if self.algorithm == HS256:
            return str(self.kid)
        public = self.private.public_key()
        pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem.decode()

    def sign(self, claims: Claims | bytes, **header: object) -> str:
        """Return a token. `header` adds to its header and replaces; None leaves a member out."""
        every = {"typ": "JWT", "alg": self.algorithm, "kid": self.kid, **header}
        named = {name: value for name, value in every.items() if value is not None}
        return self.sign_parts(named, claims)

    def sign_parts(self, header: object, claims: object) -> str:
        """Return a token of exactly these parts."""
        signed = f"{encode_part(header)}.{encode_part(claims)}"
        return note(f"{signed}.{encode_part(self._signature(signed.encode()))}")

    @property
    def _algorithm(self) -> Algorithm:
        return jwt.get_algorithm_by_name(self.algorithm)

    def _signature(self, signed: bytes) -> bytes:
        if self.algorithm == HS256:  # by hand: the library refuses to sign with somebody's PEM
            return hmac.digest(self.private.encode(), signed, "sha256")
        return self._algorithm.sign(signed, self.private)


def new_key(algorithm: str = "ES256", kid: str | None = "key-1", *, bits: int = 2048) -> Key:
    """Return a fresh key; `bits` are for RSA."""
    if algorithm == "RS256":
        return Key(rsa.generate_private_key(65537, bits), algorithm, kid)
    if algorithm == "EdDSA":
        return Key(ed25519.Ed25519PrivateKey.generate(), algorithm, kid)
    return Key(ec.generate_private_key(ec.SECP256R1()), algorithm, kid)


def new_claims(
    subject: str,
    *,
    expires_s: float = 3600,
    **more: Any,  # noqa: ANN401 - any claim
) -> dict[str, Any]:
    """Return the claims of a token; None in `more` leaves one out."""
    now_s = time.time()
    every = {"sub": subject, "iat": int(now_s), "exp": int(now_s + expires_s), **more}
    return {name: value for name, value in every.items() if value is not None}


def jwks_of(*keys: Key) -> bytes:
    """Return the document that publishes keys."""
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


# --- the provider --------------------------------------------------------------------------------


@dataclass(eq=False)
class Issuer:
    """One provider, which says what it is told to say and keeps what it was asked."""

    name: str = "corp"
    keys: list[Key] = field(default_factory=lambda: [new_key()])
    """What it publishes; the first one signs."""
    url: str = ""
    asked: list[tuple[str, float]] = field(default_factory=list)
    """Path and moment (`time.monotonic`) of each request."""
    is_down: bool = False
    documents: dict[str, bytes | None] = field(default_factory=dict)
    """What it says at a path instead of what it should; None is nothing."""
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is cleared, whoever asks waits."""

    def __post_init__(self) -> None:
        """Begin willing, at an address that is nowhere."""
        self.url = self.url or f"https://{self.name}.example"
        self.answering.set()

    @property
    def settings(self) -> dict[str, Any]:
        """What the gateway is told about it."""
        return {"name": self.name, "issuer": self.url, "audience": AUDIENCE}

    @property
    def fetches(self) -> int:
        """How often it was asked for its keys."""
        return sum(path == JWKS for path, _ in self.asked)

    def claims(self, subject: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any claim
        """Return the claims of a right token for a subject."""
        return new_claims(subject, **{"iss": self.url, "aud": AUDIENCE, **more})

    def token(self, subject: str, *, key: Key | None = None, **more: Any) -> str:  # noqa: ANN401 - any claim
        """Return a right token for a subject."""
        return (key or self.keys[0]).sign(self.claims(subject, **more))

    async def answer(self, path: str) -> bytes:
        """Return what stands at a path; raises KeyError where nothing does."""
        self.asked.append((path, time.monotonic()))
        await self.answering.wait()
        said = {
            DISCOVERY: json.dumps({"issuer": self.url, "jwks_uri": self.url + JWKS}).encode(),
            JWKS: jwks_of(*self.keys),
        }
        document = {**said, **self.documents}[path]
        if document is None:
            raise KeyError(path)
        return document


def network(*issuers: Issuer) -> httpx.AsyncClient:
    """Return a client for which these are all the world."""

    async def handle(request: httpx.Request) -> httpx.Response:
        address = f"{request.url.scheme}://{request.url.netloc.decode()}"
        found = [issuer for issuer in issuers if issuer.url == address and not issuer.is_down]
        if not found:
            raise httpx.ConnectError(f"nobody is at {address}")
        try:
            return httpx.Response(200, content=await found[0].answer(request.url.path))
        except KeyError:
            return httpx.Response(404)

    return httpx.AsyncClient(transport=httpx.MockTransport(handle))


@dataclass(eq=False)
class IssuerServer(Issuer):
    """A provider at an address of this machine, over real sockets."""

    port: int = 0
    status: str = "200 OK"
    headers: tuple[str, ...] = ()
    pause_s: float = 0
    """Between each two bytes that it sends, when it is to be slow."""
    _server: asyncio.Server | None = None
    _serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = field(default_factory=dict)

    async def bring_up(self) -> None:
        """Listen: at the address of before, if there was one."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"

    async def take_down(self) -> None:
        """Refuse everybody from now on."""
        assert self._server is not None, "it was never up"
        self._server.close()
        await self._server.wait_closed()

    async def close(self) -> None:
        """Go down for good: who is being answered is cut off."""
        self.answering.set()
        await self.take_down()
        for writer in self._serving.values():
            writer.transport.abort()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None, "a server calls this in a task"
        self._serving[serving] = writer
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            status, body = await self._say(request.split()[1].decode())
            lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
            head = "\r\n".join([*lines, *self.headers, "", ""]).encode()
            for piece in (head, *((body,) if not self.pause_s else (bytes([b]) for b in body))):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(self.pause_s)
        except (OSError, asyncio.IncompleteReadError):
            return  # whoever asked has gone
        finally:
            writer.close()
            del self._serving[serving]

    async def _say(self, path: str) -> tuple[str, bytes]:
        try:
            return self.status, await self.answer(path)
        except KeyError:
            return "404 Not Found", b""


@asynccontextmanager
async def running_issuer(name: str = "corp", *keys: Key) -> AsyncIterator[IssuerServer]:
    """Run a provider while the block runs."""
    issuer = IssuerServer(name, list(keys) or [new_key()])
    await issuer.bring_up()
    try:
        yield issuer
    finally:
        await issuer.close()
