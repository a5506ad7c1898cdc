"""AI SDK over a WebSocket: many chats on one socket, as `WebSocketChatTransport` speaks.

That client ends all its chats at any frame that it doesn't know. So nothing is sent but answers to
its requests: no greeting, no warning, no ping in a frame.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from isolane.context import RunKey, ThreadKey
from isolane.contracts import Scope, Verdict
from isolane.doors.aisdk.chats import Told, ask, find_turn, follow_run, follow_turn
from isolane.doors.aisdk.frames import ChatFrames
from isolane.doors.credentials import judge_token, require, require_agent
from isolane.doors.gateway import Gateway
from isolane.doors.handshake import Handshake, Message, Receive
from isolane.doors.line import URGENT_CHARACTERS, Line
from isolane.doors.problems import close_code_of, report
from isolane.doors.rate import check_rate
from isolane.doors.session_use import SessionUse
from isolane.doors.transport import CONTENT
from isolane.errors import (
    IdentityMismatch,
    InvalidFrame,
    InvalidInput,
    IsolaneError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from isolane.sockets.connection import WebSocketConnection
from isolane.tasks import end_task
from isolane.wire.aisdk.requests import read_chat
from isolane.wire.dialogue import Dialogue, HangUp
from isolane.wire.frames import decode_object

SUBPROTOCOL: Final = "ai-chat.v1"
UNSUPPORTED_DATA: Final = 1003
INVALID_DATA: Final = 1007
REQUEST_ID_MAX: Final = 128
SUPERSEDED_S: Final = 0.25
"""A page that asks for its stream again aborts the request before: that is no wish to stop."""
EARLY_ABORTS_MAX: Final = 100
LONGEST_SLEEP_S: Final = 3600.0


@dataclass(eq=False, slots=True)
class _Request:
    """One request of the client: a turn that is asked, or followed again."""

    request_id: str
    chat_id: str
    is_resume: bool
    detaches: bool
    """Whether its abort ends the request only, and not the run."""
    after: int
    """Number of the last chunk that the client has, -1 for none."""
    key: RunKey | None = None
    """Its run, once that is known."""
    is_aborted: bool = False
    held: AsyncExitStack = field(default_factory=AsyncExitStack)
    """What it holds until it ends: a thread of its user's limit, and its place among readers."""
    task: asyncio.Task[None] | None = None
    head: str = field(init=False)
    """What each of its frames begins with, behind the type."""

    def __post_init__(self) -> None:
        """Write its id down once: each chunk carries it."""
        self.head = f'"requestId":{msgspec.json.encode(self.request_id).decode()}'


