"""One socket and the HTTP requests of a walk."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from isolane.check.finding import Below, Broken
from isolane.check.order import Frame, is_end_of, is_envelope
from isolane.check.target import Target

AGENT: Final = "check"
SOCKET_PATH: Final = f"/ws/{AGENT}"
SUBPROTOCOL: Final = "agui.v1"
PATIENCE_S: Final = 10.0
"""Maximum seconds that one answer may take."""
_CLOSE_S: Final = 2.0
_RESET: Final = struct.pack("ii", 1, 0)
"""Value for SO_LINGER that drops unsent bytes and resets the connection."""

BEHIND_STATUS: Final[Mapping[int, str]] = {
    200: "the request came as a plain GET: something on the way drops the Upgrade header",
    404: "something answers HTTP there, and knows no such address: no gateway, or another path",
    426: "something on the way does not pass the upgrade on",
    502: "the server behind the proxy does not answer",
    503: "the gateway is starting, draining or lacks a dependency, or nothing is behind the proxy",
    504: "the server behind the proxy does not answer in time",
}


@dataclass(eq=False)
class Socket:
    """One socket. `heard` has every received text."""

    connection: ClientConnection
    heard: list[str] = field(default_factory=list)
    sent: str = ""
    """The last sent frame."""
    sent_count: int = 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the answer to the upgrade."""
        answer = self.connection.response
        return [] if answer is None else list(answer.headers.raw_items())

    async def send(self, frame: Mapping[str, object]) -> None:
        """Send one frame."""
        self.sent = json.dumps(frame)
        self.sent_count += 1
        try:
            await self.connection.send(self.sent)
        except ConnectionClosed as error:
            raise self._ended("a frame was to be sent") from error

    async def recv(self) -> Frame:
        """Return the next frame that isn't a ping.

        Raises:
            Broken: No frame came in time.
        """
        while True:
            frame = self._read(await self._recv())
            if frame.get("type") != "ping":
                return frame

    async def until(
        self, wanted: Callable[[Frame], bool], *, what: str, timeout_s: float = PATIENCE_S
    ) -> list[Frame]:
        """Return the frames up to and including the first wanted one.

        Raises:
            Broken: It didn't come in time, or an error came in its place.
        """
        frames: list[Frame] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not frames or not wanted(frames[-1]):
                    frames.append(await self.recv())
                    self._check_error(frames[-1], wanted, what)
        except TimeoutError as error:
            late = f"{what} did not come in {timeout_s:g} s"
            raise Broken(late, sent=self.sent, came=frames[-3:] or "nothing", expected=what) from (
                error
            )
        return frames

    async def ask(self, frame: Mapping[str, object], kind: str) -> Frame:
        """Send a frame and return the control frame that answers it."""
        await self.send(frame)
        frames = await self.until(lambda f: f.get("type") == kind, what=f"the frame `{kind}`")
        return frames[-1]

    async def read_run(self, run_id: str, *, timeout_s: float = PATIENCE_S) -> list[Frame]:
        """Return the envelopes up to the run's end."""
        frames = await self.until(
            lambda frame: is_end_of(frame, run_id),
            what=f"the end of run {run_id}",
            timeout_s=timeout_s,
        )
        return [frame for frame in frames if is_envelope(frame)]

    async def read_to_close(self) -> tuple[list[Frame], int | None, str]:
        """Return the frames until the server closes, and the close's code and reason."""
        frames: list[Frame] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    frames.append(self._read(str(await self.connection.recv())))
        except ConnectionClosed:
            return frames, self.connection.close_code, self.connection.close_reason or ""
        except TimeoutError as error:
            raise Broken(
                f"the socket was not closed in {PATIENCE_S:g} s", came=frames[-3:] or "nothing"
            ) from error

    def cut(self) -> None:
        """Reset the TCP connection: no close frame is sent, and bytes in flight are lost."""
        transport = self.connection.transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _RESET)
        transport.abort()

    async def close(self) -> None:
        """Close the socket if it is open."""
        with suppress(WebSocketException, OSError):
            await self.connection.close()

    def _read(self, text: str) -> Frame:
        self.heard.append(text)
        try:
            frame = json.loads(text)
        except ValueError as error:
            raise Broken("a frame is no JSON", sent=self.sent, came=text) from error
        if not isinstance(frame, dict):
            raise Broken("a frame is no object", sent=self.sent, came=text)
        return frame

    async def _recv(self) -> str:
        try:
            text = await asyncio.wait_for(self.connection.recv(), PATIENCE_S)
        except ConnectionClosed as error:
            raise self._ended("an answer was awaited") from error
        except TimeoutError as error:
            nothing = f"nothing came in {PATIENCE_S:g} s"
            raise Broken(nothing, sent=self.sent, came=self.heard[-1:] or "nothing") from error
        if isinstance(text, bytes):
            raise Broken("a binary frame came", sent=self.sent, came=text)
        return text

    def _check_error(self, frame: Frame, wanted: Callable[[Frame], bool], what: str) -> None:
        is_bare = frame.get("type") == "RUN_ERROR"
        if (frame.get("type") == "error" or is_bare) and not wanted(frame):
            refused = f"the gateway answered with the error `{frame.get('code')}`"
            raise Broken(refused, sent=self.sent, came=frame, expected=what)

    def _ended(self, when: str) -> Broken:
        code, reason = self.connection.close_code, self.connection.close_reason
        came = f"close {code} {reason or ''}".strip()
        last = f"{came}; the last frame: {self.heard[-1]}" if self.heard else came
        return Broken(f"the socket ended when {when}", sent=self.sent, came=last)


