"""A tab of the churn: it follows a thread on a socket, and asks and stops there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal

from tests.live.churn.rounds import Round
from tests.live.churn.world import BUSY, LOST, Busy, Ear, Person
from tests.live.client import Follower, Frame, is_terminal
from tests.live.tcp import drop
from websockets.exceptions import ConnectionClosed

LOOK_S: Final = 0.5
"""After which who hears nothing looks whether all has been heard."""
Leaving = Literal["goodbye", "reset", "bare end"]
Stopping = Literal["abort", "post"]


@dataclass(eq=False)
class Tab:
    """A socket that follows a thread; when it is lost another one goes on where it ended."""

    person: Person
    thread_id: str
    follower: Follower | None = None
    ended: set[str] = field(default_factory=set)
    heard: Counter[str] = field(default_factory=Counter)
    """How many events of each run have come."""
    _client: Ear | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _said: set[str] = field(default_factory=set)
    """The runs that were asked for, or stopped, on this very socket."""

    @property
    def log(self) -> Follower:
        """What was applied, once the thread is followed."""
        assert self.follower is not None
        return self.follower

    async def open(self) -> None:
        """Follow the thread from the end of its log."""
        answer = await self.person.ask_http("GET", f"/api/threads/{self.thread_id}", 404)
        if answer.is_success:
            self.follower = Follower(self.thread_id, answer.json()["head"])

        async def attempt() -> bool:
            await self._online()
            return True

        await self._persist(attempt)

    async def follow(
        self, made: Round, *, asks: bool = False, stops: Stopping | None = None
    ) -> None:
        """Hear the round to its end; ask for its runs, or stop those that are to be stopped."""

        async def attempt() -> bool:
            client = await self._online()
            if asks:
                await self._ask(client, made)
            while not made.wanted <= self.ended:
                if stops is not None:
                    await self._stop(client, made, stops)
                await self._hear(client, made)
            return True

        await self._persist(attempt)

    async def catch_up(self, seen: Follower) -> None:
        """Hear on a socket of one's own what another has seen; nothing of it goes on."""

        async def attempt() -> bool:
            client = await self._online()
            assert client.welcome is not None
            active = [run["threadId"] for run in client.welcome["activeRuns"]]
            assert self.thread_id not in active, client.welcome
            await client.until_true(lambda: len(self.log.envelopes) >= len(seen.envelopes))
            return True

        await self._persist(attempt)

    async def until_deleted(self) -> bool:
        """Hear what comes until the thread is gone; False when the line was lost before."""
        if self._client is None:
            return False
        try:
            await self._client.until(lambda f: f.get("type") == "thread" and f["deleted"])
        except ConnectionClosed:
            return False
        return True

    async def leave(self, how: Leaving) -> None:
        """Let go: with a goodbye, by a bare end of the stream, or by a reset."""
        if self._client is not None and how != "goodbye":
            with suppress(OSError):  # the line was cut since
                drop(self._client.socket.transport, is_reset=how == "reset")
        await self._offline()

    async def _persist(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        async def one() -> bool:
            try:
                return await attempt()
            except LOST:
                await self._offline()
                raise

        await self.person.persist(one)

    async def _online(self) -> Ear:
        if self._client is not None:
            return self._client
        client = await self._stack.enter_async_context(self.person.connect())
        if self.follower is None:
            self.follower = await client.subscribe(self.thread_id)
        else:
            await client.follow(self.follower)
            self.person.count("resumes by subscribe")
        self._client = client
        return client

    async def _offline(self) -> None:
        self._client = None
        self._said.clear()
        stack, self._stack = self._stack, AsyncExitStack()
        with suppress(*LOST):
            await stack.aclose()

    async def _ask(self, client: Ear, made: Round) -> None:
        for ask in made.unanswered:
            if ask.run_id not in self._said:
                self._said.add(ask.run_id)
                await client.send(ask.frame(made.thread_id))

    async def _stop(self, client: Ear, made: Round, how: Stopping) -> None:
        """Stop, once a socket, each run that has come as far as it is to come."""
        for ask in made.asks:
            is_due = ask.stop_after is not None and self.heard[ask.run_id] >= ask.stop_after
            if is_due and ask.run_id not in self._said | self.ended:
                self._said.add(ask.run_id)
                made.stopped_at.setdefault(ask.run_id, monotonic())
                self.person.count(f"stops by {how}")
                if how == "post":
                    await self.person.ask_http("POST", f"/api/runs/{ask.run_id}/abort")
                else:
                    await client.abort(ask.run_id)

    async def _hear(self, client: Ear, made: Round) -> None:
        with suppress(TimeoutError):
            frame = await client.recv(timeout_s=LOOK_S)
            if "id" in frame:
                self._take(frame, made)
            elif frame["type"] == "accepted":
                made.accept(frame["runId"])
            elif frame["type"] == "error":
                if frame["code"] == BUSY:
                    raise Busy
                made.refuse(frame["runId"], frame["code"])
            else:
                assert frame["type"] in {"thread", "stopping", "draining"}, frame

    def _take(self, frame: Frame, made: Round) -> None:
        run_id = frame["runId"]
        self.heard[run_id] += 1
        made.accept(run_id)  # the answer itself may be lost with a line
        if is_terminal(frame):
            self.ended.add(run_id)
            if run_id in made.stopped_at:
                self.person.world.stop_s.append(monotonic() - made.stopped_at.pop(run_id))
