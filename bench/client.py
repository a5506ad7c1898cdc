"""All the connections of one window, in a process of their own. Started by `stream.py`.

Reads a `Plan` from stdin and prints a `Window`. While the window lasts frames are only split and
kept with the time of their receipt; they are judged when it is over.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self, cast

import msgspec
import uvloop
from pace import NS_PER_S, Pace
from wire import CLOSE, PING, PONG, TEXT, encode_frame, read_frame, upgrade_request

HOST = "127.0.0.1"
LEAD_S = 1.5
"""Seconds from the run frames to the first event, so that every run can start."""
TAIL_S = 0.5
"""Seconds for which runs go on after the window, so that the window doesn't measure their end."""
CONNECT_TIMEOUT_S = 30.0
PATIENCE = 6
"""Factor of the planned time after which a run is given up, in addition to `CONNECT_TIMEOUT_S`."""
FAULTS_MAX = 5


class Plan(msgspec.Struct, frozen=True):
    """The client's task: one connection per token, each with one run."""

    port: int
    pid: int
    """Process id of the server, for its CPU time."""
    thread_id: str
    tokens: list[str | None]
    rate: float
    """Events per second of each connection."""
    duration_s: float


class Window(msgspec.Struct, frozen=True):
    """The result of one window, over the text events of all its connections."""

    faults: list[str]
    """Events that were missing, doubled or out of order; empty when all came once and in order."""
    events: int
    """Number of events that arrived within the window."""
    p50_ms: float
    """Time from the agent's yield to the receipt, as `p99_ms`."""
    p99_ms: float
    due_p99_ms: float
    """Time from the moment when an event was due, the agent's own wait included."""
    cpu_us: float
    """User and system time of the server per event, in microseconds."""
    client_load: float
    """Number of CPUs that this client used."""
    others_load: float
    """Number of CPUs that other programs used."""


class Chunk(msgspec.Struct):
    """What matters here of an AG-UI event."""

    type: str
    delta: str = ""


class Envelope(msgspec.Struct):
    """What matters here of a data frame; a ping has no chunk."""

    id: str = ""
    chunk: Chunk | None = None


