"""The command line: `isolane serve`, `token`, `user`, `renumber` and `check`."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from isolane.agents.loading import load_agents
from isolane.app import create_app, make_issuer, renumber_logs
from isolane.auth.accounts import Accounts
from isolane.auth.keyring import KeyFile
from isolane.clock import now_ms
from isolane.contracts import PLAIN, Identity, Scope
from isolane.database import hold_place, open_database
from isolane.doors.gateway import Gateway
from isolane.doors.sessions import SIGN_IN_PATH
from isolane.errors import AgentRefused, InvalidContext, InvalidInput, IsolaneError, PlaceTaken
from isolane.logs import configure_logs
from isolane.server import serve as serve_app
from isolane.settings import KEY_NAME, InvalidSettings, Settings, load_settings

GUIDE: Final = "isolane.agents.guide:agent"
DEMO_USERS: Final = ("alice", "bob")

T = TypeVar("T")

_data = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of what is kept. [./isolane-data]"
)
_scopes = click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([str(scope) for scope in Scope]),
    help=f"What it may do; several may stand. [{' '.join(sorted(PLAIN))}]",
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
@click.option(
    "--agent-threads",
    type=click.IntRange(0, 64),
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="Run agents on N event loops of their own (1 without a number), not on the gateway's.",
)
@click.option("--demo", is_flag=True, help="Two accounts, a sign-in link for each; loopback only.")
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json")
@_data
@_config
def serve(
    *,
    host: str,
    port: int,
    agents: tuple[str, ...],
    agent_threads: int | None,
    demo: bool,
    log_format: str,
    data: Path | None,
    config: Path | None,
) -> None:
    """Serve the gateway."""
    settings = _settings({"data": data, "agent_threads": agent_threads}, config)
    if demo and not is_loopback(host):
        raise click.UsageError(f"--demo gives sign-in links away: loopback only, not {host}")
    configure_logs(log_format, settings.log_level)
    try:
        make_issuer(settings)  # for one sentence now, when its key can't be had
        app = create_app(settings, load_agents(agents or (GUIDE,)))
        with hold_place(settings.sqlalchemy_url):
            pass  # only asked, for one sentence now: the gateway takes it when it opens
    except (AgentRefused, InvalidSettings, OSError, PlaceTaken) as error:
        raise click.ClickException(str(error)) from error
    greet = print_links if demo else None
    serve_app(app, settings, host=host, port=port, greet=greet)


async def print_links(gateway: Gateway, address: str) -> None:
    """Make the demo's accounts and print a one-time sign-in link for each."""
    known = {account.user_id for account in await gateway.accounts.load_all()}
    for user_id in DEMO_USERS:
        if user_id not in known:
            await gateway.accounts.add(user_id, secrets.token_urlsafe(24))
        ticket = gateway.links.issue(Identity(user_id, None))
        click.echo(f"{user_id}: {address}{SIGN_IN_PATH}?code={ticket.secret}")


@main.group()
def user() -> None:
    """Local accounts."""


@user.command("add")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@_scopes
@_data
@_config
def add_user(
    *,
    name: str,
    password_stdin: bool,
    scopes: tuple[str, ...],
    data: Path | None,
    config: Path | None,
) -> None:
    """Make an account; the password comes from a prompt or from standard input."""
    if password_stdin:
        password = sys.stdin.read().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    chosen = scopes or PLAIN
    _with_accounts(data, config, lambda accounts: accounts.add(name, password, scopes=chosen))


@user.command("list")
@_data
@_config
def list_users(*, data: Path | None, config: Path | None) -> None:
    """List the accounts."""
    for account in _with_accounts(data, config, lambda accounts: accounts.load_all()):
        click.echo(account.user_id)


@user.command("remove")
@click.argument("name")
@_data
@_config
def remove_user(*, name: str, data: Path | None, config: Path | None) -> None:
    """Remove an account, and end what was issued to its user: sessions, tokens, sockets."""
    _with_accounts(data, config, lambda accounts: accounts.remove(name))


@user.command("allow")
@click.argument("name")
@_scopes
@_data
@_config
def allow_user(
    *, name: str, scopes: tuple[str, ...], data: Path | None, config: Path | None
) -> None:
    """Say what an account may do, and no more; sockets that may do more are closed."""
    chosen = scopes or PLAIN
    _with_accounts(data, config, lambda accounts: accounts.set_scopes(name, chosen))


@user.command("sign-out")
@click.argument("name")
@_data
@_config
def sign_user_out(*, name: str, data: Path | None, config: Path | None) -> None:
    """Sign a user out everywhere, whoever vouches for them; they may sign in again."""
    _with_accounts(data, config, lambda accounts: accounts.sign_out(name))


def _with_accounts(
    data: Path | None, config: Path | None, act: Callable[[Accounts], Awaitable[T]]
) -> T:
    """Do one thing with the accounts of the data folder."""
    settings = _settings({"data": data}, config)

    async def run() -> T:
        database = await open_database(settings.sqlalchemy_url)
        accounts = Accounts(database, clock=now_ms)
        try:
            return await act(accounts)
        finally:
            accounts.close()
            await database.close()

    try:
        return asyncio.run(run())
    except IsolaneError as error:
        raise click.ClickException(str(error)) from error


@main.group()
def key() -> None:
    """The key that signs the gateway's own tokens."""


@key.command("rotate")
@click.option("--forget", is_flag=True, help="Let go of older keys: their tokens die now.")
@_data
@_config
def rotate_key(*, forget: bool, data: Path | None, config: Path | None) -> None:
    """Sign with a new key from now on; the old one stays until its last token has died."""
    settings = _settings({"data": data}, config)
    if settings.secret_key is not None:
        raise click.ClickException(
            "ISOLANE_SECRET_KEY holds the key: change it there, which ends the tokens it signed."
        )
    KeyFile(settings.data / KEY_NAME).rotate(now_s=now_ms() // 1000, forget=forget)


@main.command()
@_data
@_config
def renumber(*, data: Path | None, config: Path | None) -> None:
    """Give every log new numbers, after a backup was put back: no old id matches them.

    Clients that come back with an old id are told that there is a gap, and get the messages.
    """
    settings = _settings({"data": data}, config)
    try:
        count = asyncio.run(renumber_logs(settings))
    except IsolaneError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"threads with new numbers: {count}")


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
    settings = _settings({"data": data}, config)
    try:
        issuer = make_issuer(settings)
        click.echo(issuer.issue(user, expires_s=expires, scopes=" ".join(scopes).split()))
    except InvalidContext as error:
        raise click.BadParameter(str(error), param_hint="--user") from error
    except InvalidInput as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:  # the file also keeps how long its key is needed
        raise click.ClickException(f"the key file can't be written: {error}") from error


@main.command("check")
@click.argument("url")
@click.option("--token", "tokens", multiple=True, required=True, help="One user's; two at most.")
@click.option("--metrics-token", help="What /metrics wants, if it wants one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Rounds.")
def check_deployment(
    *, url: str, tokens: tuple[str, ...], metrics_token: str | None, as_json: bool, repeat: int
) -> None:
    """Try the deployment at URL, layer by layer, and say what holds and what doesn't.

    It takes a token with the scope `check`; a second one, of another user, tries isolation too.
    """
    from isolane.check.command import check  # noqa: PLC0415 - the server needs none of it

    sys.exit(check(url, tokens, metrics_token, as_json=as_json, repeat=repeat))


def is_loopback(host: str) -> bool:
    """Say whether `host` is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _settings(options: dict[str, Any], config: Path | None) -> Settings:
    try:
        return load_settings(options, config=config)
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