class ChatSession:
    """Serves one socket until it ends."""

    def __init__(
        self, gateway: Gateway, connection: WebSocketConnection, handshake: Handshake, agent: str
    ) -> None:
        """Begin with an accepted socket that the factory owns."""
        del handshake
        connection.is_quiet = True
        self._gateway = gateway
        self._connection = connection
        self._agent = agent
        self._requests: dict[str, _Request] = {}
        self._resumed: dict[str, _Request] = {}
        """The latest resume of each chat that has one open."""
        self._aborted_early: OrderedDict[str, None] = OrderedDict()
        """Requests that were aborted while their frames wait in line."""
        self._is_taking = False
        """Whether a frame is being carried out, or waits."""
        self._dialogue = Dialogue()
        self._woken = asyncio.Event()
        self._use = SessionUse(gateway, connection, self._woken.set)
        self._frames = ChatFrames(gateway, connection)
        self._line = Line(
            gateway.settings.limit_frame_bytes, room=gateway.intake.room, user_id=connection.user_id
        )

    async def serve(self, receive: Receive) -> str:
        """Serve until the peer or we hang up; return why, for the log."""
        tasks, own = self._gateway.tasks, self._connection.id
        pulse = tasks.start(self._watch_credential(), name=f"credential of {own}")
        worker = tasks.start(self._work(), name=f"frames {own}")
        try:
            reason = await self._listen(receive)
            self._line.end()
            await asyncio.wait({worker})  # what came before the end counts
            return reason
        except Exception as error:  # noqa: BLE001 - the top of the task that serves a socket
            self._connection.fail("what comes in", error)
            await self._connection.close()
            return "internal"
        finally:
            self._line.close()
            for task in (pulse, worker):
                await end_task(task)
            await self._frames.close()
            for request in tuple(self._requests.values()):
                await self._drop(request)

    # --- what comes in ---------------------------------------------------------------------------

    async def _listen(self, receive: Receive) -> str:
        while True:
            try:
                message = await self._frames.receive(receive)
            except Unavailable as error:
                self._connection.request_close(close_code_of(error), error.code)
                continue
            if message["type"] == "websocket.disconnect":
                return f"{message.get('code')} {message.get('reason') or ''}".strip()
            if self._connection.is_open:
                await self._sort(message)
            else:
                await self._frames.release(message)

    async def _sort(self, message: Message) -> None:
        text = message.get("text")
        if text is None and CONTENT not in message:
            self._connection.request_close(UNSUPPORTED_DATA, "text frames only")
            return
        aborted = _find_abort(text or "")
        if aborted is None:
            await self._line.put(message)
        else:
            self._abort(aborted, is_early=True)

    async def _work(self) -> None:
        """Carry out one frame after the other. Where that breaks the socket ends."""
        try:
            while (message := await self._line.take()) is not None:
                self._is_taking = True
                if not self._connection.is_closing:
                    await self._take(message)
                await self._frames.release(message)
                self._is_taking = bool(self._line)
                if not self._is_taking:
                    self._aborted_early.clear()  # of requests that ended before their aborts came
        except Exception as error:  # noqa: BLE001 - the top of the task that carries out frames
            self._connection.fail("what waits in line", error)
            self._line.close()

    async def _take(self, message: Message) -> None:
        request_id = None
        try:
            self._frames.check_size(message)
        except TooLarge as error:
            self._connection.request_close(close_code_of(error), error.code)
            return
        try:
            looked_at = await self._frames.look_at(message)
            # Before the rate: whoever asked has to be told.
            request_id = _read_request_id(looked_at)
            check_rate(self._gateway, self._connection.user_id)
            frame = await self._frames.read(message, looked_at)
            await self._carry_out(frame, request_id)
        except (InvalidFrame, InvalidInput) as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                self._connection.request_close(INVALID_DATA, "no UTF-8")
                return
            request_id = request_id or await self._frames.find_request_id(message)
            self._tell_error(request_id, error)
            blamed = self._dialogue.blame(error, now_ms=self._gateway.clock())
            for hang_up in (one for one in blamed if isinstance(one, HangUp)):
                self._connection.request_close(hang_up.code, hang_up.reason)
        except Exception as error:  # noqa: BLE001 - one request's trouble stays its own
            request_id = request_id or await self._frames.find_request_id(message)
            self._tell_error(request_id, error)

    async def _carry_out(self, frame: Mapping[str, Any], request_id: str) -> None:
        kind = frame.get("type")
        if kind == "abort":
            self._abort(request_id, is_early=False)
            return
        if kind not in ("send", "resume"):  # a set would ask for the hash of a list
            raise InvalidInput("type", "must be send, resume or abort")
        if self._take_early_abort(request_id):
            return
        known = self._requests.get(request_id)
        if known is not None:
            await self._drop(known)
            raise InvalidInput("requestId", "is in use on this socket")
        request = _read_request(frame, request_id)
        self._use.note()
        await self._renew(frame.get("headers"))
        await self._open(request, frame)

    async def _open(self, request: _Request, frame: Mapping[str, Any]) -> None:
        """Begin a request: it counts as a thread that is followed until it ends."""
        hold = self._gateway.factory.hold_thread(self._connection.user_id)
        await request.held.enter_async_context(hold)
        if self._take_early_abort(request.request_id):  # since it was looked at
            await request.held.aclose()
            return
        self._requests[request.request_id] = request
        self._connection.is_busy = True
        try:
            begin = self._resume(request) if request.is_resume else self._send(request, frame)
            told = await begin
        except BaseException:
            await self._forget(request)
            raise
        if told is None or request.is_aborted:
            await self._forget(request)
            return
        serve = self._serve(request, told)
        request.task = self._gateway.tasks.start(serve, name=f"chat on {self._connection.id}")

    async def _send(
        self, request: _Request, frame: Mapping[str, Any]
    ) -> AsyncGenerator[Sequence[Told], None]:
        require(self._connection.identity, Scope.WRITE)
        require_agent(self._connection.identity, self._agent)
        chat = read_chat(request.chat_id, frame, _body_of(frame))
        context = self._connection.context.for_thread(chat.thread_id)
        ticket = await ask(self._gateway, context, chat, agent=self._agent)
        request.key = ticket.context.run_key
        if request.is_aborted:  # while it was taken on
            self._stop(request)
        self._enter(request, ticket.context.run_key, context.thread_key)
        return follow_run(self._gateway, ticket.context, after=ticket.after)

    async def _resume(self, request: _Request) -> AsyncGenerator[Sequence[Told], None] | None:
        context = self._connection.context.for_thread(request.chat_id)
        key = context.thread_key
        turn = await find_turn(self._gateway, key, replay_s=self._gateway.settings.ai_replay_s)
        if request.is_aborted:
            return None
        if turn is None:
            self._tell(request, "no-active")
            return None
        request.key = RunKey(key.user_id, turn.runs[-1].run_id)
        self._enter(request, request.key, key)
        self._resumed[request.chat_id] = request
        self._tell(request, "start")
        return follow_turn(self._gateway, context, turn)

    def _enter(self, request: _Request, run: RunKey, thread: ThreadKey) -> None:
        """Count the request as a reader of its run, until it ends."""
        reader = self._gateway.service.enter(thread, run.run_id)
        request.held.callback(self._gateway.service.leave, reader)

    async def _renew(self, headers: object) -> None:
        """Go on with a newer token of the same user, where a frame carries one."""
        connection = self._connection
        given = headers.get("authorization") if isinstance(headers, dict) else None
        if not isinstance(given, str):
            return
        scheme, _, token = given.partition(" ")
        identity = await judge_token(self._gateway, token if scheme.lower() == "bearer" else "")
        if identity.user_id != connection.user_id:
            raise IdentityMismatch
        require(identity, Scope.READ)
        connection.identity = identity
        self._woken.set()

    # --- what goes out ---------------------------------------------------------------------------

    async def _serve(self, request: _Request, told: AsyncGenerator[Sequence[Told], None]) -> None:
        """Send a request's chunks as they come, and its end."""
        try:
            async with aclosing(told):
                async for chunks in told:
                    if not await self._send_chunks(request, chunks):
                        return
            self._tell(request, "end")
        except Exception as error:  # noqa: BLE001 - the top of the task that serves a request
            if not request.is_aborted:
                self._tell_error(request.request_id, error)
        finally:
            await self._forget(request)

    async def _send_chunks(self, request: _Request, chunks: Sequence[Told]) -> bool:
        """Send chunks; False when the socket is no more."""
        head = f'{{"type":"chunk",{request.head}'
        texts = [
            f'{head},"sequence":{number},"chunk":{chunk.decode()}}}'
            for number, chunk in chunks
            if number > request.after
        ]
        return not texts or await self._connection.send_texts(texts) is Verdict.DELIVERED

    def _tell(self, request: _Request, kind: str) -> None:
        self._connection.post({"type": kind, "requestId": request.request_id})

    def _tell_error(self, request_id: str | None, error: Exception) -> None:
        """Tell a request's client why there is no answer; of no request nobody could be told."""
        known, error_id = report(error, connection_id=self._connection.id)
        if request_id is not None:
            text = f"{known.message} ({known.code}, {error_id})"
            frame = {"type": "error", "requestId": request_id, "errorText": text}
            self._connection.post(frame)

    # --- ends ------------------------------------------------------------------------------------

    def _abort(self, request_id: str, *, is_early: bool) -> None:
        """End a request, and stop its run unless it detaches; what is over stays as it is."""
        request = self._requests.get(request_id)
        if request is None:
            if is_early and (self._is_taking or self._line):
                self._aborted_early[request_id] = None
                if len(self._aborted_early) > EARLY_ABORTS_MAX:
                    self._aborted_early.popitem(last=False)
            return
        request.is_aborted = True
        if request.task is not None:
            request.task.cancel()
        if request.detaches or request.key is None:
            return
        if request.is_resume:
            asyncio.get_running_loop().call_later(SUPERSEDED_S, self._stop_unless_newer, request)
        else:
            self._stop(request)

    def _take_early_abort(self, request_id: str) -> bool:
        """Say whether a request was aborted before it was open, and forget that."""
        if request_id not in self._aborted_early:
            return False
        del self._aborted_early[request_id]
        return True

    def _stop_unless_newer(self, request: _Request) -> None:
        if self._resumed.get(request.chat_id, request) is request:
            self._stop(request)

    def _stop(self, request: _Request) -> None:
        if request.key is not None and not request.detaches:
            self._gateway.service.stop(request.key, asked_at=self._gateway.clock())

    async def _drop(self, request: _Request) -> None:
        """Serve a request no longer. Its run goes on."""
        request.is_aborted = True
        if request.task is not None:
            await end_task(request.task)
        await self._forget(request)

    async def _forget(self, request: _Request) -> None:
        if self._requests.get(request.request_id) is not request:
            return
        del self._requests[request.request_id]
        if self._resumed.get(request.chat_id) is request:
            del self._resumed[request.chat_id]
        self._connection.is_busy = bool(self._requests)
        await request.held.aclose()

    # --- the credential --------------------------------------------------------------------------

    async def _watch_credential(self) -> None:
        try:
            await self._until_expiry()
            self._connection.request_close(Unauthenticated.close_code or 1000, "expired")
        except Exception as error:  # noqa: BLE001 - the top of the task that watches a credential
            self._connection.fail("its credential", error)

    async def _until_expiry(self) -> None:
        while True:
            expires_at = self._connection.identity.expires_at
            left_s = LONGEST_SLEEP_S
            if expires_at is not None:
                left_s = (expires_at - self._gateway.clock()) / 1000
                if left_s <= 0:
                    return
            self._woken.clear()
            try:
                async with asyncio.timeout(min(left_s, LONGEST_SLEEP_S)):
                    await self._woken.wait()
            except TimeoutError:
                continue


