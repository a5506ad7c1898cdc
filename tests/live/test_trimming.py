"""A log that is trimmed while devices come and go: a gap is told, and told only where there is one.

What each device takes in is judged when all is over, against one that saw everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.live.client import Client, Follower, Frame, parse_id
from tests.live.crowd import Member
from tests.live.server import POLL_S
from tests.live.stage import SCRIPT, Lane, kept_events, own_server, read_to_close, steps

RUN_EVENTS: Final = 5
READERS: Final = 3
VISITS: Final = 6
AWAY: Final = (0, 1, None)
"""For how many runs a device stays away, in turn; None is until its place is gone."""
KEPT: Final = {
    "by number": kept_events(3 * RUN_EVENTS),
    "by age": {"ISOLANE_LOG_RETENTION_S": "0.4"},
}
UNLIMITED: Final = {"ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000"}


class Gap(NamedTuple):
    """What a device was told of a gap, and what it got next."""

    cursor: str | None
    messages: Sequence[Frame]
    first: Frame


@dataclass
class Reader:
    """A device that takes in whatever comes, and checks that nothing is missing without a word."""

    applied: list[Frame] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    recovered: int = 0
    """How often it came back and had missed nothing."""
    _told: Sequence[Frame] | None = None
    """The messages of a gap that it was told of, until the next entry comes."""

    @property
    def cursor(self) -> str | None:
        """The id to resume after."""
        return self.applied[-1]["id"] if self.applied else None

    def take(self, frame: Frame) -> None:
        """Take the next frame in; fails when an entry is not the next one and no gap was told."""
        if frame.get("type") == "subscribed":
            self.recovered += frame["recovered"]
            self._told = None if frame["recovered"] else frame["messages"]
        elif "chunk" in frame:
            if self._told is not None:
                self.gaps.append(Gap(self.cursor, self._told, frame))
                self._told = None
            else:
                assert seq_of(frame["id"]) == seq_of(self.cursor) + 1, (self.cursor, frame)
            self.applied.append(frame)

    async def come_back(self, client: Client) -> None:
        """Resume where it stands, and hear whether it missed anything."""
        self.take(await subscribe_after(client, self.cursor))

    async def read_to(self, client: Client, event_id: str) -> None:
        """Take in what comes, up to an entry."""
        while self.cursor != event_id:
            self.take(await client.recv())


def seq_of(event_id: str | None) -> int:
    return 0 if event_id is None else parse_id(event_id)[1]


def run_id_of(number: int) -> str:
    return f"r-{number}"


async def subscribe_after(client: Client, cursor: str | None) -> Frame:
    """Ask for what comes after `cursor`, or for all that is kept; return the answer."""
    start = {} if cursor is None else {"after": cursor}
    await client.send({"type": "subscribe", "threadId": "t"} | start)
    return await client.until_type("subscribed")


async def until_runs(whole: Follower, number: int) -> None:
    """Return once so many runs have ended."""
    async with asyncio.timeout(60):
        while ended_runs(whole) < number:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)  # between two looks


def ended_runs(whole: Follower) -> int:
    return len(whole.envelopes) // RUN_EVENTS


# --- what was taken in ---------------------------------------------------------------------------


def assert_told_of_every_gap(reader: Reader, whole: Follower) -> None:
    """Fail unless what was applied is the log's, and each gap is a real one and told rightly."""
    places = {envelope["id"]: place for place, envelope in enumerate(whole.envelopes)}
    assert reader.applied == [whole.envelopes[places[frame["id"]]] for frame in reader.applied]
    for gap in reader.gaps:
        assert gap.first["chunk"]["type"] == "RUN_STARTED", "runs are trimmed whole"
        assert seq_of(gap.first["id"]) > seq_of(gap.cursor) + 1, "nothing was missing"
        assert gap.messages == messages_of(whole.envelopes[: places[gap.first["id"]]])


def messages_of(envelopes: Sequence[Frame]) -> list[Frame]:
    """Return the questions and answers of whole runs, each run with one of both."""
    messages: list[Frame] = []
    for chunk in (envelope["chunk"] for envelope in envelopes):
        if chunk["type"] == "RUN_STARTED":
            messages += chunk["input"]["messages"]
        elif chunk["type"] == "TEXT_MESSAGE_START":
            messages.append({"id": chunk["messageId"], "role": "assistant", "content": ""})
        elif chunk["type"] == "TEXT_MESSAGE_CONTENT":
            messages[-1]["content"] += chunk["delta"]
    return messages


# --- devices that come and go --------------------------------------------------------------------


@pytest.mark.parametrize("how", KEPT)
async def test_device_that_comes_back_to_a_trimmed_log_is_told(tmp_path: Path, how: str) -> None:
    async with own_server(tmp_path, SCRIPT, env=KEPT[how] | UNLIMITED) as server:
        lane = Lane(server)
        readers = [Reader() for _ in range(READERS)]
        replays: list[Replay] = []
        async with lane.connect() as witness:
            whole = await witness.subscribe("t")
            async with asyncio.TaskGroup() as writing:
                is_over = asyncio.Event()
                writing.create_task(write(lane, witness, is_over))
                async with asyncio.TaskGroup() as group:
                    for number, reader in enumerate(readers):
                        group.create_task(come_and_go(lane, reader, whole, first=number))
                    group.create_task(replay_until_gone(lane, whole, replays))
                is_over.set()
            await all_come_back(lane, readers, witness)
    for reader in readers:
        assert_told_of_every_gap(reader, whole)
        assert reader.cursor == whole.cursor
        assert reader.gaps
        assert reader.recovered
    for replay in replays:
        assert_told_or_whole(replay, whole)
    assert not all(replay.is_expired for replay in replays)


