"""One frozen value that holds every setting."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from isolane.ids import ENVELOPE_BYTES
from isolane.settings.addresses import (
    LOOPBACK,
    TrustedProxies,
    parse_public_url,
    parse_web_proxy,
    to_origin,
)
from isolane.settings.providers import ProviderSettings
from isolane.settings.spelling import PREFIX

DATABASE_NAME: Final = "isolane.db"
KEY_NAME: Final = "signing.key"
RUN_EVENTS_DEFAULT: Final = 100_000
REQUEST_BYTES_DEFAULT: Final = 64 << 20
CHAT_FRAME_BYTES_DEFAULT: Final = 16 << 20
COOKIE_NAME: Final = "isolane_session"
_ANCESTOR: Final = re.compile(r"self|https?://(\*\.)?[A-Za-z0-9._-]+(:(\d{1,5}|\*))?")
"""Pattern of an entry of `frame-ancestors` (Content Security Policy 3, 2.3.1)."""


def _log_default(known: Mapping[str, Any]) -> int:
    """Return the default of `log_max_events`; it grows with `limit_run_events`."""
    return max(RUN_EVENTS_DEFAULT, int(known.get("limit_run_events", 0)))


def _request_default(known: Mapping[str, Any]) -> int:
    """Return the default of `limit_request_bytes`; it is at least `limit_frame_bytes`."""
    return max(REQUEST_BYTES_DEFAULT, int(known.get("limit_frame_bytes", 0)))


def _chat_frame_default(known: Mapping[str, Any]) -> int:
    """Return the default of `limit_chat_frame_bytes`; it is at least `limit_frame_bytes`."""
    return max(CHAT_FRAME_BYTES_DEFAULT, int(known.get("limit_frame_bytes", 0)))


class Settings(BaseSettings):
    """Every setting, valid by construction. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data: Path = Path("isolane-data")
    database_url: str = ""
    """Address of the database. Empty means a SQLite file in `data`, `sqlite://` only memory."""
    bell_url: SecretStr | None = None
    """Address of a Redis or Valkey server by which processes that share a database ring one
    another. By default the database does that."""
    node_id: str = Field(default="", max_length=200)
    """What this process is called among those that serve one database. Empty means host name and
    port. A process that takes the name of another one takes its place."""
    secret_key: SecretStr | None = None
    """Key that signs the local issuer's tokens, of 32 bytes or more. By default a file in
    `data`."""
    issuer: str | None = None
    """`iss` of the gateway's own tokens: written into each, and demanded of each."""
    audience: str | None = None
    """`aud` of the gateway's own tokens: written into each, and demanded of each."""
    providers: tuple[ProviderSettings, ...] = ()
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins beside our own whose pages may use the gateway, with commas between them.

    Their pages read answers with a bearer token (CORS), and may use a session cookie on sockets.
    """
    frame_ancestors: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may show the chat page in a frame, with commas between them."""
    cookie_name: str = Field(default=COOKIE_NAME, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of the session cookie. All ports of a host share cookies, so each gateway of one host
    and path needs its own name."""
    public_url: str | None = None
    """Address at which visitors find the gateway behind a proxy: scheme, host and perhaps a
    path."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = LOOPBACK
    """Addresses and networks whose `X-Forwarded-*` headers are believed, with commas between
    them."""
    metrics_token: SecretStr | None = None
    clock_leeway_s: float = Field(default=60.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds by which clocks of token issuers may differ from ours."""
    provider_ca_file: Path | None = None
    """File of extra certificate authorities (PEM) for connections to providers."""
    provider_proxy: SecretStr | None = None
    """Address of the proxy for requests to providers, instead of the one in `HTTPS_PROXY`."""

    session_idle_s: float = Field(default=8 * 3600.0, gt=0, allow_inf_nan=False)
    """Seconds without use after which a browser's session ends."""
    session_max_s: float = Field(default=7 * 86400.0, gt=0, allow_inf_nan=False)
    """Seconds after which a browser's session ends, even while it is used."""
    revoked_runs: Literal["continue", "abort"] = "continue"
    """Fate of a user's active runs when their credential is revoked."""

    heartbeat_s: float = Field(default=20.0, gt=0, le=3600, allow_inf_nan=False)
    send_timeout_s: float = Field(default=20.0, gt=0, le=3600, allow_inf_nan=False)
    run_timeout_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    drain_timeout_s: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    log_retention_s: float = Field(default=86400.0, gt=0, allow_inf_nan=False)
    request_threads_kept_s: float = Field(default=60.0, ge=0, allow_inf_nan=False)
    """Seconds that the thread of a single request is kept after its run has ended."""

    limit_connections_per_user: int = Field(default=20, ge=1)
    limit_threads_per_user: int = Field(default=20, ge=1)
    limit_runs_per_user: int = Field(default=5, ge=1)
    limit_queued_runs_per_thread: int = Field(default=5, ge=0)
    limit_frames_per_minute: int = Field(default=600, ge=1)
    limit_requests_per_user: int = Field(default=16, ge=1)
    """Concurrent HTTP requests per user; a request counts up to the last byte of its answer."""
    limit_frame_bytes: int = Field(default=1 << 20, ge=1024)
    """Bytes of one WebSocket frame, and of the new part of one HTTP body."""
    limit_request_bytes: int = Field(default_factory=_request_default, ge=1024)
    """Bytes of the body of a run over HTTP, repeated history included. At least
    `limit_frame_bytes`."""
    limit_chat_frame_bytes: int = Field(default_factory=_chat_frame_default, ge=1024)
    """Bytes of a frame of AI SDK's socket, repeated history included. At least
    `limit_frame_bytes`."""
    limit_event_bytes: int = Field(default=1 << 20, ge=1024)
    limit_run_bytes: int = Field(default=16 << 20, ge=1024)
    """Payload bytes that one run may append to its thread's log."""
    limit_run_events: int = Field(default=RUN_EVENTS_DEFAULT, ge=1)
    """Events that one run may append to its thread's log."""
    limit_stored_threads_per_user: int = Field(default=10_000, ge=1)
    """Threads that one user may keep."""
    limit_stored_bytes_per_user: int = Field(default=1 << 30, ge=1024)
    """Bytes that one user may keep: log entries, messages and runs, plus 100 per row."""
    log_max_events: int = Field(default_factory=_log_default, ge=1)
    """Events per thread. Above that, the oldest ended runs are removed. One run of the largest size
    always fits."""
    limit_failed_handshakes_per_address: int = Field(default=1200, ge=1)
    """Failed handshakes per minute and address. An office with expired tokens has some, a flood has
    thousands. The limit isn't published, because it is aimed at those who would read it."""

    compression: bool = False
    """True when WebSocket messages may be compressed. It saves traffic and costs memory per
    socket."""

    memory_bytes: int | None = Field(default=None, ge=0)
    """Bytes that the process may use. None means its control group's limit, else the machine's
    memory."""
    disk_reserve_bytes: int | None = Field(default=None, ge=0)
    """Bytes of free disk below which no new run is accepted. None means 64 MiB, on a small disk 5
    %."""

    agent_threads: int = Field(default=0, ge=0, le=64)
    """Threads with an event loop each, on which agents run. 0 means the gateway's own loop."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    policy: Literal["queue", "reject", "interrupt"] = "queue"
    """Policy for a second run of a busy thread, when the run itself names none."""
    on_disconnect: Literal["continue", "stop"] = "continue"
    """Fate of a run over HTTP without a reader, when the run itself names none."""
    ai_replay_s: float = Field(default=86_400, ge=0)
    """Seconds after its end for which a turn is replayed to a reader of AI SDK that comes back."""

    @field_validator("allowed_origins", "frame_ancestors", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(map(to_origin, value))
        except ValueError as error:
            raise ValueError(
                "must be origins like https://example.org, with commas between them"
            ) from error

    @field_validator("frame_ancestors")
    @classmethod
    def _check_ancestors(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ANCESTOR.fullmatch(each) for each in value):
            raise ValueError(
                "must be origins like https://example.org or https://*.example.org, or self, with "
                "commas between them"
            )
        return value

    @field_validator("provider_ca_file", mode="before")
    @classmethod
    def _drop_empty(cls, value: object) -> object:
        return value or None

    @field_validator("provider_ca_file")
    @classmethod
    def _check_ca_file(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
            except OSError as error:
                raise ValueError(f"must be a file with certificates in PEM: {error}") from error
        return value

    @field_validator("provider_proxy")
    @classmethod
    def _check_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        parse_web_proxy(value.get_secret_value())
        return value

    @field_validator("public_url")
    @classmethod
    def _normalize_public_url(cls, value: str | None) -> str | None:
        return parse_public_url(value).text if value else None

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        TrustedProxies(value)
        return value

    @property
    def event_max_bytes(self) -> int:
        """Most bytes of an event: its envelope must fit into one frame of a client."""
        return min(self.limit_event_bytes, self.limit_frame_bytes - ENVELOPE_BYTES)

    @property
    def names_policy(self) -> bool:
        """Say whether the operator chose a policy, the default one included."""
        return "policy" in self.model_fields_set

    @property
    def published_limits(self) -> dict[str, int]:
        """The limits as `welcome` publishes them; each value is exactly the enforced one."""
        return {
            "connectionsPerUser": self.limit_connections_per_user,
            "threadsPerUser": self.limit_threads_per_user,
            "runsPerUser": self.limit_runs_per_user,
            "queuedRunsPerThread": self.limit_queued_runs_per_thread,
            "framesPerMinute": self.limit_frames_per_minute,
            "requestsPerUser": self.limit_requests_per_user,
            "frameBytes": self.limit_frame_bytes,
            "requestBytes": self.limit_request_bytes,
            "chatFrameBytes": self.limit_chat_frame_bytes,
            "eventBytes": self.event_max_bytes,
            "runBytes": self.limit_run_bytes,
            "runEvents": self.limit_run_events,
            "storedThreadsPerUser": self.limit_stored_threads_per_user,
            "storedBytesPerUser": self.limit_stored_bytes_per_user,
            "sendTimeoutMs": round(self.send_timeout_s * 1000),
        }

    @property
    def sqlalchemy_url(self) -> str:
        """Address of the database that holds the log and the store."""
        return self.database_url or f"sqlite:///{self.data / DATABASE_NAME}"

    @property
    def frame_policy(self) -> str:
        """Directive of Content Security Policy for the pages that may show an answer in a frame."""
        named = ["'self'" if each == "self" else each for each in self.frame_ancestors]
        return " ".join(["frame-ancestors", *(named or ["'none'"])])

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
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - .env files are not read
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - nor folders of secrets
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order: options, then the environment, then the TOML file."""
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, toml
