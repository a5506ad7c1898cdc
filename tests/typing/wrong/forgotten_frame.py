# gate: mypy [exhaustive-match]
"""A door that knows only some of the frames."""

from isolane.wire.frames import Abort, ClientFrame, Hello, Run


def name_of(frame: ClientFrame) -> str:
    match frame:  # here
        case Run():
            return "run"
        case Abort():
            return "abort"
        case Hello():
            return "hello"
    return "?"