class Socket(asyncio.Protocol):
    """One connection; it keeps what it receives, with the time."""

    def __init__(self, request: bytes) -> None:
        """Open by sending `request`."""
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.received: list[tuple[int, bytes]] = []
        self._request = request
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.WriteTransport", transport)  # what TCP gives
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the time, and split."""
        now_ns = time.monotonic_ns()
        self._rest += data
        if not self.accepted.done() and not self._accept():
            return
        at = 0
        while (frame := read_frame(self._rest, at)) is not None:
            at = frame.end
            self._take(frame.opcode, frame.payload, now_ns)
        self._rest = self._rest[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still waits."""
        self._fail(f"the connection was lost: {exc}")

    def send(self, opcode: int, payload: bytes) -> None:
        """Send one frame."""
        assert self._transport is not None  # noqa: S101 - nobody sends before the upgrade
        self._transport.write(encode_frame(opcode, payload))

    def close(self) -> None:
        """Let go at once; what came is judged without the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _accept(self) -> bool:
        head, separator, rest = self._rest.partition(b"\r\n\r\n")
        if not separator:
            return False
        self._rest = rest
        if head.startswith(b"HTTP/1.1 101 "):
            self.accepted.set_result(None)
        else:
            self._fail(f"no upgrade: {head.decode(errors='replace')}")
        return self.accepted.exception() is None

    def _take(self, opcode: int, payload: bytes, now_ns: int) -> None:
        if opcode == TEXT:
            self.received.append((now_ns, payload))
            if b'"RUN_FINISHED"' in payload or b'"RUN_ERROR"' in payload:
                self.ended.set_result(None)
        elif opcode == PING:
            self.send(PONG, payload)
        elif opcode == CLOSE:
            self._fail(f"the server closed: {payload[2:].decode(errors='replace')}")

    def _fail(self, reason: str) -> None:
        for waiter in (self.accepted, self.ended):
            if not waiter.done():
                waiter.set_exception(ConnectionError(reason))
                waiter.exception()  # not everybody waits for both


class Judge:
    """Reads what one connection received: each event once, in order, and how long it took."""

    def __init__(self, user: str, pace: Pace, *, until_ns: int) -> None:
        """Expect the run that `pace` describes; `user` is how a fault names the connection.

        Every event is checked; only those that were due before `until_ns` are measured.
        """
        self._user = user
        self._pace = pace
        self._until_ns = until_ns
        self._seq = 0
        self._number = 0
        self.faults: list[str] = []
        self.events = 0
        self.latencies_ns: list[int] = []
        self.due_latencies_ns: list[int] = []

    def read(self, received: Sequence[tuple[int, bytes]]) -> None:
        """Judge all frames of the connection."""
        last = ""
        for at_ns, payload in received:
            envelope = msgspec.json.decode(payload, type=Envelope)
            if envelope.chunk is not None:
                last = envelope.chunk.type
                self._take(at_ns, envelope.id, envelope.chunk)
        self._expect("the last event", last, "RUN_FINISHED")
        self._expect("the number of events", self._number, self._pace.events)

    def _take(self, at_ns: int, event_id: str, chunk: Chunk) -> None:
        self._seq += 1
        self._expect("the id's number", int(event_id.rpartition("-")[2]), self._seq)
        if chunk.type != "TEXT_MESSAGE_CONTENT":
            return
        number, sent_at_ns = map(int, chunk.delta.split())
        self._expect("the event", number, self._number)
        self._number += 1
        self.events += at_ns < self._until_ns
        due_ns = self._pace.due_ns(number)
        if due_ns < self._until_ns:
            self.latencies_ns.append(at_ns - sent_at_ns)
            self.due_latencies_ns.append(at_ns - due_ns)

    def _expect(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.faults.append(f"{self._user}: {what} is {found}, not {wanted}")


def pace_of(plan: Plan, place: int, begin_ns: int) -> Pace:
    """Return the pace of one connection; they are spread evenly over an event's interval."""
    interval_ns = round(NS_PER_S / plan.rate)
    offset_ns = interval_ns * place // len(plan.tokens)
    events = round(plan.rate * (plan.duration_s + TAIL_S))
    return Pace(begin_ns + offset_ns, interval_ns, events)


def run_frame(plan: Plan, pace: Pace, place: int) -> bytes:
    """Return the frame that starts a connection's run."""
    return msgspec.json.encode(
        {
            "threadId": plan.thread_id,
            "runId": f"{plan.thread_id}-{place}",
            "messages": [{"id": f"{plan.thread_id}-{place}", "role": "user", "content": "go"}],
            "forwardedProps": pace.to_props(),
        }
    )


async def connect(plan: Plan) -> list[Socket]:
    """Open all connections, one after the other."""
    loop = asyncio.get_running_loop()
    sockets = []
    for token in plan.tokens:
        request = upgrade_request(f"{HOST}:{plan.port}", "/ws", token)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, socket = await loop.create_connection(
                lambda request=request: Socket(request),  # type: ignore[misc]
                HOST,
                plan.port,
            )
            await socket.accepted
        sockets.append(socket)
    return sockets


