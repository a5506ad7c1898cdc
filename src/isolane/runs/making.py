"""Runs as this process holds them: made for a new frame, or from a stored row."""

from __future__ import annotations

from collections import Counter

from isolane.clock import Clock
from isolane.context import UserExecutionContext
from isolane.contracts import RunDraft, StoredRun
from isolane.events.left_out import Kind, LeftOut
from isolane.runs.roster import Roster
from isolane.runs.run import Run
from isolane.runs.stop import Stop
from isolane.subjects import Subject, Subjects


class RunMaker:
    """Makes runs, each with its agent, and counts together what they leave out."""

    def __init__(self, roster: Roster, *, subjects: Subjects | None, clock: Clock) -> None:
        """Take agents from `roster`. `subjects` know the names of users outside."""
        self._roster = roster
        self._subjects = subjects or Subjects()
        self._clock = clock
        self.left_out = Counter[Kind]()
        """Number of events, messages and parts that all runs have left out, by kind."""

    def make(self, context: UserExecutionContext, draft: RunDraft) -> Run:
        """Return a new run of the draft's agent."""
        agent = self._roster.get(draft.agent)
        return Run(context, draft, agent, Stop(self._clock), left_out=LeftOut(self.left_out))

    def revive(self, stored: StoredRun) -> Run:
        """Return a stored run."""
        context = _context_of(stored, self._subjects.find(stored.key.user_id))
        run = self.make(context, stored.draft)
        run.taken_on_at = stored.created_at
        run.is_revived = True
        if stored.stop_at is not None:
            run.stop.set(asked_at=stored.stop_at)
        return run


def _context_of(stored: StoredRun, named: Subject) -> UserExecutionContext:
    user = UserExecutionContext(user_id=stored.key.user_id, **named._asdict())
    return user.for_thread(stored.thread_id).for_run(stored.key.run_id)
