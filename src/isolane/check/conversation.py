"""The layers of one user's conversation: context, manager, run, order of events, stop."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from isolane.check.finding import Broken, Misuse
from isolane.check.lane import Lane, new_name, run_frame
from isolane.check.order import Frame, check_run, is_end_of, is_envelope, text_of
from isolane.check.walk import Run, Walk
from isolane.check.wire import Socket

STOP_S: Final = 5.0
"""Seconds within which a stopped run must end."""
_LIMITS: Final = (
    "connectionsPerUser",
    "threadsPerUser",
    "runsPerUser",
    "queuedRunsPerThread",
    "framesPerMinute",
    "requestsPerUser",
    "frameBytes",
    "requestBytes",
    "chatFrameBytes",
    "eventBytes",
    "runBytes",
    "runEvents",
    "storedThreadsPerUser",
    "storedBytesPerUser",
)
FENCE: Final = "isolane-check-fence"
"""Id of a thread that nobody follows."""
_SAYING: Final = "isolane check says this"
_TOOL: Final = "isolane_check_tool"


async def check_context(walk: Walk) -> str:
    """Each token has its own user, and WebSocket and HTTP name the same one."""
    sockets, welcomes = zip(*[await _greet(lane) for lane in walk.lanes], strict=True)
    walk.socket = sockets[0]
    walk.frames_per_minute = min(w["limits"]["framesPerMinute"] for w in welcomes)
    users = {lane.user_id for lane in walk.lanes}
    if len(users) != len(walk.lanes):
        raise Misuse("both tokens are of one user: isolation needs tokens of two")
    return f"users: {', '.join(sorted(users))}; limits and heartbeat are told"


async def _greet(lane: Lane) -> tuple[Socket, Frame]:
    socket, welcome = await lane.greet()
    _check_welcome(welcome)
    lane.user_id = str(welcome["userId"])
    await _check_me(lane)
    return socket, welcome


def _check_welcome(welcome: Frame) -> None:
    limits = welcome.get("limits")
    is_whole = (
        welcome.get("v") == 1
        and isinstance(welcome.get("userId"), str)
        and isinstance(welcome.get("connectionId"), str)
        and _is_count(welcome.get("heartbeatMs"))
        and isinstance(limits, dict)
        and all(_is_count(limits.get(name)) for name in _LIMITS)
    )
    if not is_whole:
        raise Broken(
            "the welcome lacks something",
            sent='{"type":"hello","v":1}',
            came=welcome,
            expected=f"v, userId, connectionId, heartbeatMs and limits with {', '.join(_LIMITS)}",
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


async def _check_me(lane: Lane) -> None:
    answer = await lane.ask("GET", "/api/me")
    if answer.read().get("userId") != lane.user_id:
        raise Broken(
            "HTTP knows another user than the socket",
            sent="GET /api/me",
            came=f"{answer.status} {answer.text}",
            expected=lane.user_id,
        )


async def check_manager(walk: Walk) -> str:
    """An unused thread is empty, and can be followed."""
    thread_id = walk.lane.new_thread()
    answer = await subscribe(walk.get_socket(), thread_id)
    if not str(answer["head"]).endswith("-0"):
        raise Broken("a thread that nobody used is not empty", came=answer, expected="head …-0")
    walk.run = Run(thread_id, new_name("run"), str(answer["head"]))
    return f"head {answer['head']}"


async def subscribe(socket: Socket, thread_id: str, after: str | None = None) -> Frame:
    """Follow a thread and return the answer.

    Raises:
        Broken: The answer lacks something.
    """
    start = {} if after is None else {"after": after}
    frame = {"type": "subscribe", "threadId": thread_id, **start}
    answer = await socket.ask(frame, "subscribed")
    if answer.get("threadId") != thread_id or answer.get("recovered") is not True:
        raise Broken(
            "the thread can't be followed without a gap",
            sent=frame,
            came=answer,
            expected=f"threadId {thread_id}, recovered true",
        )
    return answer


async def check_run_goes(walk: Walk) -> str:
    """A run is accepted, and its events arrive up to its end."""
    run, socket = walk.get_run(), walk.get_socket()
    began = perf_counter()
    await start_run(
        socket,
        run,
        ["say", _SAYING],
        ["tool", _TOOL, {"of": run.run_id}, "done"],
        ["count", 20, 5],
    )
    first = await socket.until(is_envelope, what="the first envelope")
    first_ms = (perf_counter() - began) * 1000
    rest = await socket.read_run(run.run_id)
    run.envelopes = [frame for frame in first if is_envelope(frame)] + rest
    _check_success(run.envelopes[-1])
    return f"first event after {first_ms:.0f} ms, {len(run.envelopes)} events"


async def start_run(socket: Socket, run: Run, *steps: list[object]) -> Frame:
    """Start a run.

    Raises:
        Broken: The run doesn't begin at once.
    """
    frame = run_frame(run.thread_id, run.run_id, *steps)
    answer = await socket.ask(frame, "accepted")
    if (answer.get("runId"), answer.get("disposition")) != (run.run_id, "started"):
        raise Broken(
            "a run of a new id on a free thread was not started",
            sent=frame,
            came=answer,
            expected="disposition started",
        )
    return answer


def _check_success(end: Frame) -> None:
    if end["chunk"]["type"] != "RUN_FINISHED":
        raise Broken("the run ended in an error", came=end, expected="RUN_FINISHED")


async def check_order(walk: Walk) -> str:
    """Ids have no gap, there is one start and one end, everything opened is closed."""
    run, socket = walk.get_run(), walk.get_socket()
    late = await settle(socket)
    check_run([*run.envelopes, *late], thread_id=run.thread_id, run_id=run.run_id, after=run.after)
    said, wanted = text_of(run.envelopes), _SAYING + "".join(f"{number} " for number in range(20))
    if said != wanted:
        raise Broken("the answer is another than was given", came=said, expected=wanted)
    return f"{run.envelopes[0]['id']} to {run.envelopes[-1]['id']}"


async def settle(socket: Socket) -> list[Frame]:
    """Return the envelopes that arrive before the answer to a frame that changes nothing.

    A ping doesn't serve here, because a pong may overtake the answers to earlier frames.
    """
    await socket.send({"type": "unsubscribe", "threadId": FENCE})
    frames = await socket.until(
        lambda frame: frame.get("type") == "unsubscribed" and frame["threadId"] == FENCE,
        what=f"the answer to unsubscribe {FENCE}",
    )
    return [frame for frame in frames if is_envelope(frame)]


async def check_stop(walk: Walk) -> str:
    """A waiting run can be stopped: `stopping` comes at once, then the run's end."""
    run, socket = Run(walk.lane.new_thread(), new_name("run"), ""), walk.get_socket()
    await start_run(socket, run, ["say", _SAYING], ["wait"])
    await socket.until(lambda f: is_envelope(f) and _is_said(f), what="the run's text")
    began = perf_counter()
    end = await stop_run(socket, run.run_id)
    took_ms = (perf_counter() - began) * 1000
    _check_cancelled(end, {"type": "abort", "runId": run.run_id})
    await _check_ended(walk.lane, run.run_id)
    return f"it ended {took_ms:.0f} ms after the abort"


