"""Whether the gateway takes nothing new, because it ends."""

from __future__ import annotations

from isolane.errors import IsolaneError, Unavailable
from isolane.flag import Flag


class Draining:
    """The one word on whether the gateway drains. Sockets and runs ask the same one."""

    def __init__(self) -> None:
        """Begin with a gateway that takes new work."""
        self._flag = Flag()
        self.cause: IsolaneError | None = None
        """Why the gateway ends that nobody has asked to end."""

    @property
    def has_begun(self) -> bool:
        """Say whether nothing new is taken."""
        return self._flag.is_set()

    def begin(self, cause: IsolaneError | None = None) -> None:
        """Take nothing new from now on. The first call counts; `cause` is why nobody asked."""
        if not self.has_begun:
            self.cause = cause
        self._flag.set()

    async def wait(self) -> None:
        """Return once nothing new is taken. Safe to cancel."""
        await self._flag.wait()

    def check_open(self) -> None:
        """Return while the gateway takes new work.

        Raises:
            Unavailable: The gateway is draining.
        """
        if self.has_begun:
            raise Unavailable("the gateway is draining")
