"""One frozen value that holds every setting, and the one place that reads them in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX: Final = "ISOLANE_"
DATABASE_NAME: Final = "isolane.db"
KEY_NAME: Final = "signing.key"
_ORIGIN: Final = re.compile(r"https?://[^\s/@?#,]+")


class InvalidSettings(Exception):
    """A setting can't be used; one sentence names it, what it held and what it may hold."""


class Settings(BaseSettings):
    """Every setting, valid by construction. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data: Path = Path("isolane-data")
    database_url: str = ""
    """Empty: one SQLite file in `data`. `sqlite://` keeps everything in memory."""
    secret_key: SecretStr | None = None
    """Signs the local issuer's tokens instead of the key file in `data`; 32 bytes or more."""
    issuer: str | None = None
    audience: str | None = None
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins beside our own whose pages may use a session cookie; commas between them."""
    metrics_token: SecretStr | None = None

    heartbeat_s: float = Field(default=20.0, gt=0, le=3600, allow_inf_nan=False)
    send_timeout_s: float = Field(default=20.0, gt=0, le=3600, allow_inf_nan=False)
    run_timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    drain_timeout_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    log_retention_s: float = Field(default=86400.0, gt=0, allow_inf_nan=False)
    log_max_events: int = Field(default=20000, ge=1)

    limit_connections_per_user: int = Field(default=20, ge=1)
    limit_threads_per_user: int = Field(default=20, ge=1)
    limit_runs_per_user: int = Field(default=5, ge=1)
    limit_queued_runs_per_thread: int = Field(default=5, ge=0)
    limit_frames_per_minute: int = Field(default=600, ge=1)
    limit_frame_bytes: int = Field(default=1 << 20, ge=1024)
    limit_event_bytes: int = Field(default=1 << 20, ge=1024)

    agent_threads: int = Field(default=0, ge=0, le=64)
    """Threads with an event loop each, on which agents run; 0 runs them on the gateway's own."""

    policy: Literal["queue", "reject", "interrupt"] = "queue"
    """What a second run of a busy thread meets, when the run itself doesn't say."""

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(part.strip() for part in value.split(",") if part.strip())
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("must be origins like https://example.org, with commas between them")
        return origins

    @property
    def published_limits(self) -> dict[str, int]:
        """The limits as `welcome` shows them: these names, and exactly what is enforced."""
        return {
            "connectionsPerUser": self.limit_connections_per_user,
            "threadsPerUser": self.limit_threads_per_user,
            "runsPerUser": self.limit_runs_per_user,
            "queuedRunsPerThread": self.limit_queued_runs_per_thread,
            "framesPerMinute": self.limit_frames_per_minute,
            "frameBytes": self.limit_frame_bytes,
            "eventBytes": self.limit_event_bytes,
            "sendTimeoutMs": round(self.send_timeout_s * 1000),
        }

    @property
    def sqlalchemy_url(self) -> str:
        """Where the log and the store are."""
        return self.database_url or f"sqlite:///{self.data / DATABASE_NAME}"

    @property
    def heartbeat_ms(self) -> int:
        """Milliseconds between two pings."""
        return round(self.heartbeat_s * 1000)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no file is read unasked
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options win over the environment, the environment over the TOML file."""
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, toml


def load_settings(options: dict[str, Any], *, config: Path | None = None) -> Settings:
    """Read the settings; options that are None count as not given.

    Raises `InvalidSettings` with one sentence that names the first setting that can't be used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    cls = _with_file(config) if config else Settings
    try:
        settings = cls(**given)
    except ValidationError as error:
        raise InvalidSettings(_sentence(error)) from error
    except ValueError as error:  # pydantic-settings, on a tuple that is no JSON; TOML, on syntax
        raise InvalidSettings(f"The settings can't be read: {error}") from error
    return _checked(settings)


def _with_file(config: Path) -> type[Settings]:
    if not config.is_file():
        raise InvalidSettings(f"--config names {config}, which is no file.")

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return FileSettings


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "the settings"
    held = "" if name in _secret_names() else f" It holds {first['input']!r}."
    return f"{PREFIX}{name.upper()} can't be used: {_lower(first['msg'])}.{held}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _secret_names() -> frozenset[str]:
    return frozenset({"secret_key", "metrics_token", "database_url"})


def _checked(settings: Settings) -> Settings:
    key = settings.secret_key
    if key is not None and len(key.get_secret_value().encode()) < 32:  # noqa: PLR2004 - RFC 7518, 3.2
        raise InvalidSettings(f"{PREFIX}SECRET_KEY can't be used: it needs 32 bytes or more.")
    if not settings.sqlalchemy_url.startswith("sqlite:"):
        raise InvalidSettings(
            f"{PREFIX}DATABASE_URL can't be used: only sqlite: URLs are served so far."
        )
    return settings
