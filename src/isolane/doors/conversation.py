"""One socket's conversation: carries out what the dialogue decided."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from isolane.context import EventId, RunKey, UserExecutionContext
from isolane.contracts import RunTicket, Scope, WebSocketManagerProtocol
from isolane.doors.credentials import judge_token, require, require_agent
from isolane.doors.gateway import Gateway
from isolane.doors.handshake import Message, Receive, Replay
from isolane.doors.line import Line, find_urgent
from isolane.doors.problems import POLICY_CLOSE, close_code_of, report
from isolane.doors.rate import check_rate, pace
from isolane.doors.session_use import SessionUse
from isolane.errors import (
    CursorExpired,
    IdentityMismatch,
    InvalidCursor,
    InvalidInput,
    IsolaneError,
    LimitExceeded,
    ManagerClosed,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from isolane.events.left_out import LeftOut
from isolane.sockets.connection import CLOSE_NORMAL, WebSocketConnection
from isolane.sockets.running import create_websocket_manager
from isolane.tasks import end_task
from isolane.wire.dialogue import Command, Dialogue, HangUp, Refuse, Welcome
from isolane.wire.frames import (
    Abort,
    Hello,
    Ping,
    Renew,
    Run,
    Subscribe,
    Unsubscribe,
    encode_frame,
    error_frame,
    run_error,
    to_run_input,
    welcome,
)

UNSUPPORTED_DATA: Final = 1003
EXPIRY_WARNING_MS: Final = 60_000
FROM_START: Final = "-1"
LONGEST_SLEEP_S: Final = 3600.0
TURN_FRAMES: Final = 8
"""So many frames that wait are taken in a row; then others have their turn."""
REFUSED_STEP_S: Final = 0.005
REFUSED_MAX_S: Final = 0.25
"""Of frames above their rate each in a row is answered a step later than the one before, and no
later than this: nobody waits for long, and a flood is read no faster than it is refused."""


class AguiConversation:
    """Serves one socket until it ends."""

    def __init__(
        self,
        gateway: Gateway,
        connection: WebSocketConnection,
        *,
        agent: str,
        replay: Replay | None,
    ) -> None:
        """Begin with an accepted socket that the factory owns."""
        self._gateway = gateway
        self._connection = connection
        self._agent = agent
        self._replay = replay
        self._dialogue = Dialogue()
        self._woken = asyncio.Event()
        self._gone = asyncio.Event()
        """Set when the peer has left."""
        self._is_warned = False
        self._line = Line(
            gateway.settings.limit_frame_bytes, room=gateway.intake.room, user_id=connection.user_id
        )
        self._stopped: dict[str, int] = {}
        """Runs that were stopped while their frames wait in line, and when."""
        self._refused = 0
        """Frames in a row that were above their rate."""
        self._use = SessionUse(gateway, connection, self._note_expiry)

    async def serve(self, receive: Receive) -> str:
        """Serve until the peer or we hang up; return why, for the log."""
        pulse = self._gateway.tasks.start(self._keep_time(), name=f"pulse {self._connection.id}")
        try:
            if self._replay is not None:
                await self._start_replay(self._replay)
            return await self._converse(receive)
        except Exception as error:  # noqa: BLE001 - the top of the task that serves a socket
            self._connection.fail("what comes in", error)
            await self._connection.close()
            return "internal"
        finally:
            await end_task(pulse)

    # --- what comes in ---------------------------------------------------------------------------

    async def _converse(self, receive: Receive) -> str:
        worker = self._gateway.tasks.start(self._work(), name=f"frames {self._connection.id}")
        try:
            reason = await self._listen(receive)
            self._gone.set()
            self._line.end()
            await asyncio.wait({worker})  # what came before the end counts
            return reason
        finally:
            await end_task(worker)
            self._line.close()

    async def _listen(self, receive: Receive) -> str:
        """Read until the end: what is urgent overtakes slow frames, all else waits in line."""
        taken = 0
        while True:
            taken += 1
            if taken % TURN_FRAMES == 0:
                await asyncio.sleep(0)  # what has come already is taken without waiting
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return f"{message.get('code')} {message.get('reason') or ''}".strip()
            if self._replay is None and self._connection.is_open:
                await self._sort(message)

    async def _sort(self, message: Message) -> None:
        urgent = find_urgent(message)
        if urgent is not None:
            # Before a hello that still waits, an abort would not be answered.
            if isinstance(urgent, Ping) or not self._connection.has_greeted:
                await self._line.pass_by()
            await self._take(message)
            return
        self._connection.is_busy = True
        await self._line.put(message)

    async def _work(self) -> None:
        """Carry out what waits in line. Where that breaks the socket ends, and nothing waits on."""
        try:
            await self._work_through()
        except Exception as error:  # noqa: BLE001 - the top of the task that carries out frames
            self._connection.fail("what waits in line", error)
            self._line.close()

    async def _work_through(self) -> None:
        """Carry out one frame after the other."""
        taken = 0
        while (message := await self._line.take()) is not None:
            taken += 1
            if taken % TURN_FRAMES == 0:
                await asyncio.sleep(0)
            try:
                if not self._connection.is_closing:
                    await self._take(message)
            except Exception as error:  # noqa: BLE001 - what still waits has to be taken
                self._connection.fail("a frame", error)
            self._line.finish()
            self._keep_stops()
            self._connection.is_busy = bool(self._line)

    def _keep_stops(self) -> None:
        """Keep stops of runs that were refused as other early ones: those may be sent again."""
        for run_id in tuple(self._stopped):
            if not self._line.holds_run(run_id):
                del self._stopped[run_id]
                self._gateway.service.remember_abort(self._connection.user_id, run_id)

    async def _take(self, message: Message) -> None:
        text = message.get("text")
        if text is None:
            self._connection.request_close(UNSUPPORTED_DATA, "text frames only")
            return
        try:
            size = self._check_size(text)
            await self._check_rate(message)
            await pace(self._gateway, self._connection.user_id, size)
            commands = self._dialogue.receive(text, now_ms=self._gateway.clock())
        except TooLarge as error:
            self._hang_up(error)
            return
        except IsolaneError as error:
            self._tell(error)
            return
        self._note_use(commands)
        for command in commands:
            await self._carry_out(command)

    async def _check_rate(self, message: Message) -> None:
        """Count a frame. Above the rate it waits a little, and only what stops a run goes on."""
        try:
            check_rate(self._gateway, self._connection.user_id)
        except LimitExceeded:
            self._refused += 1
            await self._slow_down(min(self._refused * REFUSED_STEP_S, REFUSED_MAX_S))
            if not isinstance(find_urgent(message), Abort):
                raise
        else:
            self._refused = 0

    async def _slow_down(self, seconds: float) -> None:
        """Wait, as long as there is a peer to hold back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()

    def _note_use(self, commands: Sequence[Command]) -> None:
        """Keep the session behind the socket alive; a ping is the page's doing, not a person's."""
        if not all(isinstance(command, Ping) for command in commands):
            self._use.note()

    def _note_expiry(self) -> None:
        """Look anew when the credential dies, for it is another one or lives longer."""
        self._is_warned = False
        self._woken.set()

    def _check_size(self, text: str) -> int:
        most = self._gateway.settings.limit_frame_bytes
        size = len(text) if text.isascii() else len(text.encode())
        if size > most:
            raise TooLarge(f"a frame may have {most} bytes, this one has {size}")
        return size

    async def _carry_out(self, command: Command) -> None:
        names = _names(command)
        try:
            self._check_rights(command)
            await self._do(command)
        except (InvalidInput, InvalidCursor) as error:
            blamed = self._dialogue.blame(error, now_ms=self._gateway.clock(), **names)
            for consequence in blamed:
                await self._do(consequence)
        except Exception as error:  # noqa: BLE001 - one socket's trouble stays its own
            if isinstance(error, IsolaneError) and error.code != "internal":
                self._tell(error, **names)
            else:
                self._connection.fail(f"a {type(command).__name__} frame", error)

    def _check_rights(self, command: Command) -> None:
        """Raise `MissingScope`. Asked at each frame: the token may be a newer one."""
        if isinstance(command, Run | Abort):
            require(self._connection.identity, Scope.WRITE)
        if isinstance(command, Run):
            require_agent(self._connection.identity, self._agent)

    async def _do(self, command: Command) -> None:
        match command:
            case Welcome() | Hello():
                self._welcome()
            case Refuse(error, thread_id, run_id):
                self._tell(error, thread_id=thread_id, run_id=run_id)
            case HangUp(reason, code):
                self._connection.request_close(code, reason)
            case Subscribe(thread_id, after):
                await self._subscribe(thread_id, after)
            case Unsubscribe(thread_id):
                await self._unsubscribe(thread_id)
            case Run():
                await self._run(command)
            case Abort(run_id):
                await self._abort(run_id)
            case Renew(token):
                await self._renew(token)
            case Ping(t):
                self._answer_ping(t)

    # --- what is done ----------------------------------------------------------------------------

    def _welcome(self) -> None:
        connection, settings = self._connection, self._gateway.settings
        active = self._gateway.service.get_active_runs(connection.user_id)
        heads = [self._gateway.service.get_head(run) for run in active]
        self._gateway.sockets.greet(
            connection,
            welcome(
                connection_id=connection.id,
                user_id=connection.user_id,
                heartbeat_ms=settings.heartbeat_ms,
                limits=settings.published_limits,
                token_expires_at=connection.identity.expires_at,
                active_runs=[
                    {
                        "threadId": run.thread_key.thread_id,
                        "runId": run.run_key.run_id,
                        "head": str(head),
                    }
                    for run, head in zip(active, heads, strict=True)
                ],
            ),
        )
        self._woken.set()

    def _answer_ping(self, t: object) -> None:
        frame: dict[str, object] = {"type": "pong"} if t is None else {"type": "pong", "t": t}
        # A number may be written with more characters than the client wrote it with.
        if isinstance(t, dict | list):
            size = len(encode_frame(frame).encode())
            most = self._gateway.settings.limit_frame_bytes
            if size > most:
                raise TooLarge(f"t: the pong has {size} bytes, and a frame may have {most}")
        self._connection.post(frame)

    async def _subscribe(self, thread_id: str, after: EventId | None) -> None:
        connection = self._connection
        context = connection.context.for_thread(thread_id)
        # The manager first: what one follower had to read of the thread is there for the next.
        manager = await self._open_manager(context)
        try:
            resume = await self._gateway.resumer.load(context.thread_key, after)
        except BaseException:
            await self._gateway.factory.discard(manager, context)
            raise
        interest = connection.renew_interest(thread_id)
        connection.post(resume.to_frame(thread_id))
        if resume.can_go_on:
            interest.want_all()
            await self._join(context, manager, resume.start)
            return
        # The client reads the thread over HTTP, and subscribes anew after that.
        with suppress(ManagerClosed):
            await manager.remove_connection(connection.id)
        await self._gateway.factory.discard(manager, context)

    async def _unsubscribe(self, thread_id: str) -> None:
        connection = self._connection
        manager = self._gateway.factory.get_manager(connection.context.for_thread(thread_id))
        connection.lose_interest(thread_id)
        if manager is not None:
            await manager.remove_connection(connection.id)
        connection.post({"type": "unsubscribed", "threadId": thread_id})

    async def _run(self, frame: Run) -> None:
        connection = self._connection
        context = connection.context.for_thread(frame.thread_id).for_run(frame.run_id)
        left_out = LeftOut()
        run_input = to_run_input(frame, left_out)
        manager = await self._open_manager(context)
        try:
            ticket = await self._gateway.service.start(
                context, run_input, agent=self._agent, left_out=left_out
            )
        except BaseException:
            await self._gateway.factory.discard(manager, context)
            raise
        asked_at = self._stopped.pop(frame.run_id, None)
        if asked_at is not None:
            self._gateway.service.stop(ticket.context.run_key, asked_at=asked_at)
        # Nothing is awaited since the run's task was made: this stands before its first event.
        if connection.has_greeted:
            accepted: dict[str, object] = {
                "type": "accepted",
                "threadId": frame.thread_id,
                "runId": frame.run_id,
                "requestId": context.request_id,
                "disposition": ticket.disposition,
            }
            connection.post({**accepted, **_details_of(ticket, frame.run_id)})
        await self._follow_run(ticket.context, manager, ticket.after)

    async def _follow_run(
        self, context: UserExecutionContext, manager: WebSocketManagerProtocol, after: EventId
    ) -> None:
        """Follow one run of a thread, beside the others that this socket started there."""
        interest = self._connection.get_interest(context.thread_key.thread_id)
        if interest.want_run(context.run_key.run_id, after=after):
            start = interest.resume_seq()
            await self._join(context, manager, EventId(after.epoch, start or 0))
        else:
            await self._gateway.factory.discard(manager, context)

    async def _abort(self, run_id: str) -> None:
        connection, service = self._connection, self._gateway.service
        asked_at = self._gateway.clock()
        if not service.stop(RunKey(connection.user_id, run_id), asked_at=asked_at):
            if self._line.holds_run(run_id):
                self._stopped.setdefault(run_id, asked_at)
            elif not await self._find_run(run_id):
                return
        if connection.has_greeted:
            connection.post({"type": "stopping", "runId": run_id})

    async def _find_run(self, run_id: str) -> bool:
        """Say whether a run that isn't under way here was known; if not, remember its abort."""
        connection, service = self._connection, self._gateway.service
        try:
            context = await service.locate(connection.context, run_id)
        except NotFound as error:
            service.remember_abort(connection.user_id, run_id)
            if connection.has_greeted:
                self._tell(error, run_id=run_id)
            return False
        await service.abort(context)  # it may have come meanwhile
        return True

    async def _renew(self, token: str) -> None:
        connection = self._connection
        identity = await judge_token(self._gateway, token)
        if identity.user_id != connection.user_id:
            raise IdentityMismatch
        require(identity, Scope.READ)  # as at the upgrade: what is followed goes on
        connection.identity = identity
        connection.post({"type": "auth_ok", "expiresAt": identity.expires_at})
        self._note_expiry()

    async def _open_manager(self, context: UserExecutionContext) -> WebSocketManagerProtocol:
        return await create_websocket_manager(context, factory=self._gateway.factory)

    async def _join(
        self, context: UserExecutionContext, manager: WebSocketManagerProtocol, after: EventId
    ) -> None:
        """Join the manager; when its last connection just took it along, join the next one."""
        while True:
            try:
                await manager.add_connection(self._connection, after=after)
            except ManagerClosed:
                manager = await self._open_manager(context)
            else:
                return

    # --- replay by address -----------------------------------------------------------------------

    async def _start_replay(self, replay: Replay) -> None:
        connection = self._connection
        connection.is_replay = True
        try:
            await self._follow_replay(replay)
        except (NotFound, InvalidInput) as error:
            report(error, connection_id=connection.id)
            connection.request_close(POLICY_CLOSE, "unknown run")
        except CursorExpired:
            self._gateway.resumer.tell_expired(connection, replay.run_id)
            connection.request_close(CLOSE_NORMAL)
        except InvalidCursor as error:
            self._tell(error, run_id=replay.run_id)
            connection.request_close(POLICY_CLOSE, error.code)
        except Exception as error:  # noqa: BLE001 - one socket's trouble stays its own
            connection.fail("a replay", error)

    async def _follow_replay(self, replay: Replay) -> None:
        gateway, own = self._gateway, self._connection.context
        stored = await gateway.service.load_run(own, replay.run_id)
        context = own.for_thread(stored.thread_id).for_run(stored.run_id)
        start = await gateway.service.load_start(context)
        if replay.offset != FROM_START:
            after = EventId.parse(replay.offset)
            (await gateway.feed.load_bounds(context.thread_key)).check_cursor(after)
            start = max(start, after, key=lambda place: place.seq)
        if stored.last_seq is not None and start.seq >= stored.last_seq:
            self._connection.request_close(CLOSE_NORMAL)
            return
        await self._follow_run(context, await self._open_manager(context), start)

    # --- what goes out unasked -------------------------------------------------------------------

    def _tell(
        self, error: IsolaneError, *, thread_id: str | None = None, run_id: str | None = None
    ) -> None:
        """Tell the client of an error: as a control frame when it speaks them, else in AG-UI's."""
        known, error_id = report(error, connection_id=self._connection.id, run_id=run_id)
        if self._connection.has_greeted:
            frame = error_frame(known, error_id, threadId=thread_id, runId=run_id)
        else:
            frame = run_error(known, error_id, run_id=run_id)
        self._connection.post(frame)

    def _hang_up(self, error: BaseException) -> None:
        """Tell of an error that ends the connection, then close."""
        known, error_id = report(error, connection_id=self._connection.id)
        self._connection.post(error_frame(known, error_id))
        self._connection.request_close(close_code_of(known), known.code)

    async def _keep_time(self) -> None:
        try:
            await self._beat()
        except Exception as error:  # noqa: BLE001 - the top of the task that watches a credential
            self._connection.fail("its heartbeat", error)

    async def _beat(self) -> None:
        """Ping at each heartbeat, warn before the credential dies, and close when it has."""
        heartbeat_s = self._gateway.settings.heartbeat_s
        loop = asyncio.get_running_loop()
        next_ping = loop.time() + heartbeat_s
        while True:
            await self._sleep(min(next_ping - loop.time(), self._until_expiry_s()))
            if self._is_expired():
                return
            if loop.time() >= next_ping:
                self._connection.post({"type": "ping"})
                next_ping += heartbeat_s

    async def _sleep(self, seconds: float) -> None:
        """Wait, but for no longer than until something about the credential changes."""
        self._woken.clear()
        try:
            async with asyncio.timeout(min(max(seconds, 0), LONGEST_SLEEP_S)):
                await self._woken.wait()
        except TimeoutError:
            return

    def _until_expiry_s(self) -> float:
        expires_at = self._connection.identity.expires_at
        if expires_at is None:
            return float("inf")
        due = expires_at if self._is_warned else expires_at - EXPIRY_WARNING_MS
        if not self._connection.has_greeted:
            due = expires_at
        return max(due - self._gateway.clock(), 0) / 1000

    def _is_expired(self) -> bool:
        expires_at, now = self._connection.identity.expires_at, self._gateway.clock()
        if expires_at is None:
            return False
        if now >= expires_at:
            self._end_expired()
            return True
        if (
            self._connection.has_greeted
            and not self._is_warned
            and now >= expires_at - EXPIRY_WARNING_MS
        ):
            self._is_warned = True
            self._connection.post({"type": "auth_expiring", "expiresAt": expires_at})
        return False

    def _end_expired(self) -> None:
        error = Unauthenticated("expired", "the credential behind the socket expired")
        if self._connection.has_greeted:
            self._tell(error)
        self._connection.request_close(close_code_of(error), error.reason)


def _details_of(ticket: RunTicket, run_id: str) -> dict[str, object]:
    """Return what is told of some runs only: their place in line, and whose events will come."""
    details: dict[str, object] = {}
    if ticket.position is not None:
        details["position"] = ticket.position
    if ticket.context.run_id != run_id:
        details["attachedTo"] = ticket.context.run_id
    return details


def _names(command: Any) -> dict[str, str | None]:  # noqa: ANN401 - any command
    """Return the ids that a command is about, for the errors it may cause."""
    return {
        "thread_id": getattr(command, "thread_id", None),
        "run_id": getattr(command, "run_id", None),
    }
