"""One frozen value that holds every setting, and the one place that reads them in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
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
SINGLE_PROVIDER: Final = "oidc"
_ORIGIN: Final = re.compile(r"https?://[^\s/@?#,]+")


class InvalidSettings(Exception):
    """A setting can't be used; one sentence names it, what it held and what it may hold."""


class ProviderSettings(BaseModel):
    """An OpenID Connect provider whose users are let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    """Stands before the subject in its users' ids: `name|subject`. To change it changes them."""
    issuer: str
    audience: str | None = None
    """What its tokens must be for. Without it, whatever the provider signs is taken."""
    jwks_url: str | None = None
    """Where its keys are; by default its discovery document says that."""
    client_id: str | None = None
    """Set, the page offers to sign in there."""
    client_secret: SecretStr | None = None
    """None for a public client."""
    scopes: tuple[Literal["threads:read", "runs:write", "check", "admin"], ...] = (
        "threads:read",
        "runs:write",
    )
    """Which scopes its tokens may name: the words are other systems' too."""
    label: str = ""
    """What the page calls it; its name by default."""

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        if address is not None and not is_safe_address(address):
            raise ValueError("must be an https address, or an http one of this machine")
        return address


def is_safe_address(address: str) -> bool:
    """Say whether what is fetched there is the provider's word: https, or this machine."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    is_near = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_near)
    )


class Settings(BaseSettings):
    """Every setting, valid by construction. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data: Path = Path("isolane-data")
    database_url: str = ""
    """Empty: one SQLite file in `data`. `sqlite://` keeps everything in memory."""
    secret_key: SecretStr | None = None
    """Signs the local issuer's tokens instead of the key file in `data`; 32 bytes or more."""
    issuer: str | None = None
    """Demanded as `iss`: of local tokens, or, with `jwks_url`, of the provider's."""
    audience: str | None = None
    """Demanded as `aud`, as above."""
    jwks_url: str | None = None
    """The keys of one provider, called `oidc`. Several, and signing in there: `providers`."""
    providers: tuple[ProviderSettings, ...] = ()
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins beside our own whose pages may use a session cookie; commas between them."""
    metrics_token: SecretStr | None = None

    session_idle_s: float = Field(default=8 * 3600.0, gt=0, allow_inf_nan=False)
    """A browser's session ends when it wasn't used for so long."""
    session_max_s: float = Field(default=7 * 86400.0, gt=0, allow_inf_nan=False)
    """It ends after this, however much it was used."""
    revoked_runs: Literal["continue", "abort"] = "continue"
    """What becomes of a user's runs when their credential is revoked."""

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
    limit_failed_handshakes_per_address: int = Field(default=1200, ge=1)
    """A minute. An office of people with dead tokens has some, a flood has thousands. It isn't
    published: clients that are told it are the ones it is for."""

    compression: bool = False
    """Whether WebSocket messages may be deflated: smaller on slow lines, some memory a socket."""

    memory_bytes: int | None = Field(default=None, ge=0)
    """What the process may hold; None is its control group's limit, else all there is."""
    disk_reserve_bytes: int | None = Field(default=None, ge=0)
    """Below so much free disk no new runs are taken; None is 64 MiB, of a small disk 5 %."""

    agent_threads: int = Field(default=0, ge=0, le=64)
    """Threads with an event loop each, on which agents run; 0 runs them on the gateway's own."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

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
    def all_providers(self) -> tuple[ProviderSettings, ...]:
        """Every provider, the one of the single settings too."""
        if self.jwks_url is None:
            return self.providers
        single = ProviderSettings(
            name=SINGLE_PROVIDER,
            issuer=self.issuer or "",
            audience=self.audience,
            jwks_url=self.jwks_url,
        )
        return (*self.providers, single)

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
    inner = ".".join(str(part) for part in first["loc"][1:])
    place = f" ({inner})" if inner else ""
    return f"{PREFIX}{name.upper()} can't be used{place}: {_lower(first['msg'])}.{held}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _secret_names() -> frozenset[str]:
    return frozenset({"secret_key", "metrics_token", "database_url", "providers"})


def _checked(settings: Settings) -> Settings:
    key = settings.secret_key
    if key is not None and len(key.get_secret_value().encode()) < 32:  # noqa: PLR2004 - RFC 7518, 3.2
        raise InvalidSettings(f"{PREFIX}SECRET_KEY can't be used: it needs 32 bytes or more.")
    if not settings.sqlalchemy_url.startswith("sqlite:"):
        raise InvalidSettings(
            f"{PREFIX}DATABASE_URL can't be used: only sqlite: URLs are served so far."
        )
    _check_providers(settings)
    return settings


def _check_providers(settings: Settings) -> None:
    if settings.jwks_url is not None and not settings.issuer:
        raise InvalidSettings(
            f"{PREFIX}JWKS_URL can't be used: it needs {PREFIX}ISSUER, whose tokens they sign."
        )
    try:
        providers = settings.all_providers
    except ValidationError as error:
        raise InvalidSettings(_sentence(error)) from error
    if settings.jwks_url is None and settings.issuer in {each.issuer for each in providers}:
        raise InvalidSettings(
            f"{PREFIX}ISSUER can't be used: it is a provider's, whose tokens aren't our own."
        )
    for what in ("name", "issuer"):
        values = [getattr(provider, what) for provider in providers]
        if len(set(values)) < len(values):
            raise InvalidSettings(f"{PREFIX}PROVIDERS can't be used: each needs its own {what}.")
