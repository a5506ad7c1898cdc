"""Descriptions of credentials for OpenAPI. The check of credentials is elsewhere."""

from __future__ import annotations

from typing import Any, Final

from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
from fastapi.openapi.models import SecurityBase as Model
from fastapi.security.base import SecurityBase

from isolane.settings import COOKIE_NAME

SESSION_SCHEME: Final = "session"


class Described(SecurityBase):
    """A kind of credential. A route that depends on it is described as accepting it."""

    def __init__(self, name: str, model: Model) -> None:
        """Describe the credential by `model`, under `name`."""
        self.scheme_name = name
        self.model = model

    async def __call__(self) -> None:
        """Check nothing."""


BEARER: Final = Described("bearer", HTTPBearer(bearerFormat="JWT"))
SESSION: Final = Described(
    SESSION_SCHEME,
    APIKey.model_validate(
        {
            "in": APIKeyIn.cookie,
            "name": COOKIE_NAME,
            "description": "Writes also need an Origin: the server's own, or one on its list.",
        }
    ),
)
METRICS: Final = Described(
    "metrics", HTTPBearer(description="ISOLANE_METRICS_TOKEN, where the server has one.")
)


def name_cookie(description: dict[str, Any], cookie_name: str) -> dict[str, Any]:
    """Return an OpenAPI description in which the session's cookie has the name that it has here."""
    description["components"]["securitySchemes"][SESSION_SCHEME]["name"] = cookie_name
    return description
