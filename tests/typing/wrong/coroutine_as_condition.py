# gate: mypy [truthy-bool]
"""A coroutine is always true: the branch is taken whatever the store would have said."""

from isolane.context import ThreadKey
from isolane.contracts import Store


async def is_known(store: Store, key: ThreadKey) -> str:
    if store.has_message(key, "m"):  # here
        return "yes"
    return "no"
