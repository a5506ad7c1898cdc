"""One user of a long test, and what they do on their devices."""

from __future__ import annotations

from collections.abc import Coroutine
from itertools import count
from typing import TypeAlias
from urllib.parse import quote, urlencode

from tests.live.client import Frame, open_socket, run_frame
from tests.live.lanes.desk import STATUS, Desk
from tests.live.lanes.dues import Device, Kind
from tests.live.lanes.ledger import DEVICES
from tests.live.lanes.lines import Line, SocketLine, StreamLine
from tests.live.lanes.plot import Plot, make_plot
from tests.live.lanes.thread import Run
from tests.live.lanes.venue import Venue
from tests.live.lanes.watch import Watch
from tests.live.stage import mint

Deed: TypeAlias = Coroutine[object, object, None]


class Guest:
    """A user with a marker of their own, who does things and knows what must come of them."""

    def __init__(self, venue: Venue, name: str) -> None:
        self.name = name
        self.watch = Watch(venue, name)
        self.marker = self.watch.marker
        self.ledger = self.watch.ledger
        self.desk = Desk(venue, self.watch)
        self._venue = venue
        self._lines = self.watch.lines
        self._counter = count(1)

    # --- connections ---------------------------------------------------------------------------

    async def connect(self, on: int, *, is_plain: bool, key: str) -> None:
        """Open a socket on a device, which hangs up what it had; a plain one says no hello."""
        await self.drop(on, is_reset=False)
        self.ledger.devices[on].become(Kind.PLAIN)
        self._lines[on] = await self._open_socket(key)
        if not is_plain:
            await self.greet(on)

    async def _open_socket(self, key: str, **query: str) -> Line:
        token, offered, headers = mint(self.name), [], {}
        if key == "header":
            headers["Authorization"] = f"Bearer {token}"
        elif key == "subprotocol":
            offered.append(f"bearer.{token}")
        else:
            query["ticket"] = (await self.desk.request("POST", "/api/tickets")).json()["ticket"]
        url = f"{self._venue.server.websocket_url()}?{urlencode(query)}"
        socket = await open_socket(url, *offered, **headers)
        assert socket.response is not None
        self.watch.check_own(str(socket.response.headers))
        return SocketLine(socket, self._venue.moved)

    async def drop(self, on: int, *, is_reset: bool) -> None:
        """Leave, with a goodbye or without, whatever the device was."""
        line = self._lines.pop(on, None)
        if line is not None:
            await line.close(is_reset=is_reset)
            self.watch.judge_frames(line, self.ledger.devices[on])
        self.ledger.devices[on].become(Kind.OFF)

    async def greet(self, on: int) -> None:
        """Say hello, be it the first time or not."""
        line = await self._talk(on, is_plain=True)
        self.ledger.greet(self.ledger.devices[on])
        await line.send({"type": "hello", "v": 1})

    async def _talk(self, on: int, *, is_plain: bool = False) -> Line:
        """Return a device's socket; one that is off, or only listens, is connected."""
        device = self.ledger.devices[on]
        if device.kind not in {Kind.PLAIN, Kind.GREETED}:
            await self.connect(on, is_plain=is_plain, key="header")
        elif device.kind is Kind.PLAIN and not is_plain:
            await self.greet(on)
        return self._lines[on]

    # --- deeds on a socket ---------------------------------------------------------------------

    async def ask(self, on: int, thread_id: str, run_id: str, plot: str, policy: str) -> None:
        """Send a run frame; one whose id was used already is another run's."""
        await self._ask(on, thread_id, run_id, self._make_plot(plot), policy)

    async def ask_again(self, on: int, run: Run) -> None:
        """Send the run frame once more that a run came from."""
        await self._ask(on, run.thread_id, run.run_id, run.plot, "queue")

    async def _ask(self, on: int, thread_id: str, run_id: str, plot: Plot, policy: str) -> None:
        line, device = await self._talk(on, is_plain=True), self.ledger.devices[on]
        if run_id in self.ledger.stopped_early:  # said once more, for it is forgotten in a while
            await self._stop_early(line, device, run_id)
        self.ledger.ask(device, thread_id, run_id, plot, policy)
        await line.send(self._frame(thread_id, run_id, plot, policy))

    def _make_plot(self, name: str) -> Plot:
        return make_plot(name, self.marker, f"{self.name} {next(self._counter)}")

    def _frame(self, thread_id: str, run_id: str, plot: Plot, policy: str) -> Frame:
        props = {"policy": policy, "note": self.marker}
        state = {"of": self.marker}
        return run_frame(thread_id, run_id, plot.question, forwardedProps=props, state=state)

    async def abort(self, on: int, run_id: str) -> None:
        """Send an abort; what is unknown here may well be another user's."""
        run = self.ledger.runs.get(run_id)
        # Of what only a later run would show, a plain socket isn't told; so this one is greeted.
        is_seen = run is not None and run.state == "running"
        line, device = await self._talk(on, is_plain=is_seen), self.ledger.devices[on]
        if not self.ledger.abort(run_id):
            await self._stop_early(line, device, run_id)
            return
        if device.kind is Kind.GREETED:
            device.expect("stopping", runId=run_id)
        await line.send({"type": "abort", "runId": run_id})

    async def _stop_early(self, line: Line, device: Device, run_id: str) -> None:
        """Stop a run that hasn't come yet."""
        self.ledger.stopped_early.add(run_id)
        if device.kind is Kind.GREETED:
            device.expect_error("not_found", runId=run_id)
        await line.send({"type": "abort", "runId": run_id})

    async def overtake(self, on: int, thread_id: str, run_id: str, plot: str) -> None:
        """Send an abort, and behind it the run that it is for."""
        if run_id not in self.ledger.runs:
            self.ledger.stopped_early.add(run_id)
        await self.ask(on, thread_id, run_id, plot, "queue")

    async def subscribe(
        self, on: int, thread_id: str, after: str | None, *, is_racing: bool = False
    ) -> None:
        """Follow a thread; while it moves, nobody knows the head that the answer will name."""
        line, device = await self._talk(on), self.ledger.devices[on]
        self.ledger.subscribe(device, thread_id, after, is_racing=is_racing)
        given = {} if after is None else {"after": after}
        await line.send({"type": "subscribe", "threadId": thread_id, **given})

    async def unsubscribe(self, on: int, thread_id: str) -> None:
        """Follow a thread no longer."""
        line, device = await self._talk(on), self.ledger.devices[on]
        device.lose(thread_id)
        device.expect("unsubscribed", threadId=thread_id)
        await line.send({"type": "unsubscribe", "threadId": thread_id})

    async def renew(self, on: int, user: str) -> None:
        """Go on with a newer token, or try to with somebody else's."""
        line, device = await self._talk(on), self.ledger.devices[on]
        if user == self.name:
            device.expect("auth_ok")
        else:
            device.expect("error", code="identity_mismatch")
        await line.send({"type": "auth", "token": mint(user)})

    async def replay(self, on: int, run_id: str, offset: str) -> None:
        """Open a socket that replays a run by its address."""
        await self.drop(on, is_reset=False)
        self.ledger.replay(self.ledger.devices[on], run_id, offset)
        self._lines[on] = await self._open_socket("header", runId=run_id, offset=offset)

    # --- deeds over HTTP -----------------------------------------------------------------------

    async def follow_by_http(self, on: int, thread_id: str, after: str | None) -> None:
        """Follow a thread by an event stream."""
        await self.drop(on, is_reset=False)
        thread, device = self.ledger.threads.get(thread_id), self.ledger.devices[on]
        place = "not_found" if thread is None else thread.find(after)
        path = f"/api/threads/{thread_id}/events"
        query = "" if after is None else f"?after={quote(after)}"
        if thread is None or isinstance(place, str):
            await self.desk.request("GET", path + query, status=STATUS[str(place)])
            return
        device.become(Kind.STREAM)
        device.follow(thread_id, thread.entries[place:])
        self._lines[on] = await self._open_stream("GET", path + query, thread_id)

    async def ask_by_http(
        self, on: int, thread_id: str, run_id: str, plot: str, policy: str
    ) -> None:
        """Ask for a run, which an event stream then follows."""
        if run_id in self.ledger.stopped_early:  # which is only sure on a socket; see `ask`
            await self.ask(on, thread_id, run_id, plot, policy)
            return
        await self.drop(on, is_reset=False)
        device, chosen = self.ledger.devices[on], self._make_plot(plot)
        device.become(Kind.STREAM)
        refusal = self.ledger.ask(device, thread_id, run_id, chosen, policy)
        frame = self._frame(thread_id, run_id, chosen, policy)
        if refusal is None:
            self._lines[on] = await self._open_stream("POST", "/agui", thread_id, frame)
            return
        device.become(Kind.OFF)
        await self.desk.request("POST", "/agui", frame, status=STATUS[refusal])

    async def _open_stream(
        self, method: str, path: str, thread_id: str, body: object = None
    ) -> Line:
        answer = await self._venue.request(self.name, method, path, body, is_stream=True)
        self.watch.check_own(str(answer.headers))
        assert answer.status_code == STATUS[None], (await answer.aread()).decode()
        return StreamLine(answer, thread_id, self._venue.moved)

    async def let_go(self, run: Run) -> None:
        """Open the gate at which a run waits."""
        gate = run.plot.gate
        assert gate is not None
        self.ledger.let_go(run)
        await self._venue.open_gate(gate)

    async def hear_out(self) -> None:
        """Read what was logged and no device followed."""
        for thread_id, thread in self.ledger.threads.items():
            if thread.is_unheard:
                device = Device(f"{self.name}, reading {thread_id},", Kind.STREAM)
                device.follow(thread_id, thread.entries)
                path = f"/api/threads/{thread_id}/events"
                await self.watch.read_out(await self._open_stream("GET", path, thread_id), device)
                thread.is_unheard = False

    async def leave(self) -> None:
        """Hang up everywhere."""
        for on in range(DEVICES):
            await self.drop(on, is_reset=False)

    def vanish(self) -> None:
        """Be gone from everywhere, whatever was due."""
        for line in self._lines.values():
            line.reset()
        self._lines.clear()
