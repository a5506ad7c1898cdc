"""Names of settings that nobody knows: a typo stops the start, anything else is one warning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isolane.app import mount
from isolane.settings import InvalidSettings, Settings, load_settings
from isolane.settings.spelling import warn_of_unknown

OF_A_SERVICE = {
    "ISOLANE_SERVICE_HOST": "10.0.0.7",
    "ISOLANE_SERVICE_PORT": "8000",
    "ISOLANE_SERVICE_PORT_HTTP": "8000",
    "ISOLANE_PORT": "tcp://10.0.0.7:8000",
    "ISOLANE_PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "ISOLANE_PORT_8000_TCP_PROTO": "tcp",
    "ISOLANE_PORT_8000_TCP_PORT": "8000",
    "ISOLANE_PORT_8000_TCP_ADDR": "10.0.0.7",
}
OF_SERVICES = {
    name.replace("ISOLANE_", f"ISOLANE_{service}"): value
    for service in ("", "DATA_", "PUBLIC_", "DATABASE_", "SECRET_KEY_", "POLICY_")
    for name, value in OF_A_SERVICE.items()
}


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("ISOLANE"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("ISOLANE_HARTBEAT_S", "ISOLANE_HEARTBEAT_S"),
        ("ISOLANE_HEARTBEAT", "ISOLANE_HEARTBEAT_S"),
        ("ISOLANE_LOGLEVEL", "ISOLANE_LOG_LEVEL"),
        ("ISOLANE_LOG-LEVEL", "ISOLANE_LOG_LEVEL"),
        ("isolane_polcy", "ISOLANE_POLICY"),
        ("ISOLANE_DATE", "ISOLANE_DATA"),
        ("ISOLANE_SECRET", "ISOLANE_SECRET_KEY"),
        ("ISOLANE_ISOLANE_DATA", "ISOLANE_DATA"),
        ("ISOLANE_SEND_TIMEOUT_MS", "ISOLANE_SEND_TIMEOUT_S"),
        ("ISOLANE_MODLE", "ISOLANE_MODEL"),
        ("ISOLANE_JWKS_URL", "ISOLANE_PROVIDERS"),
    ],
)
def test_typo_in_a_variable_stops_the_start_with_the_name_that_was_meant(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "secret-value")
    with pytest.raises(InvalidSettings) as caught:
        load_settings({})
    assert str(caught.value) == f"{name} is no setting: write {meant}, or unset it."


@pytest.mark.parametrize("name", ["HOST", "PORT", "VERSION", "IMAGE", "USER", "DATA_DIR", "colour"])
def test_unknown_variable_that_is_no_typo_is_a_warning(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ISOLANE_{name}", "secret-value")
    assert_one_warning([f"ISOLANE_{name}"])


def test_variables_of_a_kubernetes_service_are_one_warning_and_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in OF_SERVICES.items():
        monkeypatch.setenv(name, value)
    assert_one_warning(sorted(OF_SERVICES))


def assert_one_warning(names: list[str]) -> None:
    assert load_settings({}) == Settings()
    with capture_logs() as logs:
        warn_of_unknown(os.environ, Settings.model_fields)
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("settings_unknown", "warning")
    assert entry["names"] == names
    assert "secret-value" not in str(entry)


@pytest.mark.parametrize(
    "name",
    [
        *("ISOLANE_MODEL", "ISOLANE_SOAK_S", "ISOLANE_SOAK_SEED", "ISOLANE_LANES_STEPS"),
        *("ISOLANE_FUZZ_SEED", "ISOLANE_TEST_GATES", "ISOLANE_PYTHON", "isolane_policy"),
        *("ISOLANE_COMPRESSION", "ISOLAN_DATE", "PATH"),
    ],
)
def test_variable_that_somebody_reads_is_no_unknown_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "queue" if "policy" in name else "1")
    load_settings({})
    with capture_logs() as logs:
        warn_of_unknown(os.environ, Settings.model_fields)
    assert logs == []


@pytest.mark.parametrize(
    "text, told",
    [
        ("hartbeat_s = 1", "hartbeat_s, which is no setting: write heartbeat_s."),
        ("Heartbeat_S = 1", "Heartbeat_S, which is no setting: write heartbeat_s."),
        ("ISOLANE_HEARTBEAT_S = 1", "ISOLANE_HEARTBEAT_S, which is no setting: write heartbeat_s."),
        ("heartbeat-s = 1", "heartbeat-s, which is no setting: write heartbeat_s."),
        ("secretkey = 'hidden'", "secretkey, which is no setting: write secret_key."),
        ("[provider]\nname = 'x'", "provider, which is no setting: write providers."),
        (
            "jwks_url = 'x'",
            "jwks_url, which is no setting: it is a field of each of the providers.",
        ),
        ("port = 1", "port, which is no setting: it is the option --port."),
        ("model = 'x'", "model, which is no setting: it is the variable ISOLANE_MODEL."),
        ("xyzzy = 1", "xyzzy, which is no setting: the names are agent_threads, ai_replay_s"),
    ],
)
def test_unknown_name_in_the_file_stops_the_start_with_the_nearest(
    text: str, told: str, tmp_path: Path
) -> None:
    config = tmp_path / "isolane.toml"
    config.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        load_settings({}, config=config)
    assert str(caught.value).startswith(f"{config} has {told}")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "name, meant",
    [("isuer", "issuer"), ("Issuer", "issuer"), ("client-secret", "client_secret")],
)
def test_unknown_name_of_a_provider_is_told_with_the_nearest(
    name: str, meant: str, tmp_path: Path
) -> None:
    config = tmp_path / "isolane.toml"
    config.write_text(f"[[providers]]\nname = 'corp'\n{name} = 'hidden'\n")
    with pytest.raises(InvalidSettings) as caught:
        load_settings({}, config=config)
    assert str(caught.value).endswith(f"(0.{name}): {name} is unknown, write {meant}.")
    assert "hidden" not in str(caught.value)


def test_mount_reads_the_environment_only_when_it_reads_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fastapi import FastAPI  # noqa: PLC0415 - the host's own

    monkeypatch.setenv("ISOLANE_COLOUR", "green")
    with capture_logs() as logs:
        mount(FastAPI(), "/agent", {}, Settings(data=tmp_path))
        assert logs == []
        mount(FastAPI(), "/agent", {})
    assert [entry["event"] for entry in logs] == ["settings_unknown"]
    monkeypatch.setenv("ISOLANE_POLICI", "queue")
    with pytest.raises(InvalidSettings, match="write ISOLANE_POLICY"):
        mount(FastAPI(), "/agent", {})
