"""AI SDK over a WebSocket: many chats on one socket, as `WebSocketChatTransport` speaks.

That client ends all its chats at any frame that it doesn't know. So nothing is sent but answers to
its requests: no greeting, no warning, no ping in a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from isolane.context import RunKey, ThreadKey
from isolane.contracts import Scope, Verdict
from isolane.doors.aisdk.chat_request import (
    ChatRequest,
    EarlyAborts,
    body_of,
    find_abort,
    read_request,
    read_request_id,
)
from isolane.doors.aisdk.chats import Told, ask, find_turn, follow_run, follow_turn
from isolane.doors.aisdk.frames import ChatFrames
from isolane.doors.credentials import require, require_agent
from isolane.doors.gateway import Gateway
from isolane.doors.handshake import Handshake, Message, Receive
from isolane.doors.line import FrameWorker
from isolane.doors.problems import INVALID_CLOSE, UNSUPPORTED_CLOSE, close_code_of, report
from isolane.doors.pulse import Pulse
from isolane.doors.rate import check_rate
from isolane.doors.transport import CONTENT
from isolane.errors import InvalidFrame, InvalidInput, TooLarge, Unavailable
from isolane.sockets.connection import WebSocketConnection
from isolane.tasks import end_task
from isolane.wire.aisdk.requests import read_chat
from isolane.wire.dialogue import Dialogue, HangUp

SUBPROTOCOL: Final = "ai-chat.v1"
SUPERSEDED_S: Final = 0.25
"""A page that asks for its stream again aborts the request before: that is no wish to stop."""

Chunks = AsyncGenerator[Sequence[Told], None]
"""Chunks of the run that a request follows, in the order in which they come."""


class ChatSession:
    """Serves one socket until it ends."""

    def __init__(
        self, gateway: Gateway, connection: WebSocketConnection, handshake: Handshake, agent: str
    ) -> None:
        """Begin with an accepted socket."""
        del handshake
        connection.is_quiet = True
        self._gateway = gateway
        self._connection = connection
        self._agent = agent
        self._requests: dict[str, ChatRequest] = {}
        self._resumed: dict[str, ChatRequest] = {}
        """The latest resume of each chat that has one open."""
        self._aborted_early = EarlyAborts()
        self._is_taking = False
        """Whether a frame is being carried out, or waits."""
        self._dialogue = Dialogue()
        intake, tasks, settings = gateway.intake, gateway.tasks, gateway.settings
        beat_s, most_bytes = settings.heartbeat_s, settings.limit_chat_frame_bytes
        self._pulse = Pulse(connection, gateway.credentials, tasks, heartbeat_s=beat_s)
        self._frames = ChatFrames(connection, intake, gateway.service, most_bytes=most_bytes)
        self._worker = FrameWorker(
            connection, intake, tasks, carry_out=self._take, finish=self._finish
        )
        self._line = self._worker.line

    async def serve(self, receive: Receive) -> str:
        """Serve until the peer or we hang up; return why, for the log."""
        try:
            with self._pulse.beating():
                return await self._worker.run(self._listen, receive)
        finally:
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
            self._connection.request_close(UNSUPPORTED_CLOSE, "text frames only")
            return
        aborted = find_abort(text or "")
        if aborted is None:
            await self._worker.put(message)
        else:
            self._abort(aborted, is_early=True)

    async def _finish(self, message: Message) -> None:
        await self._frames.release(message)
        self._is_taking = bool(self._line)
        if not self._is_taking:
            self._aborted_early.clear()  # of requests that ended before their aborts came

    async def _take(self, message: Message) -> None:
        self._is_taking = True
        request_id = None
        try:
            self._frames.check_size(message)
        except TooLarge as error:
            self._connection.request_close(close_code_of(error), error.code)
            return
        try:
            looked_at = await self._frames.look_at(message)
            # Before the rate: whoever asked has to be told.
            request_id = read_request_id(looked_at)
            check_rate(self._gateway.limits, self._connection.user_id)
            frame = await self._frames.read(message, looked_at)
            await self._carry_out(frame, request_id)
        except (InvalidFrame, InvalidInput) as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                self._connection.request_close(INVALID_CLOSE, "no UTF-8")
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
        if self._aborted_early.take(request_id):
            return
        known = self._requests.get(request_id)
        if known is not None:
            await self._drop(known)
            raise InvalidInput("requestId", "is in use on this socket")
        request = read_request(frame, request_id)
        self._pulse.note_use()
        await self._renew(frame.get("headers"))
        await self._open(request, frame)

    async def _open(self, request: ChatRequest, frame: Mapping[str, Any]) -> None:
        """Begin a request: it counts as a thread that is followed until it ends."""
        hold = self._gateway.factory.hold_thread(self._connection.user_id)
        await request.held.enter_async_context(hold)
        if self._aborted_early.take(request.request_id):  # since it was looked at
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

    async def _send(self, request: ChatRequest, frame: Mapping[str, Any]) -> Chunks:
        require(self._connection.identity, Scope.WRITE)
        require_agent(self._connection.identity, self._agent)
        chat = read_chat(request.chat_id, frame, body_of(frame))
        context = self._connection.context.for_thread(chat.thread_id)
        gateway, storage = self._gateway, self._gateway.storage
        ticket = await ask(gateway.service, storage.store, context, chat, agent=self._agent)
        request.key = ticket.context.run_key
        if request.is_aborted:  # while it was taken on
            self._stop(request)
        self._enter(request, ticket.context.run_key, context.thread_key)
        return follow_run(gateway.streams, storage.turn_book, ticket.context, after=ticket.after)

    async def _resume(self, request: ChatRequest) -> Chunks | None:
        context = self._connection.context.for_thread(request.chat_id)
        key = context.thread_key
        streams = self._gateway.streams
        turn = await find_turn(streams, self._gateway.storage.turn_book, key)
        if request.is_aborted:
            return None
        if turn is None:
            self._tell(request, "no-active")
            return None
        request.key = RunKey(key.user_id, turn.runs[-1].run_id)
        self._enter(request, request.key, key)
        self._resumed[request.chat_id] = request
        self._tell(request, "start")
        return follow_turn(streams, context, turn)

    def _enter(self, request: ChatRequest, run: RunKey, thread: ThreadKey) -> None:
        """Count the request as a reader of its run, until it ends."""
        reader = self._gateway.service.enter(thread, run.run_id)
        request.held.callback(self._gateway.service.leave, reader)

    async def _renew(self, headers: object) -> None:
        """Go on with a newer token of the same user, where a frame carries one."""
        given = headers.get("authorization") if isinstance(headers, dict) else None
        if isinstance(given, str):
            scheme, _, token = given.partition(" ")
            await self._pulse.renew(token if scheme.lower() == "bearer" else "")

    # --- what goes out ---------------------------------------------------------------------------

    async def _serve(self, request: ChatRequest, told: Chunks) -> None:
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

    async def _send_chunks(self, request: ChatRequest, chunks: Sequence[Told]) -> bool:
        """Send chunks; False when the socket is no more."""
        texts = request.to_texts(chunks)
        return not texts or await self._connection.send_texts(texts) is Verdict.DELIVERED

    def _tell(self, request: ChatRequest, kind: str) -> None:
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
                self._aborted_early.note(request_id)
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

    def _stop_unless_newer(self, request: ChatRequest) -> None:
        if self._resumed.get(request.chat_id, request) is request:
            self._stop(request)

    def _stop(self, request: ChatRequest) -> None:
        if request.key is not None and not request.detaches:
            self._gateway.service.halt(request.key, asked_at=self._gateway.clock())

    async def _drop(self, request: ChatRequest) -> None:
        """Serve a request no longer. Its run goes on."""
        request.is_aborted = True
        if request.task is not None:
            await end_task(request.task)
        await self._forget(request)

    async def _forget(self, request: ChatRequest) -> None:
        if self._requests.get(request.request_id) is not request:
            return
        del self._requests[request.request_id]
        if self._resumed.get(request.chat_id) is request:
            del self._resumed[request.chat_id]
        self._connection.is_busy = bool(self._requests)
        await request.held.aclose()
