"""Holds everything that one user gets against what is due to them."""

from __future__ import annotations

import json

from tests.live.client import Frame, parse_id
from tests.live.lanes.dues import Device, Kind
from tests.live.lanes.ledger import Ledger
from tests.live.lanes.lines import Line
from tests.live.lanes.venue import Venue
from tests.live.markers import find_markers, new_marker


class Watch:
    """The lines of a user's devices, and the judgement of what comes on them."""

    def __init__(self, venue: Venue, name: str) -> None:
        self.marker = new_marker()
        self.ledger = Ledger(name)
        self.lines: dict[int, Line] = {}
        self._venue = venue
        self.name = name
        self._events: dict[str, Frame] = {}
        """Each event by its id, as it was when it came first."""

    @property
    def missing(self) -> list[str]:
        """What was due to any device and has not come."""
        devices = [device for device in self.ledger.devices if device.missing or device.ends]
        return [f"{d.name} lacks {d.missing or 'its end'}" for d in devices]

    def judge(self) -> bool:
        """Judge all that has come; say whether all is there that was due."""
        for on, line in list(self.lines.items()):
            device = self.ledger.devices[on]
            self.judge_frames(line, device)
            if line.ended is not None:
                self._judge_end(line, device)
                del self.lines[on]
        return not self.missing

    def judge_frames(self, line: Line, device: Device) -> None:
        """Judge what a line has brought to a device."""
        while line.received:
            text = line.received.popleft()
            self.check_own(text)
            frame = json.loads(text)
            if frame.get("code") == "not_found":
                named = f'"runId":"{frame["runId"]}"'
                self._venue.check_unknown("abort", text.replace(named, '"runId":"…"'))
            self._check_place(frame)
            device.take(frame)

    def _judge_end(self, line: Line, device: Device) -> None:
        assert line.ended is not None
        self.check_own(line.ended[1])
        assert line.ended in device.ends, f"{device.name} ended with {line.ended}"
        assert device.may_miss or not device.missing, f"{device.name} lacked {device.missing}"
        device.become(Kind.OFF)

    def check_own(self, text: str) -> None:
        """Fail when something that the user got holds another's marker."""
        assert set(find_markers(text)) <= {self.marker}, f"{self.name} got {text}"

    def _check_place(self, frame: Frame) -> None:
        """Fail when an id is of another's numbering, or names another event than it did before."""
        if frame.get("type") == "subscribed":
            self.check_epoch(frame["head"], frame["threadId"])
        if frame.get("type") == "thread":
            assert frame["activeRunId"] in {None, *self.ledger.runs}, f"{self.name} got {frame}"
        if "chunk" in frame:
            self.check_epoch(frame["id"], frame["threadId"])
            first = self._events.setdefault(frame["id"], frame["chunk"])
            assert frame["chunk"] == first, f"{self.name} got {frame}, and before {first}"

    def check_epoch(self, event_id: str, thread_id: str) -> None:
        """Fail when an id is of another numbering than that of the thread.

        Number 0 goes with any: an unused thread has no numbering yet.
        """
        epoch, seq = parse_id(event_id)
        if not seq:
            return
        self._venue.check_address(epoch, self.name, thread_id)
        thread = self.ledger.threads.get(thread_id)
        if thread is not None:
            thread.epoch = thread.epoch or epoch
            assert epoch == thread.epoch, f"{thread_id} of {self.name} was {thread.epoch}: {epoch}"

    async def send_fences(self, number: int) -> None:
        """Ask each socket for what comes behind all that was put in line before."""
        for on, line in self.lines.items():
            device = self.ledger.devices[on]
            if device.kind is Kind.GREETED and not device.ends:
                fence = f"fence-{number}"
                device.expect("unsubscribed", threadId=fence)
                await line.send({"type": "unsubscribe", "threadId": fence})

    async def pass_fences(self) -> None:
        """Do the same where no frame would be answered, and judge what came before."""
        for on, line in list(self.lines.items()):
            if self.ledger.devices[on].kind is not Kind.GREETED:
                await line.pass_fence()
        self.judge()

    async def read_out(self, line: Line, device: Device) -> None:
        """Read on a line until the device has what is due, and leave."""

        def is_through() -> bool:
            self.judge_frames(line, device)
            return not device.missing

        await self._venue.wait(is_through, lambda: f"{device.name} lacks {device.missing}")
        await line.close()
