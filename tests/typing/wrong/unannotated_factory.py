# gate: mypy [no-untyped-def]
"""The same wrapper without types: what it returns is nobody's business, so it must have types."""

from isolane import create_websocket_manager


def make_manager(context):  # here
    return create_websocket_manager(context)
