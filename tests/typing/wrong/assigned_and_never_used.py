# gate: ruff F841
"""A coroutine with a name and no use."""

from isolane import AgentServiceProtocol, UserExecutionContext


async def stop(service: AgentServiceProtocol, context: UserExecutionContext) -> None:
    stopping = service.abort(context)  # here
