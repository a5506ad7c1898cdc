"""A FastAPI app of one's own, with an agent of one's own, that mounts Isolane.

Run it from this folder, then talk to `ws://127.0.0.1:8000/agent/ws`:

    uvicorn embed:app --ws isolane.server:WebSocketProtocol

The app signs its users in as it always did and gives each a token for the socket; here anybody
may be anybody, which a real app must not allow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ag_ui.core import RunAgentInput
from fastapi import FastAPI

from isolane import UserExecutionContext
from isolane.app import make_issuer, mount
from isolane.settings import load_settings


async def agent(
    input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
    context: UserExecutionContext,
) -> AsyncIterator[str]:
    """Greet the user: `context` is verified, the question is not."""
    yield f"Hello {context.user_id}, "
    yield f"this thread has {len(input.messages)} messages."


settings = load_settings({})
issuer = make_issuer(settings)

app = FastAPI()
mount(app, "/agent", {"default": agent}, settings)


@app.post("/token/{name}")
async def create_token(name: str) -> dict[str, str]:
    """Return a token that lets `name` in for an hour."""
    return {"token": issuer.issue(name, expires_s=3600)}
