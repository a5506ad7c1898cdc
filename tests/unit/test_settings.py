"""Settings: options win over the environment, that over the file; what is wrong is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isolane.settings import InvalidSettings, Settings, load_settings

SECRET = "short-secret-0123"


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
        "frameBytes": 1 << 20,
        "eventBytes": 1 << 20,
        "sendTimeoutMs": 20_000,
    }
    assert settings.heartbeat_ms == 20_000
    assert (settings.run_timeout_s, settings.drain_timeout_s) == (600, 30)
    assert (settings.log_retention_s, settings.log_max_events) == (86_400, 20_000)
    assert settings.sqlalchemy_url == "sqlite:///isolane-data/isolane.db"


@pytest.mark.parametrize(
    "limit",
    ["connectionsPerUser", "threadsPerUser", "runsPerUser", "queuedRunsPerThread",
     "framesPerMinute", "frameBytes", "eventBytes"],
)  # fmt: skip
def test_each_limit_is_set_by_its_own_name(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upper_snake = re.sub(r"([A-Z])", r"_\1", limit).upper()
    monkeypatch.setenv(f"ISOLANE_LIMIT_{upper_snake}", "2048")
    assert load_settings({}).published_limits[limit] == 2048


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
        ("LOG_MAX_EVENTS", "0", "greater than or equal to 1"),
        ("LIMIT_CONNECTIONS_PER_USER", "0", "greater than or equal to 1"),
        ("LIMIT_THREADS_PER_USER", "1.5", "integer"),
        ("LIMIT_RUNS_PER_USER", "many", "integer"),
        ("LIMIT_QUEUED_RUNS_PER_THREAD", "-1", "greater than or equal to 0"),
        ("LIMIT_FRAMES_PER_MINUTE", "0", "greater than or equal to 1"),
        ("LIMIT_FRAME_BYTES", "1023", "greater than or equal to 1024"),
        ("LIMIT_EVENT_BYTES", "", "integer"),
        ("POLICY", "drop", "queue|reject|interrupt"),
        ("ALLOWED_ORIGINS", "https://a.example/path", "origins like https://example.org"),
        ("ALLOWED_ORIGINS", "*", "origins like https://example.org"),
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
    [("SECRET_KEY", SECRET), ("DATABASE_URL", f"postgresql://user:{SECRET}@db/x")],
)
def test_a_wrong_secret_is_named_but_never_printed(
    name: str, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ISOLANE_{name}", held)
    with pytest.raises(InvalidSettings) as caught:
        load_settings({})
    assert f"ISOLANE_{name}" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["secret_key", "metrics_token", "database_url"])
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
