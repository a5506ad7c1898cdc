# gate: mypy [arg-type]
"""An async function where a plain callback is called: each ring makes a coroutine, none runs."""

from collections.abc import Sequence

from isolane.context import ThreadKey
from isolane.contracts import Bell
from isolane.events.event import Record


async def _heard(records: Sequence[Record]) -> None:
    del records


async def listen(bell: Bell, key: ThreadKey) -> None:
    hang_up = await bell.listen(key, _heard)  # here
    hang_up()
