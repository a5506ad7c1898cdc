"""Frames that answer a client of `agui.v1`: welcomes, acceptances, pongs and errors."""

from __future__ import annotations

from isolane.context import UserExecutionContext
from isolane.contracts import RunTicket
from isolane.doors.problems import close_code_of, report
from isolane.errors import IsolaneError, TooLarge
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.registry import Sockets
from isolane.wire.frames import encode_frame, error_frame, run_error, welcome


async def greet(
    connection: WebSocketConnection, sockets: Sockets, service: AgentService, settings: Settings
) -> None:
    """Answer hello: with the limits, the runs under way, and when the credential ends.

    A client without a welcome would wait for ever. So the socket closes where the runs can't be
    read, and its client comes back.
    """

    async def load() -> dict[str, object]:
        active = await service.load_active_runs(connection.user_id)
        return welcome(
            connection_id=connection.id,
            user_id=connection.user_id,
            heartbeat_ms=settings.heartbeat_ms,
            limits=settings.published_limits,
            token_expires_at=connection.identity.expires_at,
            active_runs=[
                {"threadId": run.thread_id, "runId": run.run_id, "head": str(run.head)}
                for run in active
            ],
            nodes=service.node_count,
        )

    try:
        await sockets.greet(connection, load)
    except IsolaneError as error:
        hang_up(connection, error)


def answer_ping(connection: WebSocketConnection, t: object, *, frame_max_bytes: int) -> None:
    """Answer a ping with what it carried.

    Raises:
        TooLarge: The pong would have more than `frame_max_bytes`. A number may be written with
            more characters than the client wrote it with.
    """
    frame: dict[str, object] = {"type": "pong"} if t is None else {"type": "pong", "t": t}
    if isinstance(t, dict | list):
        size = len(encode_frame(frame).encode())
        if size > frame_max_bytes:
            raise TooLarge(f"t: the pong has {size} bytes, and a frame may have {frame_max_bytes}")
    connection.post(frame)


def accept(
    connection: WebSocketConnection, context: UserExecutionContext, ticket: RunTicket
) -> None:
    """Tell a client that has greeted what became of the run that it asked for in `context`."""
    if not connection.has_greeted:
        return
    accepted: dict[str, object] = {
        "type": "accepted",
        "threadId": context.thread_id,
        "runId": context.run_id,
        "requestId": context.request_id,
        "disposition": ticket.disposition,
    }
    if ticket.position is not None:
        accepted["position"] = ticket.position
    if ticket.context.run_id != context.run_id:
        accepted["attachedTo"] = ticket.context.run_id
    connection.post(accepted)


def tell(
    connection: WebSocketConnection,
    error: IsolaneError,
    *,
    thread_id: str | None = None,
    run_id: str | None = None,
) -> None:
    """Tell a client of an error: as a control frame when it has greeted, else as a run's error."""
    known, error_id = report(error, connection_id=connection.id, run_id=run_id)
    if connection.has_greeted:
        connection.post(error_frame(known, error_id, threadId=thread_id, runId=run_id))
    else:
        connection.post(run_error(known, error_id, run_id=run_id))


def hang_up(connection: WebSocketConnection, error: BaseException) -> None:
    """Tell a client of an error that ends its connection, then close. Doesn't wait."""
    known, error_id = report(error, connection_id=connection.id)
    connection.post(error_frame(known, error_id))
    connection.request_close(close_code_of(known), known.code)
