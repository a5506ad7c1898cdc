"""A reader of server-sent events that checks each id as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
from tests.live.client import RECV_TIMEOUT_S, TERMINAL, Frame, parse_id


class Entry(NamedTuple):
    """One event of a stream; an error that belongs to no log has no id."""

    id: str | None
    event: Frame


@dataclass
class EventStream:
    """What one request for events was answered, as far as it was read."""

    response: httpx.Response
    lines: AsyncIterator[str]
    entries: list[Entry] = field(default_factory=list)
    pings: int = 0

    @property
    def events(self) -> list[Frame]:
        """The events that were read."""
        return [entry.event for entry in self.entries]

    @property
    def ids(self) -> list[str]:
        """The ids that were read."""
        return [entry.id for entry in self.entries if entry.id is not None]

    async def read(self) -> Entry | None:
        """Return the next event, None at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(RECV_TIMEOUT_S):
            async for line in self.lines:
                if not line and "data" in fields:
                    return self._note(Entry(fields.get("id"), json.loads(fields["data"])))
                if line.startswith(":"):
                    self.pings += 1
                elif line:
                    name, separator, value = line.partition(": ")
                    assert separator, line
                    assert name in {"id", "data"} - fields.keys(), line
                    fields[name] = value
        assert not fields, f"the stream ended within an event: {fields}"
        return None

    async def until(self, wanted: Callable[[Entry], bool]) -> Entry:
        """Return the next event that is wanted; fails when the stream ends before."""
        while (entry := await self.read()) is not None:
            if wanted(entry):
                return entry
        raise AssertionError(f"the stream ended after {self.entries[-3:]}")

    async def until_type(self, kind: str) -> Entry:
        """Return the next event of a type."""
        return await self.until(lambda entry: entry.event["type"] == kind)

    async def until_end(self, run_id: str) -> Entry:
        """Return the run's terminal event."""
        return await self.until(
            lambda e: e.event["type"] in TERMINAL and e.event.get("runId", run_id) == run_id
        )

    async def rest(self) -> list[Entry]:
        """Return what still comes until the stream ends."""
        before = len(self.entries)
        while await self.read() is not None:
            pass
        return self.entries[before:]

    def _note(self, entry: Entry) -> Entry:
        if entry.id is not None and self.ids:
            epoch, seq = parse_id(self.ids[-1])
            assert parse_id(entry.id) == (epoch, seq + 1), f"{entry.id} came after {self.ids[-1]}"
        self.entries.append(entry)
        return entry


@asynccontextmanager
async def open_stream(
    http: httpx.AsyncClient,
    path: str,
    body: Any = None,  # noqa: ANN401 - any JSON
    *,
    status: int = 200,
    **headers: str,
) -> AsyncIterator[EventStream]:
    """Ask for events, by POST when there is a body; header names are written with `_`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = http.stream(
        "GET" if body is None else "POST", path, json=body, headers=sent, timeout=RECV_TIMEOUT_S
    )
    async with request as response:
        assert response.status_code == status, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        async with aclosing(response.aiter_lines()) as lines:  # type: ignore[type-var]
            yield EventStream(response, lines)
