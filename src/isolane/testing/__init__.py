"""What helps to test what is built on Isolane; `docs/testing.md` shows each part in use.

`isolane.testing.server` needs `isolane[testing]`; the pytest plugin loads itself.
"""

from isolane.testing.agent import Gate, ScriptedAgent, UntilStopped
from isolane.testing.conformance import assert_conforms
from isolane.testing.websocket import ScriptedSocket

__all__ = [
    "Gate",
    "ScriptedAgent",
    "ScriptedSocket",
    "UntilStopped",
    "assert_conforms",
]
