"""Tools for tests of what is built on Isolane; `docs/testing.md` shows each one in use.

`isolane.testing.server` and `isolane.testing.plugin` need `isolane[testing]`.
"""

from isolane.testing.agent import Gate, ScriptedAgent, UntilStopped
from isolane.testing.conformance import assert_conforms
from isolane.testing.memory import assert_keeps_users_apart
from isolane.testing.websocket import ScriptedSocket

__all__ = [
    "Gate",
    "ScriptedAgent",
    "ScriptedSocket",
    "UntilStopped",
    "assert_conforms",
    "assert_keeps_users_apart",
]
