"""Host apps that mount a gateway, for `uvicorn path_hosts:NAME`.

`ISOLANE_TEST_MOUNT` says where. Each says by `/host` that it is there itself.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ag_ui.core import RunAgentInput
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import HTMLResponse

from isolane import UserExecutionContext
from isolane.app import mount
from isolane.settings import load_settings


async def echo(
    input: RunAgentInput,  # noqa: A002 - AG-UI's word for it
    context: UserExecutionContext,
) -> AsyncIterator[str]:
    """Name whoever asks."""
    yield f"{context.user_id} has {len(input.messages)} messages"


def make_host(root_path: str = "") -> FastAPI:
    """Return an app that answers whatever nobody else does with a page of its own, as SPAs do."""
    app = FastAPI(root_path=root_path)
    mount(app, os.environ["ISOLANE_TEST_MOUNT"], {"default": echo})

    @app.get("/{path:path}")
    async def fall_back(path: str) -> HTMLResponse:
        return HTMLResponse(f"<!doctype html><title>Host</title>{path}")

    return app


def plain() -> FastAPI:
    """Return a host that knows of no proxy."""
    return make_host()


def rooted() -> FastAPI:
    """Return a host that was told what a proxy strips."""
    return make_host("/api")


def nested() -> Starlette:
    """Return a host whose own app is mounted in another."""
    inner = make_host()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = Starlette(lifespan=lifespan)
    outer.mount("/outer", inner)
    return outer


def two() -> FastAPI:
    """Return a host with two gateways, one below the other's path."""
    app = FastAPI()
    data = Path(os.environ["ISOLANE_DATA"])
    for path in ("/agent/second", "/agent"):
        name = path.rpartition("/")[2]
        mount(app, path, {"default": echo}, load_settings({"data": data / name}))
    return app
