"""The one place that reads settings in: options, environment and file."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from isolane.settings.providers import ProviderSettings
from isolane.settings.spelling import PREFIX, find_typo, to_instead
from isolane.settings.values import Settings


class InvalidSettings(Exception):
    """A setting can't be used; one sentence names it, its value and the allowed values."""


def load_settings(options: dict[str, Any], *, config: Path | None = None) -> Settings:
    """Return the settings; an option that is None counts as not given.

    Raises:
        InvalidSettings: A setting can't be used, the file has an unknown name, or a variable is a
            typo of a known one. The text names the first fault.
    """
    _check_environment()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        cls = _with_file(config) if config else Settings
        settings = cls(**given)
    except ValidationError as error:
        raise InvalidSettings(_sentence(error)) from error
    # ValueError: a tuple that is no JSON, or a file that is no TOML
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"The settings can't be read: {error}") from error
    return _checked(settings)


def _check_environment() -> None:
    typo = find_typo(os.environ, Settings.model_fields)
    if typo is not None:
        raise InvalidSettings(f"{typo[0]} is no setting: write {typo[1]}, or unset it.")


def _with_file(config: Path) -> type[Settings]:
    if not config.is_file():
        raise InvalidSettings(f"--config names {config}, which is no file.")
    for name in tomllib.loads(config.read_text(encoding="utf-8")):
        if name not in Settings.model_fields:
            instead = to_instead(name, Settings.model_fields)
            raise InvalidSettings(f"{config} has {name}, which is no setting: {instead}.")

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return FileSettings


def _sentence(error: ValidationError) -> str:
    # A missing name is often there in a wrong spelling, so unknown names are told first.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    name = str(first["loc"][0]) if first["loc"] else "the settings"
    inner = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "extra_forbidden":
        return _unknown_sentence(name, inner)
    is_secret = name in _secret_names() or (name == "public_url" and "@" in str(first["input"]))
    held = "" if is_secret else f" It holds {first['input']!r}."
    place = f" ({inner})" if inner else ""
    return f"{PREFIX}{name.upper()} can't be used{place}: {_lower(first['msg'])}.{held}"


def _unknown_sentence(name: str, inner: str) -> str:
    """Return the advice for an unknown name in a provider's table."""
    field = inner.rpartition(".")[2]
    instead = to_instead(field, ProviderSettings.model_fields)
    return f"{PREFIX}{name.upper()} can't be used ({inner}): {field} is unknown, {instead}."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _secret_names() -> frozenset[str]:
    return frozenset(
        {"secret_key", "metrics_token", "database_url", "providers", "provider_proxy", "bell_url"}
    )


def _checked(settings: Settings) -> Settings:
    key = settings.secret_key
    if key is not None and len(key.get_secret_value().encode()) < 32:  # noqa: PLR2004 - RFC 7518, 3.2
        raise InvalidSettings(f"{PREFIX}SECRET_KEY can't be used: it needs 32 bytes or more.")
    scheme = settings.sqlalchemy_url.partition(":")[0]
    if scheme not in {"sqlite", "postgresql"}:
        raise InvalidSettings(
            f"{PREFIX}DATABASE_URL can't be used: it must begin with sqlite: or postgresql:."
        )
    if scheme == "postgresql" and key is None:
        raise InvalidSettings(
            f"{PREFIX}DATABASE_URL names a server, and {PREFIX}SECRET_KEY is missing: "
            "gateways that share a database sign with one key."
        )
    _check_bell(settings)
    if settings.log_max_events < settings.limit_run_events:
        raise InvalidSettings(
            f"{PREFIX}LOG_MAX_EVENTS can't be used: it holds {settings.log_max_events}, and must "
            f"not be below {PREFIX}LIMIT_RUN_EVENTS, which is {settings.limit_run_events}."
        )
    _check_whole("LIMIT_REQUEST_BYTES", settings.limit_request_bytes, settings)
    _check_whole("LIMIT_CHAT_FRAME_BYTES", settings.limit_chat_frame_bytes, settings)
    _check_providers(settings)
    return settings


def _check_bell(settings: Settings) -> None:
    if settings.bell_url is None:
        return
    if settings.bell_url.get_secret_value().partition(":")[0] not in {"redis", "rediss", "unix"}:
        raise InvalidSettings(
            f"{PREFIX}BELL_URL can't be used: it must begin with redis:, rediss: or unix:."
        )
    if not settings.database_url.startswith("postgresql:"):
        raise InvalidSettings(
            f"{PREFIX}BELL_URL can't be used: processes ring one another where they share a "
            f"database, so {PREFIX}DATABASE_URL must name a PostgreSQL database."
        )


def _check_whole(name: str, held: int, settings: Settings) -> None:
    """Check that the limit of a whole list is at least the limit of its new part.

    Raises:
        InvalidSettings: The limit is smaller.
    """
    if held < settings.limit_frame_bytes:
        raise InvalidSettings(
            f"{PREFIX}{name} can't be used: it holds {held}, and must not be below "
            f"{PREFIX}LIMIT_FRAME_BYTES, which is {settings.limit_frame_bytes}."
        )


def _check_providers(settings: Settings) -> None:
    if settings.issuer in {each.issuer for each in settings.providers}:
        raise InvalidSettings(
            f"{PREFIX}ISSUER can't be used: it is a provider's, whose tokens aren't our own."
        )
    for what in ("name", "issuer"):
        values = [getattr(provider, what) for provider in settings.providers]
        if len(set(values)) < len(values):
            raise InvalidSettings(f"{PREFIX}PROVIDERS can't be used: each needs its own {what}.")
