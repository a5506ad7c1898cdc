"""What users of the churn have beside their tabs; each comes back until it has heard all.

A plain client asks before hello, as TanStack's does, and a post by AG-UI's HTTP binding; both send
the same frame again when they were cut off. A stream follows the thread by server-sent events, and
a replay one run by its address; both go on from the last id they have.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

import httpx
from tests.live.churn.rounds import Round
from tests.live.churn.world import BUSY, Busy, Ear, Person
from tests.live.client import Frame, is_terminal
from tests.live.event_stream import Entry, EventStream
from websockets.exceptions import ConnectionClosed

CLOSE_NORMAL: Final = 1000
Device = Callable[[Person, Round], Coroutine[Any, Any, list[Entry]]]
"""Returns the events that it has heard."""


# --- who asks ------------------------------------------------------------------------------------


async def ask_plainly(person: Person, made: Round) -> list[Entry]:
    """Send a run frame before hello, and again after each cut."""
    (ask,) = made.asks
    entries: list[Entry] = []

    async def attempt() -> bool:
        entries.clear()
        async with person.connect(hello=False) as client:
            await client.send(ask.frame(made.thread_id))
            while not (entries and is_end(entries[-1])):
                entries.append(await recv_entry(client, ask.run_id))
                made.accept(ask.run_id)
        return True

    await person.persist(attempt)
    person.count("runs asked for before hello")
    return entries


async def ask_by_post(person: Person, made: Round) -> list[Entry]:
    """Ask by AG-UI's HTTP binding, and again after each cut."""
    (ask,) = made.asks
    entries: list[Entry] = []

    async def attempt() -> bool:
        entries.clear()
        body = ask.frame(made.thread_id)
        async with person.http.stream("POST", "/agui", json=body) as response:
            async for entry in read_entries(person, response):
                made.accept(ask.run_id)
                entries.append(entry)
        return bool(entries) and is_end(entries[-1])

    await person.persist(attempt)
    person.count("runs asked for by POST /agui")
    return entries


# --- who listens ---------------------------------------------------------------------------------


async def stream(person: Person, made: Round) -> list[Entry]:
    """Follow the thread by server-sent events, and go on after each cut by Last-Event-ID."""
    entries: list[Entry] = []
    await made.begun.wait()

    async def attempt() -> bool:
        person.count("resumes by Last-Event-ID", bool(entries))
        headers = {"Last-Event-ID": str(entries[-1].id if entries else made.after)}
        path = f"/api/threads/{made.thread_id}/events"
        async with (
            person.http.stream("GET", path, headers=headers) as response,
            aclosing(read_entries(person, response)) as coming,
        ):
            async for entry in coming:
                entries.append(entry)
                if sum(map(is_end, entries)) == len(made.wanted):
                    return True
        return False

    await person.persist(attempt)
    person.count("event streams")
    return entries


async def replay(person: Person, made: Round) -> list[Entry]:
    """Hear the first run by its address, and go on after each cut from the last id."""
    entries: list[Entry] = []
    run_id = made.asks[0].run_id
    await made.begun.wait()

    async def attempt() -> bool:
        person.count("resumes by address", bool(entries))
        query = f"?runId={run_id}&offset={entries[-1].id if entries else -1}"
        async with person.connect(hello=False, query=query) as client:
            try:
                while True:
                    entries.append(await recv_entry(client, run_id))
            except ConnectionClosed:
                if client.socket.close_code == CLOSE_NORMAL:
                    return True
                raise

    await person.persist(attempt)
    person.count("replays by address")
    return entries


# --- what comes ----------------------------------------------------------------------------------


async def recv_entry(client: Ear, run_id: str) -> Entry:
    """Return what comes on a socket that never greeted: an envelope of one run, or an error."""
    frame: Frame = await client.recv()
    if "id" not in frame:
        assert frame.get("code") == BUSY, frame
        raise Busy
    assert frame["runId"] == run_id, frame
    return Entry(frame["id"], frame["chunk"])


async def read_entries(person: Person, response: httpx.Response) -> AsyncGenerator[Entry, None]:
    """Yield the events of an answer, in which each id is the next one."""
    if response.status_code == 503:
        raise Busy
    assert response.is_success, await response.aread()

    async def searched() -> AsyncGenerator[str, None]:
        async for line in response.aiter_lines():
            yield person.search(line)

    async with aclosing(searched()) as lines:
        coming = EventStream(response, lines)
        while (entry := await coming.read()) is not None:
            if entry.id is None:  # the server stops, and says so beside the log
                assert entry.event["code"] in {"going_away", BUSY}, entry
                raise Busy
            person.count("events checked")
            yield entry


def is_end(entry: Entry) -> bool:
    """Say whether an event is the end of a run."""
    return is_terminal({"chunk": entry.event})