async def stop_run(socket: Socket, run_id: str) -> Frame:
    """Stop a run and return the envelope of its end event."""
    await socket.send({"type": "abort", "runId": run_id})
    frames = await socket.until(
        lambda frame: is_end_of(frame, run_id), what="the end of the run", timeout_s=STOP_S
    )
    if not any(frame == {"type": "stopping", "runId": run_id} for frame in frames):
        raise Broken("the abort was not acknowledged", sent=socket.sent, expected="stopping")
    return frames[-1]


def _is_said(frame: Frame) -> bool:
    return bool(frame["chunk"]["type"] == "TEXT_MESSAGE_CONTENT")


def _check_cancelled(end: Frame, sent: Frame) -> None:
    chunk = end["chunk"]
    if (chunk["type"], chunk.get("outcome")) != ("RUN_FINISHED", {"type": "cancelled"}):
        raise Broken(
            "a stopped run ended otherwise",
            sent=sent,
            came=end,
            expected="RUN_FINISHED with outcome cancelled",
        )


async def _check_ended(lane: Lane, run_id: str) -> None:
    answer = await lane.ask("GET", f"/api/runs/{run_id}")
    told = answer.read()
    if (told.get("state"), told.get("outcome")) != ("ended", "cancelled"):
        raise Broken(
            "the record of the stopped run says otherwise",
            sent=f"GET /api/runs/{run_id}",
            came=f"{answer.status} {answer.text}",
            expected="state ended, outcome cancelled",
        )
