# gate: ensure
"""An engine whose parameter has another name: each call by keyword raises TypeError.

Type checkers let the names of positional parameters differ between a Protocol and who keeps it.
"""

from contextlib import AbstractAsyncContextManager, nullcontext

from isolane.contracts import Limits, ensure


class OtherLimits:
    def take(self, user_id: str, name: str) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def hit(self, user_id: str, name: str) -> None: ...

    def weigh(self, user_id: str, size: int) -> float:
        return 0.0


def enter() -> Limits:
    return ensure(OtherLimits(), Limits)  # here
