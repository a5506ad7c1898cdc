"""The command line: `isolane serve`, `isolane token`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isolane.agents.loading import load_agents
from isolane.app import create_app, make_issuer
from isolane.errors import AgentRefused, InvalidContext
from isolane.logs import configure_logs
from isolane.server import serve as serve_app
from isolane.settings import InvalidSettings, Settings, load_settings

_data = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of what is kept. [./isolane-data]"
)
_config = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with settings, lower-case names."
)


@click.group()
@click.version_option(package_name="isolane")
def main() -> None:
    """Isolane: every signed-in user's own lane to an AI agent."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="[NAME=]MODULE:ATTRIBUTE",
    help="An agent to serve; several are served by name, the first is the default.",
)
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json")
@_data
@_config
def serve(
    *,
    host: str,
    port: int,
    agents: tuple[str, ...],
    log_format: str,
    data: Path | None,
    config: Path | None,
) -> None:
    """Serve the gateway."""
    settings = _settings({"data": data}, config)
    if not agents:
        raise click.UsageError("name an agent to serve: --agent module:attribute")
    configure_logs(log_format)
    try:
        app = create_app(settings, load_agents(agents))
    except AgentRefused as error:
        raise click.ClickException(str(error)) from error
    serve_app(app, settings, host=host, port=port)


@main.command()
@click.option("--user", required=True, metavar="NAME", help="Whom the token speaks for.")
@click.option("--expires", default=3600, show_default=True, help="Seconds; negative is expired.")
@click.option("--scope", "scopes", multiple=True)
@_data
@_config
def token(
    *, user: str, expires: int, scopes: tuple[str, ...], data: Path | None, config: Path | None
) -> None:
    """Print a token of the local issuer."""
    issuer = make_issuer(_settings({"data": data}, config))
    try:
        click.echo(issuer.issue(user, expires_s=expires, scopes=" ".join(scopes).split()))
    except InvalidContext as error:
        raise click.BadParameter(str(error), param_hint="--user") from error


def _settings(options: dict[str, Any], config: Path | None) -> Settings:
    try:
        return load_settings(options, config=config)
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
