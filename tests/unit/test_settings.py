"""Settings: options win over the environment, that over the file; what is wrong is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from isolane.settings import InvalidSettings, ProviderSettings, Settings, load_settings

SECRET = "short-secret-0123"
CORP: dict[str, Any] = {"name": "corp", "issuer": "https://id.example.org", "audience": "isolane"}
CLUB: dict[str, Any] = {"name": "club", "issuer": "https://club.example.org"}


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import os  # noqa: PLC0415 - only to empty it

    for name in list(os.environ):
        if name.startswith("ISOLANE_"):
            monkeypatch.delenv(name)


def test_the_defaults_are_the_published_ones() -> None:
    settings = load_settings({})
    assert settings.published_limits == {
        "connectionsPerUser": 20,
        "threadsPerUser": 20,
        "runsPerUser": 5,
        "queuedRunsPerThread": 5,
        "framesPerMinute": 600,
        "requestsPerUser": 16,
        "frameBytes": 1 << 20,
        "requestBytes": 64 << 20,
        "chatFrameBytes": 16 << 20,
        "eventBytes": (1 << 20) - 512,
        "runBytes": 16 << 20,
        "runEvents": 100_000,
        "storedThreadsPerUser": 10_000,
        "storedBytesPerUser": 1 << 30,
        "sendTimeoutMs": 20_000,
    }
    assert settings.heartbeat_ms == 20_000
    assert (settings.run_timeout_s, settings.drain_timeout_s) == (600, 30)
    assert (settings.log_retention_s, settings.log_max_events) == (86_400, 100_000)
    assert settings.sqlalchemy_url == "sqlite:///isolane-data/isolane.db"
    assert (settings.session_idle_s, settings.session_max_s) == (8 * 3600, 7 * 86_400)
    assert settings.revoked_runs == "continue"
    assert settings.providers == ()


@pytest.mark.parametrize(
    "limit",
    ["connectionsPerUser", "threadsPerUser", "runsPerUser", "queuedRunsPerThread",
     "framesPerMinute", "requestsPerUser", "frameBytes", "eventBytes", "runBytes", "runEvents",
     "storedThreadsPerUser", "storedBytesPerUser"],
)  # fmt: skip
def test_each_limit_is_set_by_its_own_name(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upper_snake = re.sub(r"([A-Z])", r"_\1", limit).upper()
    monkeypatch.setenv(f"ISOLANE_LIMIT_{upper_snake}", "2048")
    assert load_settings({}).published_limits[limit] == 2048


@pytest.mark.parametrize("limit", ["requestBytes", "chatFrameBytes"])
def test_a_whole_list_has_room_for_a_frame(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ISOLANE_LIMIT_" + re.sub(r"([A-Z])", r"_\1", limit).upper()
    monkeypatch.setenv("ISOLANE_LIMIT_FRAME_BYTES", str(128 << 20))
    assert load_settings({}).published_limits[limit] == 128 << 20
    monkeypatch.setenv("ISOLANE_LIMIT_FRAME_BYTES", "2048")
    monkeypatch.setenv(name, "4096")
    assert load_settings({}).published_limits[limit] == 4096
    monkeypatch.setenv(name, "2047")
    with pytest.raises(InvalidSettings) as refused:
        load_settings({})
    assert str(refused.value) == (
        f"{name} can't be used: it holds 2047, and must not be below "
        "ISOLANE_LIMIT_FRAME_BYTES, which is 2048."
    )


def test_options_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "isolane.toml"
    config.write_text('issuer = "file"\naudience = "file"\nrun_timeout_s = 7\n')
    monkeypatch.setenv("ISOLANE_ISSUER", "environment")
    monkeypatch.setenv("ISOLANE_AUDIENCE", "environment")
    settings = load_settings({"issuer": "option", "audience": None}, config=config)
    found = (settings.issuer, settings.audience, settings.run_timeout_s)
    assert found == ("option", "environment", 7)


def test_origins_stand_with_commas_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLANE_ALLOWED_ORIGINS", "https://a.example,https://b.example:8443")
    assert load_settings({}).allowed_origins == ("https://a.example", "https://b.example:8443")


def test_origins_are_kept_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    held = "HTTPS://App.Example:443/,https://b\u00fccher.example,http://[::1]:3000"
    monkeypatch.setenv("ISOLANE_ALLOWED_ORIGINS", f"{held},capacitor://localhost")
    kept = ("https://app.example", "https://xn--bcher-kva.example", "http://[::1]:3000")
    assert load_settings({}).allowed_origins == (*kept, "capacitor://localhost")


def test_origins_of_a_file_are_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "isolane.toml"
    file.write_text('allowed_origins = ["https://A.example"]')
    assert load_settings({}, config=file).allowed_origins == ("https://a.example",)
    file.write_text('allowed_origins = ["https://a.example/chat"]')
    with pytest.raises(InvalidSettings, match="ISOLANE_ALLOWED_ORIGINS"):
        load_settings({}, config=file)


@pytest.mark.parametrize(
    "given, kept",
    [
        ("https://example.org", "https://example.org"),
        ("HTTPS://Example.Org:443/", "https://example.org"),
        ("http://example.org:8080/chat/", "http://example.org:8080/chat"),
        ("https://[2001:DB8::1]:8443/a/b", "https://[2001:db8::1]:8443/a/b"),
        ("https://b\u00fccher.example/caf\u00e9", "https://xn--bcher-kva.example/caf%C3%A9"),
        ("https://example.org/a%20b", "https://example.org/a%20b"),
    ],
)
def test_public_url_is_kept_as_browsers_write_it(
    given: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOLANE_PUBLIC_URL", given)
    assert load_settings({}).public_url == kept


@pytest.mark.parametrize(
    "held, policy",
    [
        ("", "frame-ancestors 'none'"),
        ("self", "frame-ancestors 'self'"),
        (
            "https://a.example:8443, https://*.b.example,http://127.0.0.1:*",
            "frame-ancestors https://a.example:8443 https://*.b.example http://127.0.0.1:*",
        ),
    ],
)
def test_pages_that_may_frame_the_page_are_named(
    held: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOLANE_FRAME_ANCESTORS", held)
    assert load_settings({}).frame_policy == policy


@pytest.mark.parametrize("name", ["PROVIDER_CA_FILE", "PROVIDER_PROXY"])
def test_empty_way_to_providers_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ISOLANE_{name}", "")
    assert getattr(load_settings({}), name.lower()) is None


def test_empty_public_url_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLANE_PUBLIC_URL", "")
    assert load_settings({}).public_url is None


def test_password_in_the_public_url_is_refused_and_not_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ISOLANE_PUBLIC_URL", f"https://ada:{SECRET}@example.org")
    with pytest.raises(InvalidSettings, match="no user name and no password") as caught:
        load_settings({})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "given, kept",
    [
        ("", ()),
        ("10.0.0.0/8, ::1,192.0.2.7 ", ("10.0.0.0/8", "::1", "192.0.2.7")),
        ("*", ("*",)),
    ],
)
def test_trusted_proxies_stand_with_commas_between_them(
    given: str, kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings({}).trusted_proxies == ("127.0.0.0/8", "::1")
    monkeypatch.setenv("ISOLANE_TRUSTED_PROXIES", given)
    assert load_settings({}).trusted_proxies == kept


def test_trusted_proxies_of_a_file_are_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "isolane.toml"
    file.write_text('trusted_proxies = ["10.0.0.0/8"]')
    assert load_settings({}, config=file).trusted_proxies == ("10.0.0.0/8",)
    file.write_text('trusted_proxies = ["nginx"]')
    with pytest.raises(InvalidSettings, match="ISOLANE_TRUSTED_PROXIES"):
        load_settings({}, config=file)


def test_settings_never_change() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.heartbeat_s = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "name, held, allowed",
    [
        ("HEARTBEAT_S", "soon", "number"),
        ("HEARTBEAT_S", "0", "greater than 0"),
        ("HEARTBEAT_S", "nan", "finite number|greater than 0"),
        ("HEARTBEAT_S", "3601", "less than or equal to 3600"),
        ("SEND_TIMEOUT_S", "-1", "greater than 0"),
        ("RUN_TIMEOUT_S", "0", "greater than 0"),
        ("RUN_TIMEOUT_S", "inf", "finite"),
        ("DRAIN_TIMEOUT_S", "-1", "greater than or equal to 0"),
        ("DRAIN_TIMEOUT_S", "inf", "finite"),
        ("LOG_RETENTION_S", "0", "greater than 0"),
        ("LOG_RETENTION_S", "inf", "finite"),
        ("REQUEST_THREADS_KEPT_S", "-1", "greater than or equal to 0"),
        ("LOG_MAX_EVENTS", "0", "greater than or equal to 1"),
        ("LIMIT_CONNECTIONS_PER_USER", "0", "greater than or equal to 1"),
        ("LIMIT_THREADS_PER_USER", "1.5", "integer"),
        ("LIMIT_RUNS_PER_USER", "many", "integer"),
        ("LIMIT_QUEUED_RUNS_PER_THREAD", "-1", "greater than or equal to 0"),
        ("LIMIT_FRAMES_PER_MINUTE", "0", "greater than or equal to 1"),
        ("LIMIT_FRAME_BYTES", "1023", "greater than or equal to 1024"),
        ("LIMIT_EVENT_BYTES", "", "integer"),
        ("POLICY", "drop", "queue|reject|interrupt"),
        ("ON_DISCONNECT", "abort", "continue.*stop"),
        ("SESSION_IDLE_S", "0", "greater than 0"),
        ("SESSION_IDLE_S", "inf", "finite"),
        ("SESSION_MAX_S", "-1", "greater than 0"),
        ("SESSION_MAX_S", "nan", "finite number|greater than 0"),
        ("REVOKED_RUNS", "stop", "continue.*abort"),
        ("ALLOWED_ORIGINS", "https://a.example/path", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "*", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "null", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "https://*.a.example", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "//a.example", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "file://", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "https://a b.example", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "https://a.example#b", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "https://a.example:99999", "origins like https://example.org"),
        ("CLOCK_LEEWAY_S", "-1", "greater than or equal to 0"),
        ("CLOCK_LEEWAY_S", "nan", "finite number|greater than or equal"),
        ("COOKIE_NAME", "a b", "pattern"),
        ("COOKIE_NAME", "a;Path=/", "pattern"),
        ("COOKIE_NAME", "", "pattern"),
        ("FRAME_ANCESTORS", "*", "origins like https://example.org"),
        ("FRAME_ANCESTORS", "https://a.example/chat", "origins like https://example.org"),
        ("FRAME_ANCESTORS", "https://a.example; script-src *", "origins like"),
        ("FRAME_ANCESTORS", "self, 'none'", "origins like https://example.org"),
        ("PROVIDER_CA_FILE", "/nowhere.pem", "certificates in PEM"),
        ("PROVIDER_CA_FILE", "/dev/null", "certificates in PEM"),
        ("PUBLIC_URL", "/chat", "http:// or https://"),
        ("PUBLIC_URL", "example.org/chat", "http:// or https://"),
        ("PUBLIC_URL", "wss://example.org", "http:// or https://"),
        ("PUBLIC_URL", "https:///chat", "name a host"),
        ("PUBLIC_URL", "https://exa mple.org", "no blanks"),
        ("PUBLIC_URL", "https://example.org/chat?", "no query"),
        ("PUBLIC_URL", "https://example.org/#chat", "no fragment"),
        ("PUBLIC_URL", "https://example.org:port", "[Pp]ort"),
        ("PUBLIC_URL", "https://example.org:99999", "[Pp]ort"),
        ("PUBLIC_URL", "https://example.org/a/../b", "dotted"),
        ("PUBLIC_URL", "https://example.org//a", "empty"),
        ("PUBLIC_URL", "https://exam;ple.org", "browser"),
        ("TRUSTED_PROXIES", "nginx", "addresses or networks"),
        ("TRUSTED_PROXIES", "127.0.0.1,localhost", "localhost"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "host bits"),
        ("TRUSTED_PROXIES", "10.0.0.1:80", "addresses or networks"),
    ],
)
def test_a_wrong_value_is_told_in_one_sentence(
    name: str, held: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ISOLANE_{name}", held)
    with pytest.raises(InvalidSettings) as caught:
        load_settings({})
    sentence = str(caught.value)
    assert f"ISOLANE_{name}" in sentence
    assert repr(held) in sentence
    assert re.search(allowed, sentence)
    assert "\n" not in sentence
    assert "pydantic" not in sentence


@pytest.mark.parametrize(
    "name, held",
    [
        ("SECRET_KEY", SECRET),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@db/x"),
        ("PROVIDER_PROXY", f"socks5://user:{SECRET}@proxy.example:1080"),
        ("PROVIDER_PROXY", f"http://user:{SECRET}@proxy.example:port"),
        ("PROVIDER_PROXY", f"proxy.example/{SECRET}"),
    ],
)
def test_a_wrong_secret_is_named_but_never_printed(
    name: str, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ISOLANE_{name}", held)
    with pytest.raises(InvalidSettings) as caught:
        load_settings({})
    assert f"ISOLANE_{name}" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["secret_key", "metrics_token", "provider_proxy", "database_url"])
def test_a_secret_of_the_wrong_type_is_not_printed_either(name: str, tmp_path: Path) -> None:
    config = tmp_path / "isolane.toml"
    config.write_text(f'{name} = ["{SECRET}"]\n')
    with pytest.raises(InvalidSettings) as caught:
        load_settings({}, config=config)
    assert f"ISOLANE_{name.upper()}" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_printing_the_settings_prints_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLANE_SECRET_KEY", SECRET * 2)
    monkeypatch.setenv("ISOLANE_METRICS_TOKEN", SECRET)
    settings = load_settings({})
    assert settings.metrics_token is not None
    assert SECRET not in f"{settings!r} {settings}"


def test_a_key_of_32_bytes_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLANE_SECRET_KEY", "ä" * 16)
    assert load_settings({}).secret_key is not None


@pytest.mark.parametrize("text", ["issuer = ", "[[[", "issuer = 5"])
def test_a_file_that_is_wrong_is_told_too(text: str, tmp_path: Path) -> None:
    config = tmp_path / "isolane.toml"
    config.write_text(text)
    with pytest.raises(InvalidSettings):
        load_settings({}, config=config)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nowhere\.toml, which is no file"):
        load_settings({}, config=tmp_path / "nowhere.toml")


# --- providers ------------------------------------------------------------------------------------


def set_providers(monkeypatch: pytest.MonkeyPatch, *providers: dict[str, Any]) -> None:
    monkeypatch.setenv("ISOLANE_PROVIDERS", json.dumps(providers))


def test_providers_stand_in_the_file_or_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "isolane.toml"
    tables = [
        "[[providers]]\n" + "".join(f'{name} = "{value}"\n' for name, value in each.items())
        for each in (CORP, CLUB)
    ]
    config.write_text("\n".join(tables))
    from_file = load_settings({}, config=config).providers
    assert from_file == (ProviderSettings(**CORP), ProviderSettings(**CLUB))
    set_providers(monkeypatch, CORP, CLUB)
    assert load_settings({}).providers == from_file


def test_of_a_provider_name_and_issuer_are_enough() -> None:
    only = ProviderSettings(name="corp", issuer="https://id.example.org")
    assert (only.audience, only.jwks_url, only.client_id, only.client_secret) == (None,) * 4
    assert only.label == ""
    assert set(only.scopes) == {"threads:read", "runs:write"}


@pytest.mark.parametrize(
    "field, held",
    [
        *(("name", name) for name in ("", "Corp", "a|b", "a b", "-a", "a" * 33, "\u00e4", 5, None)),
        *(
            (field, address)
            for field in ("issuer", "jwks_url")
            for address in (
                *("", "id.example.org", "http://id.example.org", "ftp://id.example.org"),
                *("https://", "https://[", "file:///etc/passwd", "http://127.0.0.1.evil.example"),
                *("http://localhost@evil.example", "http://169.254.169.254/keys", 5),
            )
        ),
        ("audience", ["isolane"]),
        ("client_id", 5),
        ("scopes", ["openid"]),
        ("scopes", "admin"),
        ("colour", "green"),
    ],
)
def test_wrong_field_of_a_provider_is_named(
    field: str, held: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_providers(monkeypatch, {**CORP, "client_secret": SECRET, field: held})
    with pytest.raises(InvalidSettings) as caught:
        load_settings({})
    sentence = str(caught.value)
    assert "ISOLANE_PROVIDERS" in sentence
    assert field in sentence
    assert SECRET not in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "address",
    [
        "https://id.example.org/realms/x",
        "http://localhost:8080",
        "http://127.0.0.1",
        "http://[::1]",
    ],
)
def test_addresses_are_safe_by_https_or_of_this_machine(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_providers(monkeypatch, {**CORP, "issuer": address, "jwks_url": address})
    (found,) = load_settings({}).providers
    assert (found.issuer, found.jwks_url) == (address, address)


@pytest.mark.parametrize("what", ["name", "issuer"])
def test_two_providers_share_neither_name_nor_issuer(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_providers(monkeypatch, CORP, {**CLUB, what: CORP[what]})
    with pytest.raises(InvalidSettings, match=f"ISOLANE_PROVIDERS .* its own {what}"):
        load_settings({})


def test_secret_of_a_provider_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_providers(monkeypatch, {**CORP, "client_id": "isolane", "client_secret": SECRET})
    settings = load_settings({})
    assert SECRET not in f"{settings!r} {settings} {settings.providers!r}"
    for text in (f'[{{"client_secret": "{SECRET}"', f'"{SECRET}"', f'{{"x": "{SECRET}"}}'):
        monkeypatch.setenv("ISOLANE_PROVIDERS", text)
        with pytest.raises(InvalidSettings) as caught:
            load_settings({})
        assert SECRET not in str(caught.value)


def test_a_thread_keeps_at_least_what_one_run_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLANE_LIMIT_RUN_EVENTS", "300000")
    assert load_settings({}).log_max_events == 300_000
    monkeypatch.setenv("ISOLANE_LOG_MAX_EVENTS", "299999")
    with pytest.raises(InvalidSettings) as refused:
        load_settings({})
    assert str(refused.value) == (
        "ISOLANE_LOG_MAX_EVENTS can't be used: it holds 299999, and must not be below "
        "ISOLANE_LIMIT_RUN_EVENTS, which is 300000."
    )
