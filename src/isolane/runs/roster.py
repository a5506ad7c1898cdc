"""Which agents there are: those of this process, and those of other nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from ag_ui.core import RunAgentInput

from isolane.context import UserExecutionContext
from isolane.contracts import Agent, Members, StopSignal
from isolane.errors import Unavailable, UnknownAgent


class Roster:
    """Knows every agent by its name. A name that was seen once stays known."""

    def __init__(self, agents: Mapping[str, Agent], members: Members) -> None:
        """Serve `agents` here, the first as the default; `members` tell of other nodes."""
        self._own = agents
        self._members = members
        self._known: dict[str, None] = dict.fromkeys(agents)  # in order, without doubles

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all known agents, those of this process first."""
        self._known.update(dict.fromkeys(self._load_served()))
        return tuple(self._known)

    @property
    def node_count(self) -> int:
        """How many processes serve the database, this one included."""
        return len(self._members.get_others()) + 1

    def check(self, name: str | None) -> str:
        """Return the agent's name; the default's for None.

        Raises:
            UnknownAgent: No agent has this name.
            Unavailable: No agent is known yet, because no node that serves one was seen.
        """
        names = self.names
        if not names and not self._members.is_alone:
            raise Unavailable("no node serves an agent now")
        if name is None and names:
            return names[0]
        if name is None or name not in self._known:
            raise UnknownAgent(f"no agent is called {name}")
        return name

    def get(self, name: str) -> Agent:
        """Return the agent of that name, or one that ends its run because nobody serves it.

        Where there can't be another node, the default agent takes the runs of one that is gone.
        """
        found = self._own.get(name)
        if found is None and self._members.is_alone and self._own:
            found = next(iter(self._own.values()))
        return found or _Unserved(name)

    def is_own(self, name: str) -> bool:
        """Say whether this process serves the agent."""
        return name in self._own or self._members.is_alone

    def is_served(self, name: str) -> bool:
        """Say whether a node that lives serves the agent."""
        return self.is_own(name) or self.is_served_elsewhere(name)

    def is_served_elsewhere(self, name: str) -> bool:
        """Say whether another node that lives serves the agent."""
        return name in self._load_served()

    @property
    def claimed(self) -> Sequence[str] | None:
        """The agents whose runs this process claims; None for those of all."""
        return None if self._members.is_alone else tuple(self._own)

    def _load_served(self) -> Sequence[str]:
        """Return the agents of the other nodes that live."""
        return [name for agents in self._members.get_others().values() for name in agents]


class _Unserved:
    """Stands for an agent that no node serves."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002, ARG002 - as `Agent` has it
        context: UserExecutionContext,  # noqa: ARG002
        stop: StopSignal,  # noqa: ARG002
    ) -> AsyncGenerator[object, None]:
        for error in (Unavailable(f"no node serves the agent {self._name}"),):
            raise error
        yield ""  # makes it a generator, as agents are
