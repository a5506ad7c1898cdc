"""One socket's conversation in `agui.v1`: reads frames, and carries out what they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from isolane.context import EventId, RunKey
from isolane.contracts import Scope
from isolane.doors.credentials import require, require_agent
from isolane.doors.following import Following
from isolane.doors.gateway import Gateway
from isolane.doors.handshake import Message, Receive, Replay
from isolane.doors.line import TURN_FRAMES, FrameWorker, find_urgent
from isolane.doors.problems import UNSUPPORTED_CLOSE
from isolane.doors.pulse import Pulse
from isolane.doors.rate import check_rate, pace
from isolane.doors.replies import accept, answer_ping, greet, hang_up, tell
from isolane.errors import (
    InvalidCursor,
    InvalidInput,
    IsolaneError,
    LimitExceeded,
    NotFound,
    TooLarge,
)
from isolane.events.left_out import LeftOut
from isolane.flag import Flag
from isolane.sockets.connection import WebSocketConnection
from isolane.wire.dialogue import Command, Dialogue, HangUp, Refuse, Welcome
from isolane.wire.frames import (
    Abort,
    Hello,
    Ping,
    Renew,
    Run,
    Subscribe,
    Unsubscribe,
    to_run_input,
)

REFUSED_STEP_S: Final = 0.005
REFUSED_MAX_S: Final = 0.25
"""Seconds that a frame above its rate waits at most for its answer. Of such frames in a row, each
is answered a step later than the one before, so a flood is read no faster than it is refused."""

_log = structlog.get_logger(__name__)


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
        """Begin with an accepted socket."""
        self._connection = connection
        self._service, self._sockets = gateway.service, gateway.sockets
        self._limits, self._settings = gateway.limits, gateway.settings
        self._clock = gateway.clock
        self._agent = agent
        self._frame_max_bytes = gateway.intake.frame_bytes
        self._replay = replay
        self._dialogue = Dialogue()
        self._gone = Flag()  # set when the peer has left
        self._worker = FrameWorker(
            connection,
            gateway.intake,
            gateway.tasks,
            carry_out=self._take,
            finish=self._finish,
        )
        self._line = self._worker.line
        self._pulse = Pulse(
            connection,
            gateway.credentials,
            gateway.tasks,
            heartbeat_s=gateway.settings.heartbeat_s,
        )
        self._following = Following(
            connection,
            factory=gateway.factory,
            resumer=gateway.resumer,
            service=gateway.service,
            feed=gateway.feed,
        )
        self._stopped: dict[str, int] = {}
        """Runs that were stopped while their frames wait in line, and when."""
        self._refused = 0
        """Frames in a row that were above their rate."""

    async def serve(self, receive: Receive) -> str:
        """Serve until the peer or we hang up; return why, for the log."""
        with self._pulse.beating():
            if self._replay is not None:
                await self._following.replay(self._replay)
            return await self._worker.run(self._listen, receive)

    # --- what comes in ---------------------------------------------------------------------------

    async def _listen(self, receive: Receive) -> str:
        """Read until the end: what is urgent overtakes slow frames, all else waits in line."""
        taken = 0
        while True:
            taken += 1
            if taken % TURN_FRAMES == 0:
                await asyncio.sleep(0)  # what has come already is taken without waiting
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._gone.set()
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
        await self._worker.put(message)

    async def _finish(self, message: Message) -> None:
        """Keep stops of runs that were refused as other early ones: those may be sent again."""
        del message
        for run_id in tuple(self._stopped):
            if not self._line.holds_run(run_id):
                del self._stopped[run_id]
                try:
                    await self._service.remember_abort(self._connection.user_id, run_id)
                except IsolaneError as error:  # no run can be admitted now either
                    _log.warning("stop_write_failed", run_id=run_id, reason=str(error))
        self._connection.is_busy = bool(self._line)

    async def _take(self, message: Message) -> None:
        text = message.get("text")
        if text is None:
            self._connection.request_close(UNSUPPORTED_CLOSE, "text frames only")
            return
        try:
            size = self._check_size(text)
            await self._check_rate(message)
            await pace(self._limits, self._connection.user_id, size)
            commands = self._read(text)
        except TooLarge as error:
            hang_up(self._connection, error)
            return
        except IsolaneError as error:
            tell(self._connection, error)
            return
        self._note_use(commands)
        for command in commands:
            await self._carry_out(command)

    def _read(self, text: str) -> list[Command]:
        has_greeted = self._connection.has_greeted
        return self._dialogue.receive(text, now_ms=self._clock(), has_greeted=has_greeted)

    async def _check_rate(self, message: Message) -> None:
        """Count a frame. Above the rate it waits a little, and only what stops a run goes on."""
        try:
            check_rate(self._limits, self._connection.user_id)
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
            self._pulse.note_use()

    def _check_size(self, text: str) -> int:
        most = self._frame_max_bytes
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
            blamed = self._dialogue.blame(error, now_ms=self._clock(), **names)
            for consequence in blamed:
                await self._do(consequence)
        except Exception as error:  # noqa: BLE001 - one socket's trouble stays its own
            if isinstance(error, IsolaneError) and error.code != "internal":
                tell(self._connection, error, **names)
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
                await greet(self._connection, self._sockets, self._service, self._settings)
                self._pulse.wake()
            case Refuse(error, thread_id, run_id):
                tell(self._connection, error, thread_id=thread_id, run_id=run_id)
            case HangUp(reason, code):
                self._connection.request_close(code, reason)
            case Subscribe(thread_id, after):
                await self._following.subscribe(thread_id, after)
            case Unsubscribe(thread_id):
                await self._following.unsubscribe(thread_id)
            case Run():
                await self._run(command)
            case Abort(run_id):
                await self._abort(run_id)
            case Renew(token):
                await self._renew(token)
            case Ping(t):
                answer_ping(self._connection, t, frame_max_bytes=self._frame_max_bytes)

    # --- what is done ----------------------------------------------------------------------------

    async def _run(self, frame: Run) -> None:
        context = self._connection.context.for_thread(frame.thread_id).for_run(frame.run_id)
        left_out = LeftOut()
        run_input = to_run_input(frame, left_out)

        async def begin() -> EventId | None:
            ticket = await self._service.start(
                context, run_input, agent=self._agent, left_out=left_out
            )
            asked_at = self._stopped.pop(frame.run_id, None)
            if asked_at is not None:
                self._service.halt(ticket.context.run_key, asked_at=asked_at)
            # Nothing is awaited since the run's task was made: this stands before its first event.
            accept(self._connection, context, ticket)
            return self._following.want_run(ticket.context, ticket.after)

        await self._following.follow(context, begin)

    async def _abort(self, run_id: str) -> None:
        connection, service = self._connection, self._service
        asked_at = self._clock()
        if not await service.stop(RunKey(connection.user_id, run_id), asked_at=asked_at):
            if self._line.holds_run(run_id):
                self._stopped.setdefault(run_id, asked_at)
            elif not await self._find_run(run_id):
                return
        if connection.has_greeted:
            connection.post({"type": "stopping", "runId": run_id})

    async def _find_run(self, run_id: str) -> bool:
        """Say whether a run that isn't under way here was known; if not, remember its abort."""
        connection, service = self._connection, self._service
        try:
            context = await service.locate(connection.context, run_id)
        except NotFound as error:
            await service.remember_abort(connection.user_id, run_id)
            if connection.has_greeted:
                tell(self._connection, error, run_id=run_id)
            return False
        await service.abort(context)  # it may have come meanwhile
        return True

    async def _renew(self, token: str) -> None:
        await self._pulse.renew(token)
        expires_at = self._connection.identity.expires_at
        self._connection.post({"type": "auth_ok", "expiresAt": expires_at})


def _names(command: Any) -> dict[str, str | None]:  # noqa: ANN401 - any command
    """Return the ids that a command is about, for the errors it may cause."""
    return {
        "thread_id": getattr(command, "thread_id", None),
        "run_id": getattr(command, "run_id", None),
    }