def _find_abort(text: str) -> str | None:
    """Return the id of the request that a frame aborts: it overtakes those that take long."""
    if len(text) > URGENT_CHARACTERS or '"abort"' not in text:
        return None
    try:
        frame = decode_object(text)
        return _read_request_id(frame) if frame.get("type") == "abort" else None
    except IsolaneError:
        return None


def _read_request_id(frame: Mapping[str, Any]) -> str:
    given = frame.get("requestId")
    if not isinstance(given, str) or not 1 <= len(given) <= REQUEST_ID_MAX:
        raise InvalidFrame(f"a frame needs a requestId of 1 to {REQUEST_ID_MAX} characters")
    return given


def _body_of(frame: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a page added of its own."""
    body = frame.get("body", {})
    if not isinstance(body, dict):
        raise InvalidInput("body", "must be an object")
    metadata = frame.get("metadata")
    return body if metadata is None else {**body, "metadata": metadata}


def _read_request(frame: Mapping[str, Any], request_id: str) -> _Request:
    chat_id, body = frame.get("id"), _body_of(frame)
    if not isinstance(chat_id, str):
        raise InvalidInput("id", "must be the id of a chat")
    last = frame.get("lastSequence")
    if last is not None and (type(last) is not int or last < 0):
        raise InvalidInput("lastSequence", "must be the number of a chunk")
    return _Request(
        request_id,
        chat_id,
        is_resume=frame["type"] == "resume",
        detaches=body.get("onAbort") == "detach",
        after=-1 if last is None else last,
    )