async def open_socket(
    target: Target,
    tls: ssl.SSLContext | None,
    *,
    offered: Sequence[str] = (SUBPROTOCOL,),
    token: str | None = None,
    query: Mapping[str, str] | None = None,
) -> Socket:
    """Open a socket, with the token in a header.

    Raises:
        Broken: The upgrade was refused; its cause says by what.
    """
    address = f"{target.websocket_url}{SOCKET_PATH}" + (f"?{urlencode(query)}" if query else "")
    sent = f"GET {address}" + (f", subprotocols {', '.join(offered)}" if offered else "")
    try:
        connection = await connect(
            address,
            ssl=tls,
            subprotocols=[Subprotocol(name) for name in offered] or None,
            additional_headers=bearer(token),
            compression=None,
            proxy=None,
            open_timeout=PATIENCE_S,
            ping_interval=None,
            close_timeout=_CLOSE_S,
            max_size=None,  # the server tells its limit only after the upgrade
        )
    except InvalidStatus as error:
        raise _refused(error, sent) from _below(error.response.status_code)
    except (WebSocketException, OSError) as error:
        failed = f"the upgrade failed: {type(error).__name__}"
        raise Broken(failed, sent=sent, came=error, expected="101") from error
    return Socket(connection)


class Refusal(Broken):
    """The upgrade was answered with an HTTP status."""

    def __init__(self, what: str, *, status: int, body: bytes, sent: str, came: str) -> None:
        super().__init__(what, sent=sent, came=came, expected="101")
        self.status = status
        self.body = body


def _refused(error: InvalidStatus, sent: str) -> Refusal:
    answer = error.response
    body = bytes(answer.body or b"")
    return Refusal(
        f"the upgrade was refused with {answer.status_code}",
        status=answer.status_code,
        body=body,
        sent=sent,
        came=f"{answer.status_code} from {answer.headers.get('server', 'a server without a name')}"
        f": {body[:400].decode(errors='replace')}",
    )


def _below(status: int) -> Below | None:
    text = BEHIND_STATUS.get(status)
    return None if text is None else Below(text)


def bearer(token: str | None) -> dict[str, str]:
    """Return the header that carries a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def create_http(target: Target, tls: ssl.SSLContext | None, token: str | None) -> httpx.AsyncClient:
    """Return a client for the HTTP routes; the caller closes it."""
    return httpx.AsyncClient(
        base_url=target.http_url,
        headers=bearer(token),
        verify=tls or False,  # without TLS there is nothing to verify
        trust_env=False,
        timeout=PATIENCE_S,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of an HTTP answer in which two answers must be equal."""

    status: int
    kind: str
    """The content type."""
    text: str

    def read(self) -> dict[str, Any]:
        """Return the JSON object in the text; empty without one."""
        with suppress(ValueError):
            value = json.loads(self.text)
            return value if isinstance(value, dict) else {}
        return {}


async def fetch(
    http: httpx.AsyncClient, method: str, path: str, body: Mapping[str, object] | None = None
) -> Answer:
    """Send one request; of an endless event stream the first piece is the answer."""
    try:
        async with http.stream(method, path, json=body) as answer:
            kind = answer.headers.get("content-type", "")
            if kind.startswith("text/event-stream"):
                first = await anext(answer.aiter_text(), "")
                return Answer(answer.status_code, kind, first)
            content = await answer.aread()
    except httpx.HTTPError as error:
        failed = f"{method} {path} failed: {type(error).__name__}"
        came = str(error) or f"nothing in {PATIENCE_S:g} s"
        raise Broken(failed, sent=f"{method} {path}", came=came) from error
    return Answer(answer.status_code, kind, content.decode(errors="replace"))
