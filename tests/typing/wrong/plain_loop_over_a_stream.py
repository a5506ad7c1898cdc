# gate: mypy [attr-defined]
"""A plain `for` over an asynchronous stream."""

from isolane import AgentServiceProtocol, UserExecutionContext


async def count(service: AgentServiceProtocol, context: UserExecutionContext) -> int:
    return sum(1 for _ in service.follow(context))  # here
