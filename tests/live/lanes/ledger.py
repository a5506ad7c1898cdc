"""What the gateway must make of one user's deeds, in dictionaries: no socket, no wait, no clock.

A deed is entered before it is done, and what it brings to each of the user's devices is due there
from then on. No ledger knows of another user. The agent is `protocol_agents:script`, whose answers
are known beforehand, and so whole logs are.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from tests.live.client import Frame
from tests.live.lanes.dues import AWAY, DONE, INVALID, OVER, UNKNOWN, Device, Entry, Kind, News
from tests.live.lanes.plot import RECALL, Plot
from tests.live.lanes.thread import Run, Thread

RUNS_MAX: Final = 4
"""Runs at once, those that wait included; the server is told so."""
DEVICES: Final = 3
TITLE_MAX: Final = 80
FROM_START: Final = "-1"
"""The offset at which a replay begins with the run."""


class Ledger:
    """All that one user has."""

    def __init__(self, name: str) -> None:
        """Begin with nothing, and all devices off."""
        self.threads: dict[str, Thread] = {}
        self.runs: dict[str, Run] = {}
        self.devices = [Device(f"device {number} of {name}") for number in range(DEVICES)]
        self.stopped_early: set[str] = set()
        """Runs that were stopped before they came, as far as the gateway still remembers."""
        self.unheard: Counter[News] = Counter()
        """News that nobody heard: whoever greets now may hear it still."""

    @property
    def held(self) -> list[Run]:
        """The runs under way: each waits at its gate."""
        return [run for run in self.runs.values() if run.state == "running"]

    # --- deeds ---------------------------------------------------------------------------------

    def greet(self, device: Device) -> None:
        """Say hello on a device, for the first time or once more."""
        if device.kind is Kind.PLAIN:
            device.rumours = Counter(self.unheard)
        device.kind = Kind.GREETED
        device.expect("welcome", activeRuns=[self._describe(run) for run in self.held])

    def _describe(self, run: Run) -> Frame:
        head = self.threads[run.thread_id].head
        return {"threadId": run.thread_id, "runId": run.run_id, "head": head}

    def ask(
        self, device: Device, thread_id: str, run_id: str, plot: Plot, policy: str
    ) -> str | None:
        """Ask for a run; return why it is refused, if it is."""
        refusal = self._check(thread_id, run_id, plot, policy)
        if refusal is not None:
            device.expect_error(refusal, threadId=thread_id, runId=run_id)
            return refusal
        stored = self.runs.get(run_id)
        if stored is not None:
            self._accept(device, stored, "attached")
            entries = self.threads[thread_id].entries
            device.follow_run(thread_id, run_id, [e for e in entries if e.run_id == run_id])
            return None
        run = self.runs[run_id] = Run(run_id, thread_id, plot)
        run.is_stopped = run_id in self.stopped_early
        self.stopped_early.discard(run_id)
        self._line_up(device, run, policy)
        return None

    def _check(self, thread_id: str, run_id: str, plot: Plot, policy: str) -> str | None:
        stored, thread = self.runs.get(run_id), self.threads.get(thread_id)
        if stored is not None:
            is_same = (stored.thread_id, stored.plot.question) == (thread_id, plot.question)
            return None if is_same else "run_conflict"
        if policy == "reject" and thread is not None and thread.line:
            return "run_conflict"
        held = sum(run.has_slot and run.state != "ended" for run in self.runs.values())
        return "limit_exceeded" if held >= RUNS_MAX else None

    def _line_up(self, device: Device, run: Run, policy: str) -> None:
        thread = self.threads.setdefault(run.thread_id, Thread())
        ahead = thread.active
        position = min(1, len(thread.line)) if policy == "interrupt" else len(thread.line)
        thread.line.insert(position, run)
        device.follow_run(run.thread_id, run.run_id, [])
        if ahead is None:
            self._accept(device, run, "started")
            self._begin(run)
            return
        self._accept(device, run, "queued", position=position)
        if policy == "interrupt":
            self._finish(ahead, "cancelled")

    def _accept(self, device: Device, run: Run, disposition: str, **fields: object) -> None:
        if device.kind is Kind.GREETED:
            names = {"threadId": run.thread_id, "runId": run.run_id}
            device.expect("accepted", **names, disposition=disposition, **fields)

    def let_go(self, run: Run) -> None:
        """Open the gate of a run under way."""
        self._say(run, run.plot.adds)
        self._finish(run, run.plot.outcome)

    def abort(self, run_id: str) -> bool:
        """Stop a run; say whether there is one of that id."""
        run = self.runs.get(run_id)
        if run is None:
            return False
        if run.state == "running":
            self._finish(run, "cancelled")
        elif run.state == "queued":
            run.is_stopped = True
        return True

    def subscribe(
        self, device: Device, thread_id: str, after: str | None, *, is_racing: bool
    ) -> None:
        """Follow a thread, in place of what is followed there; a race has its head anywhere."""
        thread = self.threads.get(thread_id, Thread())
        place = thread.find(after)
        if place == "invalid_cursor":
            device.expect_error(place, threadId=thread_id)
            return
        device.wants.pop(thread_id, None)
        is_recovered = isinstance(place, int)
        device.expect("subscribed", threadId=thread_id, recovered=is_recovered)
        device.answers[-1] |= {} if is_recovered else {"messages": []}
        device.answers[-1] |= {"head": thread.head} if thread.epoch and not is_racing else {}
        device.follow(thread_id, thread.entries[place if isinstance(place, int) else 0 :])

    def replay(self, device: Device, run_id: str, offset: str) -> None:
        """Open a device to replay a run by its address."""
        device.become(Kind.REPLAY)
        run = self.runs.get(run_id)
        if run is None:
            device.expect_end(UNKNOWN)
            return
        thread = self.threads[run.thread_id]
        place = thread.find(None if offset == FROM_START else offset)
        if isinstance(place, str):
            device.expect_error(place, runId=run_id)
            device.expect_end(DONE if place == "resume_expired" else INVALID)
            return
        rest = [entry for entry in thread.entries[place:] if entry.run_id == run_id]
        device.follow_run(run.thread_id, run_id, rest)
        if run.state == "ended":
            device.expect_end(DONE)

    def create(self, thread_id: str, title: str) -> None:
        """Make a thread, unless it is there."""
        self.threads.setdefault(thread_id, Thread(title))
        self._tell(thread_id)

    def rename(self, thread_id: str, title: str) -> None:
        """Give a thread another title."""
        self.threads[thread_id].title = title
        self._tell(thread_id)

    def delete(self, thread_id: str) -> None:
        """Remove a thread with all it has."""
        del self.threads[thread_id]
        self.runs = {r.run_id: r for r in self.runs.values() if r.thread_id != thread_id}
        for device in self.devices:
            device.lose(thread_id)
        self._spread((thread_id, "", True))

    def stop(self) -> None:
        """Let the gateway end in order: what is under way ends with it, and all who are there."""
        present = [device for device in self.devices if device.kind is not Kind.OFF]
        before = [(device, Counter(device.news)) for device in present]
        for run in self.held:
            self._finish(run, "going_away", goes_on=False)
        for device, news in before:
            device.rumours += device.news - news
            device.news = news
            device.may_miss = device.kind is Kind.STREAM
            if device.kind is Kind.GREETED:
                device.answers.appendleft({"type": "draining"})
            # A replay that is over by now may be closed for that, or with all others.
            device.expect_end(*device.ends, OVER if device.kind is Kind.STREAM else AWAY)

    def recover(self) -> None:
        """Begin another life of the gateway: nothing of the old one is under way.

        Aborts that came before their run are remembered over it.
        """
        for device in self.devices:
            device.become(Kind.OFF)
        for run in self.runs.values():
            run.has_slot = False
        for run in self.held:
            self._finish(run, "agent_lost", goes_on=False, is_news=False)
        for thread in self.threads.values():
            if thread.active is not None:
                self._begin(thread.active)

    # --- what comes of them --------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        thread, question = self.threads[run.thread_id], run.plot.question
        run.state = "running"
        run.first, run.standing = len(thread.entries) + 1, len(thread.messages)
        thread.title = thread.title or question[:TITLE_MAX]
        thread.messages.append(("user", question))
        self._tell(run.thread_id)
        self._log(run, "RUN_STARTED", question)
        if run.is_stopped:
            self._finish(run, "cancelled")
            return
        self._say(run, run.plot.says)
        if run.plot.gate is None:
            self._finish(run, run.plot.outcome)

    def _say(self, run: Run, words: tuple[str, ...]) -> None:
        for word in words:
            text = self.threads[run.thread_id].questions if word is RECALL else word
            if not run.said:
                self._log(run, "TEXT_MESSAGE_START")
            run.said += text
            self._log(run, "TEXT_MESSAGE_CONTENT", text)

    def _finish(
        self, run: Run, outcome: str, *, goes_on: bool = True, is_news: bool = True
    ) -> None:
        thread = self.threads[run.thread_id]
        if run.said:
            self._log(run, "TEXT_MESSAGE_END")
            thread.messages.append(("assistant", run.said))
        is_error = outcome not in {"success", "cancelled"}
        self._log(run, "RUN_ERROR" if is_error else "RUN_FINISHED", outcome)
        run.state, run.outcome = "ended", outcome
        thread.line.remove(run)
        if is_news:
            self._tell(run.thread_id)
        if goes_on and thread.active is not None:
            self._begin(thread.active)

    def _log(self, run: Run, kind: str, detail: str = "") -> None:
        thread = self.threads[run.thread_id]
        entry = Entry(len(thread.entries) + 1, run.run_id, kind, detail)
        thread.entries.append(entry)
        heard = [device.offer(run.thread_id, entry) for device in self.devices]
        thread.is_unheard |= not any(heard)

    def _tell(self, thread_id: str) -> None:
        self._spread((thread_id, self.threads[thread_id].title, False))

    def _spread(self, news: News) -> None:
        listeners = [device for device in self.devices if device.kind is Kind.GREETED]
        for device in listeners:
            device.news[news] += 1
        if not listeners:
            self.unheard[news] += 1

    # --- what can be read ----------------------------------------------------------------------

    def summary(self, thread_id: str) -> Frame:
        """Return a thread as a list shows it."""
        thread = self.threads[thread_id]
        active = None if thread.active is None else thread.active.run_id
        return {"threadId": thread_id, "title": thread.title, "activeRunId": active}
