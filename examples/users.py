"""A FastAPI app with users of its own, who are the users of its agent too.

Run it from this folder:

    uvicorn users:app --ws isolane.server:WebSocketProtocol

Whoever signs in there gets the app's own cookie, and with it a lane: the socket is at
`ws://127.0.0.1:8000/agent/ws`, and Isolane asks `Users` whose cookie it is.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from ag_ui.core import RunAgentInput
from fastapi import FastAPI, HTTPException, Response

from isolane import Identity, UserExecutionContext
from isolane.app import mount

PASSWORDS = {"ada": "countess", "grace": "admiral"}  # as an example only: hash yours
SESSIONS: dict[str, str] = {}


class Users:
    """Names the user of an app's session; this is the `Authenticator` that Isolane needs."""

    async def authenticate(self, token: str) -> Identity | None:
        """Return the session's user; None refuses the token."""
        user_id = SESSIONS.get(token)
        return None if user_id is None else Identity(user_id)


async def agent(
    input: RunAgentInput,  # noqa: A002, ARG001 - the name of AG-UI's field
    context: UserExecutionContext,
) -> AsyncIterator[str]:
    """Greet the user of the app's session."""
    yield f"Hello {context.user_id}."


app = FastAPI()
mount(app, "/agent", {"default": agent}, authenticator=Users(), cookie="session")


@app.post("/login")
async def login(name: str, password: str, response: Response) -> dict[str, str]:
    """Sign in to the app itself."""
    expected = PASSWORDS.get(name)
    if expected is None or not secrets.compare_digest(expected.encode(), password.encode()):
        raise HTTPException(401)
    session = secrets.token_urlsafe(32)
    SESSIONS[session] = name
    response.set_cookie("session", session, httponly=True, samesite="lax")
    return {"signed in": name}
