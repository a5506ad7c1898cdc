"""Runs as this process holds them: made for a new frame, or from a stored row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from isolane.clock import Clock
from isolane.context import UserExecutionContext
from isolane.contracts import Agent, RunDraft, StoredRun
from isolane.errors import UnknownAgent
from isolane.events.left_out import Kind, LeftOut
from isolane.runs.run import Run
from isolane.runs.stop import Stop
from isolane.subjects import Subject, Subjects


class RunMaker:
    """Makes runs, each with its agent, and counts together what they leave out."""

    def __init__(
        self, agents: Mapping[str, Agent], *, subjects: Subjects | None, clock: Clock
    ) -> None:
        """Serve `agents`, the first as the default. `subjects` know the names of users outside."""
        self.agents = agents
        self._subjects = subjects or Subjects()
        self._clock = clock
        self.left_out = Counter[Kind]()
        """Number of events, messages and parts that all runs have left out, by kind."""

    def check_agent(self, name: str | None) -> str:
        """Return the agent's name; the default's for None.

        Raises:
            UnknownAgent: No agent has this name.
        """
        found = next(iter(self.agents), None) if name is None else name
        if found not in self.agents or found is None:
            raise UnknownAgent(f"no agent is called {name}")
        return found

    def make(self, context: UserExecutionContext, draft: RunDraft) -> Run:
        """Return a new run of the draft's agent."""
        return self._make(context, draft, self.agents[draft.agent])

    def revive(self, stored: StoredRun) -> Run:
        """Return a stored run. The default agent takes it when its own agent is gone."""
        agent = self.agents.get(stored.draft.agent) or self.agents[self.check_agent(None)]
        context = _context_of(stored, self._subjects.find(stored.key.user_id))
        run = self._make(context, stored.draft, agent)
        run.taken_on_at = stored.created_at
        run.is_revived = True
        if stored.stop_at is not None:
            run.stop.set(asked_at=stored.stop_at)
        return run

    def _make(self, context: UserExecutionContext, draft: RunDraft, agent: Agent) -> Run:
        return Run(context, draft, agent, Stop(self._clock), left_out=LeftOut(self.left_out))


def _context_of(stored: StoredRun, named: Subject) -> UserExecutionContext:
    user = UserExecutionContext(user_id=stored.key.user_id, **named._asdict())
    return user.for_thread(stored.thread_id).for_run(stored.key.run_id)
