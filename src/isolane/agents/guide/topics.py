"""The words that make a question one about Isolane. Pure.

The pages have thousands of everyday words too. A question of only such words, like "write python
code" or "what is 2+2", is about something else, even when passages have all its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_NAME: Final = re.compile(r"\b[a-z]+[A-Z]\w*|\b[A-Za-z\d]+(?:_+[A-Za-z\d]+)+")
"""A name of the wire or the code, such as `retryAfterMs`, `agent_error`, `ISOLANE_DATA`."""
_CLOSE_CODE: Final = re.compile(r"10[01]\d|44\d\d")
_SUM: Final = re.compile(r"\d\s*[-+*/x\u00d7\u00f7^=]\s*\d", re.IGNORECASE)

# Each in one form, because the index finds a word in all its forms.
TOPICS: Final = """
    isolane gateway lane isolation isolate agui ag-ui tanstack
    agent subagent run thread conversation queue policy interrupt abort stop cancel
    event log epoch cursor replay resume reconnect reconnection disconnect connect connection drop
    socket websocket subprotocol handshake frame heartbeat ping sse stream http https tls proxy
    token ticket session cookie credential bearer jwt jwks oidc oauth sso openid issuer audience
    provider scope account password login logout signin sign user identity authenticate
    authentication authenticator authorization authorize revoke revocation secret rotate key
    origin cors csrf attack attacker threat hostile security vulnerability injection
    setting configure configuration config environment variable option command limit rate timeout
    deadline compression memory disk
    metric prometheus gauge health readiness readyz healthz liveness monitor
    shutdown restart crash drain retention trim backup restore renumber migration
    database sqlite redis postgres postgresql mysql
    deploy deployment docker kubernetes nginx caddy systemd worker process scale cluster
    mount embed embedding fastapi starlette uvicorn asgi lifespan middleware
    pydantic pydantic-ai langgraph openai anthropic ollama model tool approve approval loop
    client device tab browser typescript protocol endpoint route openapi api
    error errorid retry guarantee promise durable delivery duplicate
    architecture floor engine contract store manager feed
    pytest fixture coroutine conformance test await
    install serve server demo guide documentation docs cli
    message history deletion transcript reasoning attachment latency throughput benchmark
"""


def find_names(text: str) -> Iterator[str]:
    """Yield the names in `text` in lower case, because such a name means only one thing."""
    for found in _NAME.finditer(text):
        yield found[0].lower()


def is_sum(text: str) -> bool:
    """Say whether `text` asks for arithmetic, whose numbers are no close codes."""
    return _SUM.search(text) is not None


def is_close_code(word: str) -> bool:
    """Say whether `word` looks like a close code."""
    return _CLOSE_CODE.fullmatch(word) is not None