async def write(lane: Lane, client: Client, is_over: asyncio.Event) -> None:
    """Let one run after the other end: with each, the log may lose its oldest ones."""
    for number in count(1):
        await lane.finish(client, "t", run_id_of(number), steps(["say", f"answer {number}"]))
        if is_over.is_set():
            return


async def come_and_go(lane: Lane, reader: Reader, whole: Follower, *, first: int) -> None:
    """Come, read a little, go, and stay away for a while, again and again."""
    for visit in range(first, first + VISITS):
        async with lane.connect() as client:
            await reader.come_back(client)
            for _ in range(visit % (RUN_EVENTS + 2)):
                reader.take(await client.recv())
            if visit % 2:
                client.socket.transport.abort()
        away = AWAY[visit % len(AWAY)]
        if away is None:
            await until_gone(lane, whole, reader.cursor)
        else:
            await until_runs(whole, ended_runs(whole) + away)


async def until_gone(lane: Lane, whole: Follower, cursor: str | None) -> None:
    """Return once the log can't go on from `cursor` any more, be this machine fast or slow."""
    is_kept = True
    while is_kept:
        await until_runs(whole, ended_runs(whole) + 1)
        async with lane.connect() as client:
            is_kept = (await subscribe_after(client, cursor))["recovered"]
            client.socket.transport.abort()  # an orderly end would read first all that is written


async def all_come_back(lane: Lane, readers: Sequence[Reader], witness: Client) -> None:
    """Let each catch up with one more run, for of the others nothing may be kept; and once more."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(lane.connect()) for _ in readers]
        for reader, client in zip(readers, clients, strict=True):
            await reader.come_back(client)
        end = await lane.finish(witness, "t", "r-last", steps(["say", "last answer"]))
        for reader, client in zip(readers, clients, strict=True):
            await reader.read_to(client, end["id"])
            await reader.come_back(client)


# --- runs by address -----------------------------------------------------------------------------


class Replay(NamedTuple):
    """What came of a run that was asked for by address."""

    run_id: str
    offset: str
    frames: list[Frame]
    close: tuple[int | None, str]

    @property
    def is_expired(self) -> bool:
        """Whether it ended by word that there is no more."""
        return bool(self.frames) and self.frames[-1].get("code") == "resume_expired"


async def replay_until_gone(lane: Lane, whole: Follower, replays: list[Replay]) -> None:
    """Ask for the newest run and for the oldest, from the start and from within, until it is gone.

    From its start an old run may still come, out of memory: somebody follows its thread.
    """
    while not any(replay.is_expired for replay in replays):
        await until_runs(whole, ended_runs(whole) + 1)
        for number in (ended_runs(whole), 1):
            within = whole.envelopes[(number - 1) * RUN_EVENTS + 1]["id"]
            for offset in ("-1", within):
                async with lane.replay(run_id_of(number), offset) as socket:
                    frames, close = await read_to_close(socket)
                replays.append(Replay(run_id_of(number), offset, frames, close))


def assert_told_or_whole(replay: Replay, whole: Follower) -> None:
    """Fail unless all of the run came that was asked for, or less and a word that it is gone."""
    asked = [
        envelope
        for envelope in whole.envelopes
        if envelope["runId"] == replay.run_id
        and (replay.offset == "-1" or seq_of(envelope["id"]) > seq_of(replay.offset))
    ]
    assert replay.close == (1000, "")
    if not replay.is_expired:
        assert replay.frames == asked
        return
    *came, word = replay.frames
    assert came == asked[: len(came)]
    assert (word["type"], word["runId"]) == ("RUN_ERROR", replay.run_id)


# --- a device that stays, and falls behind -------------------------------------------------------

BLOB_RUNS: Final = 12
BLOBS: Final = steps(["say", "blobs"], ["blobs", 4, 60_000])
BLOB_ENV: Final = kept_events(20)


async def test_device_that_falls_behind_the_log_is_told_on_the_way(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, env=BLOB_ENV) as server:
        lane, reader = Lane(server), Reader()
        member = await Member.join(lane, is_deaf=True)
        async with lane.connect() as witness:
            whole = await witness.subscribe("t")
            await member.subscribe("t")
            await lane.finish(witness, "t", "r-0", "hear this")
            member.go_deaf()
            for number in range(1, BLOB_RUNS + 1):
                await lane.finish(witness, "t", run_id_of(number), BLOBS)
            member.hear()
            last = f'{{"id":"{whole.cursor}"'.encode()
            await member.until(lambda: member.received[-1].text.startswith(last))
            member.leave()
    for received in member.received:
        reader.take(received.frame)
    assert_told_of_every_gap(reader, whole)
    assert reader.cursor == whole.cursor
    # It was told once that it is in time, and then what it missed, on the same socket.
    assert (reader.recovered, bool(reader.gaps)) == (1, True)
