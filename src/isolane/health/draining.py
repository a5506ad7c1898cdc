"""Whether the gateway takes nothing new, because it ends."""

from __future__ import annotations

from isolane.errors import Unavailable


class Draining:
    """The one word on whether the gateway drains. Sockets and runs ask the same one."""

    def __init__(self) -> None:
        """Begin with a gateway that takes new work."""
        self.has_begun = False

    def begin(self) -> None:
        """Take nothing new from now on. Idempotent."""
        self.has_begun = True

    def check_open(self) -> None:
        """Return while the gateway takes new work.

        Raises:
            Unavailable: The gateway is draining.
        """
        if self.has_begun:
            raise Unavailable("the gateway is draining")
