# gate: mypy [misc]
"""A context that becomes another user's on its way."""

from isolane import UserExecutionContext


def impersonate(context: UserExecutionContext) -> None:
    context.user_id = "somebody else"  # here
