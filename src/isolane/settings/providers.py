"""The settings of OpenID Connect providers whose users are let in."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class ProviderSettings(BaseModel):
    """An OpenID Connect provider whose users may use the gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    """First part of its users' ids, `name|subject`. A changed name makes new users of them."""
    issuer: str
    audience: str | None = None
    """Value that `aud` of its tokens must have. Without it, every token of the provider is
    accepted."""
    jwks_url: str | None = None
    """Address of its keys; the default is in its discovery document."""
    client_id: str | None = None
    """Id of our client at the provider. When it is set, the page offers to sign in there."""
    client_secret: SecretStr | None = None
    """Secret of our client; None for a public client."""
    scopes: tuple[Literal["threads:read", "runs:write", "check", "admin"], ...] = (
        "threads:read",
        "runs:write",
    )
    """Scopes that its tokens may grant. Other systems use the same words, so admin isn't a
    default."""
    label: str = ""
    """Name of the provider on the page; the field `name` by default."""

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        if address is not None and not is_safe_address(address):
            raise ValueError("must be an https address, or an http one of this machine")
        return address


def is_safe_address(address: str) -> bool:
    """Say whether nobody can change what is fetched from there: https, or this machine."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    is_near = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_near)
    )
