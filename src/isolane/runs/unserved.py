"""Runs whose agent no node serves: after a while they end, for nobody should wait for ever."""

from __future__ import annotations

from typing import Final

import structlog

from isolane.contracts import Signs
from isolane.runs.dispatch import CLAIMED_AT_ONCE, Dispatcher
from isolane.runs.ground import Ground

UNSERVED_MS: Final = 60_000
"""Milliseconds for which an agent may be served by no node before its runs end. Deploying agents
anew takes less."""

_log = structlog.get_logger(__name__)


class UnservedRuns:
    """Claims runs of agents that have been away for too long, so that they end as unavailable."""

    def __init__(self, ground: Ground, *, dispatcher: Dispatcher) -> None:
        """Let `dispatcher` begin what is claimed; the agent of `ground`'s roster ends it."""
        self._book = ground.book
        self._members = ground.members
        self._node = ground.node
        self._roster = ground.roster
        self._timer = ground.timer
        self._dispatcher = dispatcher
        self._since: dict[str, int] = {}
        """Agents that no node serves, and since when this one has seen that, by the timer."""

    async def look(self, signs: Signs) -> None:
        """End the runs of agents that no node has served for too long. Safe to cancel.

        Raises:
            Unavailable: The database can't be reached.
        """
        if self._members.is_alone or not (signs.unclaimed or self._since):
            return
        now, wanted = self._timer(), await self._book.find_wanted()
        gone = {name for name in {*self._since, *wanted} if not self._roster.is_served(name)}
        self._since = {name: self._since.get(name, now) for name in gone}
        due = [name for name in wanted & gone if now - self._since[name] >= UNSERVED_MS]
        if not due:
            return
        _log.warning("agents_unserved", agents=sorted(due))
        claimed = await self._book.claim(self._node.id, room=CLAIMED_AT_ONCE, agents=due)
        for each in claimed:
            self._dispatcher.take(each)
