# gate: ensure
"""The same from a configuration, so it is Any: it is refused where it is mounted."""

from typing import Any

from fastapi import FastAPI

from isolane import Identity
from isolane.app import mount


class Users:
    def authenticate(self, token: str) -> Identity | None:
        return Identity(token)


def enter() -> None:
    configured: dict[str, Any] = {"authenticator": Users()}
    mount(FastAPI(), "/agent", {}, **configured)  # here
