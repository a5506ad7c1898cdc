# gate: mypy [arg-type]
"""An authenticator that isn't async: each credential would be refused with TypeError."""

from fastapi import FastAPI

from isolane import Identity
from isolane.app import mount


class Users:
    def authenticate(self, token: str) -> Identity | None:
        return Identity(token)


mount(FastAPI(), "/agent", {}, authenticator=Users())  # here
