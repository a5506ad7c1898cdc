"""The routes that one user asks, and that each answer is what it must be."""

from __future__ import annotations

import re
from itertools import count
from typing import Final

import httpx
from tests.live.client import Frame, parse_id
from tests.live.lanes.venue import Venue
from tests.live.lanes.watch import Watch

STATUS: Final = {
    None: 200,
    "not_found": 404,
    "run_conflict": 409,
    "resume_expired": 410,
    "invalid_cursor": 422,
    "limit_exceeded": 429,
}
"""How each refusal is answered, and what is none."""
_NAMED: Final = re.compile(r"^(/api/\w+/)[^/]+")


class Desk:
    """Asks for what can be had without a line."""

    def __init__(self, venue: Venue, watch: Watch) -> None:
        self.ledger = watch.ledger
        self.stale: dict[str, str] = {}
        """The newest id that each thread had before it was deleted."""
        self._venue = venue
        self._watch = watch
        self._titles = count(1)

    async def request(
        self, method: str, path: str, body: object = None, *, status: int = 200
    ) -> httpx.Response:
        """Ask for something; what isn't there is answered as it is to everybody."""
        answer = await self._venue.request(self._watch.name, method, path, body)
        self._watch.check_own(f"{answer.headers} {answer.text}")
        assert answer.status_code == status, f"{self._watch.name}: {method} {path}: {answer.text}"
        if status == STATUS["not_found"]:
            route = _NAMED.sub(r"\1…", path.partition("?")[0])
            self._venue.check_unknown(f"{method} {route}", answer.text)
        return answer

    async def abort(self, run_id: str) -> None:
        """Stop a run, also one that hasn't come yet."""
        is_known = self.ledger.abort(run_id)
        if not is_known:
            self.ledger.stopped_early.add(run_id)
        status = 202 if is_known else STATUS["not_found"]
        await self.request("POST", f"/api/runs/{run_id}/abort", status=status)

    async def create(self, thread_id: str) -> None:
        """Make a thread, if it isn't there."""
        title = f"{thread_id} of {self._watch.marker}"
        self.ledger.create(thread_id, title)
        body = {"threadId": thread_id, "title": title}
        answer = await self.request("POST", "/api/threads", body, status=201)
        self._compare(answer.json(), self.ledger.summary(thread_id))

    async def rename(self, thread_id: str) -> None:
        """Give a thread another title."""
        title, status = f"{next(self._titles)} of {self._watch.marker}", STATUS["not_found"]
        if thread_id in self.ledger.threads:
            self.ledger.rename(thread_id, title)
            status = STATUS[None]
        await self.request("PATCH", f"/api/threads/{thread_id}", {"title": title}, status=status)

    async def delete(self, thread_id: str) -> None:
        """Remove a thread."""
        thread, status = self.ledger.threads.get(thread_id), STATUS["not_found"]
        if thread is not None:
            if thread.entries:
                self.stale[thread_id] = thread.head
            self.ledger.delete(thread_id)
            status = 204
        await self.request("DELETE", f"/api/threads/{thread_id}", status=status)

    async def read(self, thread_id: str, run_id: str) -> None:
        """Look at all that can be looked at: it is as it should be, or it isn't there."""
        await self._read_list()
        await self._read_thread(thread_id)
        await self._read_run(run_id)

    async def _read_list(self) -> None:
        listed = (await self.request("GET", "/api/threads")).json()["threads"]
        assert {thread["threadId"] for thread in listed} == self.ledger.threads.keys()
        for thread in listed:
            self._compare(thread, self.ledger.summary(thread["threadId"]))

    async def _read_thread(self, thread_id: str) -> None:
        thread, path = self.ledger.threads.get(thread_id), f"/api/threads/{thread_id}"
        if thread is None:
            await self.request("GET", path, status=STATUS["not_found"])
            return
        shown = (await self.request("GET", path)).json()
        self._compare(shown, self.ledger.summary(thread_id))
        messages = [(message["role"], message["content"]) for message in shown["messages"]]
        assert messages == thread.shown_messages
        assert parse_id(shown["head"])[1] == thread.shown_head
        self._watch.check_epoch(shown["head"], thread_id)

    async def _read_run(self, run_id: str) -> None:
        run, path = self.ledger.runs.get(run_id), f"/api/runs/{run_id}"
        if run is None:
            await self.request("GET", path, status=STATUS["not_found"])
            return
        shown = (await self.request("GET", path)).json()
        names = {"runId": run_id, "threadId": run.thread_id}
        self._compare(shown, {**names, "state": run.state, "outcome": run.outcome})

    def _compare(self, shown: Frame, wanted: Frame) -> None:
        given = {name: shown.get(name) for name in wanted}
        assert given == wanted, f"{self._watch.name} was shown {shown}, not {wanted}"
