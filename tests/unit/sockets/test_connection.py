"""One socket: one queue, in order, a verdict for each who waits, one close."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from random import Random

import pytest
from tests.house import Socket, connect, key_of, until
from tests.interleaving.explorer import play
from tests.interleaving.scheduler import ShuffledLoop

from isolane.context import EventId
from isolane.contracts import Verdict
from isolane.events.event import Record
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.interest import Interest
from isolane.sockets.writer import OUTBOX_MAX
from isolane.tasks import TaskOwner


@pytest.fixture
async def tasks() -> AsyncIterator[TaskOwner]:
    owner = TaskOwner()
    yield owner
    assert await owner.close() == 0


def frame(number: int) -> dict[str, object]:
    return {"n": number}


def record(seq: int, run_id: str = "r", *, end: bool = False) -> Record:
    kind = "RUN_FINISHED" if end else "CUSTOM"
    return Record(key_of(), EventId("e", seq), run_id, b'{"type":"%s"}' % kind.encode())


def numbers(socket: Socket) -> list[int]:
    return [json.loads(text)["n"] for text in socket.texts]


async def test_what_is_given_first_goes_out_first(tasks: TaskOwner) -> None:
    socket = Socket()
    connection = connect(socket, tasks)
    connection.post(frame(0))
    waiting = asyncio.gather(*(connection.send(frame(n)) for n in range(1, 50)))
    await asyncio.sleep(0)  # lets them line up
    connection.post(frame(50))
    assert set(await waiting) == {Verdict.DELIVERED}
    await connection.close()
    assert numbers(socket) == list(range(51))
    assert socket.closes == [(1000, "")]


@pytest.mark.parametrize("seed", range(20))
async def test_what_goes_out_at_once_overtakes_nothing_that_waits(
    tasks: TaskOwner, seed: int
) -> None:
    socket, dice = Socket(), Random(seed)  # noqa: S311 - no secret

    def write_texts(texts: Sequence[str], start: int) -> int:
        taken = texts[start : start + dice.randrange(4)]
        socket.sent += [{"type": "websocket.send", "text": text} for text in taken]
        return len(taken)

    connection = connect(socket, tasks, write_texts=write_texts)
    lists = [[json.dumps(frame(10 * n + m)) for m in range(10)] for n in range(10)]
    told = await asyncio.gather(*(connection.send_texts(texts) for texts in lists))
    assert set(told) == {Verdict.DELIVERED}
    assert numbers(socket) == list(range(100))
    await connection.dispose()


async def test_delivered_means_the_socket_took_it(tasks: TaskOwner) -> None:
    socket = Socket()
    socket.is_taking.clear()
    connection = connect(socket, tasks)
    sending = asyncio.create_task(connection.send(frame(1)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not sending.done()
    socket.is_taking.set()
    assert await sending is Verdict.DELIVERED
    assert numbers(socket) == [1]
    await connection.dispose()


async def test_what_waits_goes_out_before_the_close(tasks: TaskOwner) -> None:
    socket = Socket()
    connection = connect(socket, tasks)
    for number in range(5):
        connection.post(frame(number))
    connection.request_close(4401, "expired")
    connection.post(frame(9))  # too late
    assert await connection.send(frame(9)) is Verdict.CLOSED
    await connection.close(1000)
    assert numbers(socket) == [0, 1, 2, 3, 4]
    assert socket.closes == [(4401, "expired")]


async def test_close_is_idempotent_and_also_at_once(tasks: TaskOwner) -> None:
    socket = Socket()
    connection = connect(socket, tasks)
    await asyncio.gather(*(connection.close(1001, "away") for _ in range(5)))
    await connection.close(4403)
    await connection.dispose()
    await connection.dispose()
    assert socket.closes == [(1001, "away")]
    assert not connection.is_open
    assert len(tasks) == 0


@pytest.mark.parametrize(
    "error", [OSError("gone"), RuntimeError("gone")], ids=lambda e: type(e).__name__
)
async def test_a_dead_socket_is_told_as_failed_and_then_closed(
    error: Exception, tasks: TaskOwner
) -> None:
    socket = Socket()
    socket.error = error
    connection = connect(socket, tasks)
    first, second = asyncio.create_task(connection.send(frame(1))), connection.send(frame(2))
    assert (await first, await second) == (Verdict.FAILED, Verdict.CLOSED)
    assert not connection.is_open
    await connection.close()
    assert len(tasks) == 0


async def test_a_socket_that_takes_nothing_is_given_up(tasks: TaskOwner) -> None:
    socket = Socket()
    socket.is_taking.clear()
    connection = connect(socket, tasks, send_timeout_s=0.05, can_abort=True)
    sending = [asyncio.create_task(connection.send(frame(n))) for n in range(3)]
    assert [await sending[1], await sending[2]] == [Verdict.FAILED] * 2
    assert socket.aborted == 1
    assert not connection.is_open
    socket.is_taking.set()  # room for the close
    assert await sending[0] is Verdict.FAILED
    await connection.close()
    assert socket.closes == [(4409, "slow_consumer")]
    assert await connection.send(frame(9)) is Verdict.CLOSED


def test_a_slow_socket_that_takes_a_little_is_kept() -> None:
    taken: list[str] = []

    async def slowly(message: object) -> None:
        await asyncio.sleep(0.9)  # the pace of a slow peer: each in time, all together not
        taken.append(str(message))

    async def scenario(loop: ShuffledLoop) -> None:
        connection = connect(Socket(), TaskOwner(), send_timeout_s=1.0)
        connection._writer._send = slowly
        interest = connection.get_interest("thread")
        interest.want_all()
        records = [record(n) for n in range(1, 9)]
        assert await connection.deliver(interest, records) is Verdict.DELIVERED
        assert loop.time() > 7
        await connection.dispose()

    play(scenario, 0)
    assert len(taken) == 8


async def test_a_full_line_ends_a_slow_consumer_not_the_server(tasks: TaskOwner) -> None:
    socket = Socket()
    socket.is_taking.clear()
    connection = connect(socket, tasks, can_abort=True)
    connection.post(frame(0))
    await asyncio.sleep(0)  # the writer takes the first and hangs
    for number in range(1, OUTBOX_MAX + 1):
        connection.post(frame(number))
    assert socket.aborted == 0
    connection.post(frame(-1))
    assert not connection.is_open
    assert socket.aborted == 1
    assert not connection._writer._outbox
    await connection.dispose()


async def test_whoever_waits_hears_of_the_peers_going(tasks: TaskOwner) -> None:
    socket = Socket()
    socket.is_taking.clear()
    connection = connect(socket, tasks)
    waiting = [asyncio.create_task(connection.send(frame(n))) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await connection.dispose()
    verdicts = [await one for one in waiting]
    assert Verdict.DELIVERED not in verdicts
    assert socket.sent == []


async def test_who_stops_waiting_stops_nobody_else(tasks: TaskOwner) -> None:
    socket = Socket()
    socket.is_taking.clear()
    connection = connect(socket, tasks)
    first = asyncio.create_task(connection.send(frame(1)))
    second = asyncio.create_task(connection.send(frame(2)))
    await asyncio.sleep(0)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    socket.is_taking.set()
    assert await second is Verdict.DELIVERED
    assert numbers(socket) == [1, 2]
    await connection.dispose()


async def test_a_record_goes_out_in_its_envelope(tasks: TaskOwner) -> None:
    socket = Socket()
    connection: WebSocketConnection = connect(socket, tasks)
    interest = connection.get_interest("thread")
    interest.want_all()
    assert await connection.deliver(interest, [record(7)]) is Verdict.DELIVERED
    assert json.loads(socket.texts[0]) == {
        "id": "e-7", "chunk": {"type": "CUSTOM"}, "threadId": "thread", "runId": "r",
    }  # fmt: skip
    await connection.close()
    assert await connection.deliver(interest, [record(8)]) is Verdict.CLOSED
    assert await connection.deliver(Interest(), [record(8)]) is Verdict.CLOSED


# --- what a connection wants ---------------------------------------------------------------------


def seqs(interest: Interest, *records: Record) -> list[int]:
    return [one.id.seq for one in interest.select(records)]


def test_who_wants_nothing_gets_nothing() -> None:
    assert not Interest()
    assert seqs(Interest(), record(1)) == []


def test_a_wanted_run_comes_once_and_ends_with_its_end() -> None:
    interest = Interest()
    assert interest.want_run("r", after=EventId("e", 2))
    assert not interest.want_run("r", after=EventId("e", 0))
    assert seqs(interest, record(1), record(2), record(3), record(4, "other")) == [3]
    assert seqs(interest, record(3), record(5, end=True), record(6)) == [5]
    assert not interest


def test_two_wanted_runs_are_read_from_the_older_one() -> None:
    interest = Interest()
    interest.want_run("old", after=EventId("e", 3))
    interest.want_run("new", after=EventId("e", 9))
    assert interest.resume_seq() == 3
    assert set(interest.run_ids()) == {"old", "new"}


def test_who_wants_all_needs_no_single_run() -> None:
    interest = Interest()
    interest.want_run("r", after=EventId("e", 5))
    interest.want_all()
    assert not interest.want_run("q", after=EventId("e", 0))
    assert seqs(interest, record(1), record(6), record(7, "q", end=True)) == [1, 6, 7]
    assert interest
    assert interest.resume_seq() is None


async def test_a_renewed_interest_leaves_the_old_one_wanting_nothing(tasks: TaskOwner) -> None:
    connection = connect(Socket(), tasks)
    old = connection.get_interest("t")
    old.want_all()
    new = connection.renew_interest("t")
    new.want_all()
    assert not old
    assert connection.wants("t")
    connection.lose_interest("t")
    assert not new
    assert not connection.wants("t")
    await connection.dispose()


async def test_a_connection_prints_no_secret(tasks: TaskOwner) -> None:
    connection = connect(Socket(), tasks)
    assert f"{connection!r}" == "<WebSocketConnection conn of alice>"
    await connection.dispose()
    await until(lambda: len(tasks) == 0)
