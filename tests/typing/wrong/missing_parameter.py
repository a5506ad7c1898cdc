# gate: mypy [assignment]
"""An engine without a parameter that the contract has: each call of it raises TypeError."""

from collections.abc import Sequence

from isolane.contracts import Bell
from isolane.events.event import Record


class DeafBell:
    def ring(self, records: Sequence[Record]) -> None: ...

    async def listen(self, listener: object) -> object:
        return listener


bell: Bell = DeafBell()  # here