async def measure(plan: Plan) -> Window:
    """Run one window."""
    sockets = await connect(plan)
    begin_ns = time.monotonic_ns() + round(LEAD_S * NS_PER_S)
    paces = [pace_of(plan, place, begin_ns) for place in range(len(sockets))]
    for place, (socket, pace) in enumerate(zip(sockets, paces, strict=True)):
        socket.send(TEXT, run_frame(plan, pace, place))
    await sleep_until(begin_ns)
    before = Usage.read(plan.pid)
    until_ns = begin_ns + round(plan.duration_s * NS_PER_S)
    await sleep_until(until_ns)
    usage = Usage.read(plan.pid).since(before)
    try:
        async with asyncio.timeout(plan.duration_s * PATIENCE + CONNECT_TIMEOUT_S):
            await asyncio.gather(*(socket.ended for socket in sockets))
    except (TimeoutError, ConnectionError) as error:
        raise SystemExit(f"given up: {str(error) or 'the runs did not end'}") from error
    for socket in sockets:
        socket.close()
    return to_window(list(judge(sockets, paces, until_ns=until_ns)), usage)


async def sleep_until(at_ns: int) -> None:
    """Sleep until a time of the monotonic clock: the pace."""
    await asyncio.sleep((at_ns - time.monotonic_ns()) / NS_PER_S)


def judge(sockets: Sequence[Socket], paces: Sequence[Pace], *, until_ns: int) -> Iterator[Judge]:
    """Yield a judge for each connection, who has read it."""
    for place, (socket, pace) in enumerate(zip(sockets, paces, strict=True), start=1):
        judge = Judge(f"u{place}", pace, until_ns=until_ns)
        judge.read(socket.received)
        yield judge


def to_window(judges: Sequence[Judge], usage: Usage) -> Window:
    """Return what the judges found, together."""
    latencies_ns = sorted(value for judge in judges for value in judge.latencies_ns)
    due_latencies_ns = sorted(value for judge in judges for value in judge.due_latencies_ns)
    events = sum(judge.events for judge in judges)
    return Window(
        faults=[fault for judge in judges for fault in judge.faults][:FAULTS_MAX],
        events=events,
        p50_ms=percentile_ms(latencies_ns, 50),
        p99_ms=percentile_ms(latencies_ns, 99),
        due_p99_ms=percentile_ms(due_latencies_ns, 99),
        cpu_us=usage.server_s * 1e6 / max(events, 1),
        client_load=usage.client_s / usage.elapsed_s,
        others_load=usage.others_s / usage.elapsed_s,
    )


def percentile_ms(ascending_ns: Sequence[int], percent: int) -> float:
    """Return the value that `percent` of all are at or below, in milliseconds."""
    place = -(-len(ascending_ns) * percent // 100) - 1
    return ascending_ns[place] / 1e6


class Usage(NamedTuple):
    """CPU time of the server, of this client and of all else, and what the clock says; seconds."""

    server_s: float
    client_s: float
    others_s: float
    elapsed_s: float

    @classmethod
    def read(cls, pid: int) -> Self:
        """Return what was used so far; `pid` is the server's."""
        server_s, client_s = read_cpu_s(pid), time.process_time()
        others_s = read_busy_s() - server_s - client_s
        return cls(server_s, client_s, others_s, time.monotonic())

    def since(self, earlier: Self) -> Self:
        """Return what was used between `earlier` and this."""
        return type(self)(*(now - then for now, then in zip(self, earlier, strict=True)))


class Turns(NamedTuple):
    """How long the event loop of a server has run, and has waited for a core; nanoseconds."""

    ran: int
    waited: int

    @classmethod
    def read(cls, pid: int) -> Self:
        """Return what the main thread of a process has had so far."""
        told = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="utf-8").split()
        return cls(int(told[0]), int(told[1]))

    def stretch_since(self, earlier: Self) -> float:
        """Return how many times longer it took, because other work had the cores."""
        return 1 + (self.waited - earlier.waited) / max(self.ran - earlier.ran, 1)


def read_busy_s() -> float:
    """Return the time that all CPUs were busy since the start, or taken away, in seconds."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _iowait, *rest = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def read_cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far, in seconds, to a clock tick."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Do what the plan on stdin says."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    gc.disable()  # everything is kept to the end anyway
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        window = runner.run(measure(plan))
    sys.stdout.buffer.write(msgspec.json.encode(window))


if __name__ == "__main__":
    main()
