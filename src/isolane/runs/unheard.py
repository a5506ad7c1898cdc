"""Stops that a run's own node doesn't hear: it is frozen, or cut off. Another one ends the run."""

from __future__ import annotations

from typing import Final

import structlog

from isolane.context import RunKey
from isolane.contracts import Signs
from isolane.runs.ground import Ground
from isolane.runs.restart import Restart

UNHEARD_MS: Final = 1_000
"""Milliseconds for which a node sees a stop that isn't obeyed, before it ends the run itself. The
run's own node looks twice a second."""

_log = structlog.get_logger(__name__)


class UnheardStops:
    """Ends stopped runs of other nodes. Their lease ends first: nothing more is written by it."""

    def __init__(self, ground: Ground, *, restart: Restart) -> None:
        """Let `restart` take runs over and end them."""
        self._live = ground.live
        self._book = ground.book
        self._node = ground.node
        self._timer = ground.timer
        self._restart = restart
        self._since: dict[RunKey, int] = {}
        """Unheard stops, and since when this node has seen them, by the timer."""

    async def look(self, signs: Signs) -> None:
        """End the runs whose stop has been unheard for too long. Safe to cancel.

        Raises:
            Unavailable: The database can't be reached.
        """
        found = await self._book.find_unheard(self._node.id) if signs.unheard else []
        now = self._timer()
        self._since = {each.key: self._since.get(each.key, now) for each in found}
        for each in found:
            if now - self._since[each.key] >= UNHEARD_MS and each.key not in self._live:
                _log.warning("stop_unheard", run_id=each.run_id)
                _ = self._restart.start_end(each, is_unheard=True)
