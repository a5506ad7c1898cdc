"""The command line: `isolane serve`, `work`, `nodes`, `token`, `user`, `usage` and `check`."""

# Long because: each command is a function of its own, and click wants its options above it.

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click
import structlog

from isolane import databases
from isolane.agents.loading import load_checked_agents
from isolane.app import create_app, make_issuer
from isolane.auth.accounts import Accounts
from isolane.clock import now_ms
from isolane.contracts import PLAIN, NodeRole, Scope
from isolane.demo import is_loopback, print_links
from isolane.engines.file.signing_keys import FileSigningKeys
from isolane.errors import AgentRefused, InvalidContext, InvalidInput, IsolaneError
from isolane.logs import configure_logs
from isolane.server import Greet, StartFailed
from isolane.server import serve as serve_app
from isolane.serving.listening import CannotListen
from isolane.settings import KEY_NAME, InvalidSettings, Settings, load_settings
from isolane.settings.spelling import warn_of_unknown
from isolane.sql.database import Database
from isolane.sql.nodes_report import to_nodes_json, to_nodes_table
from isolane.sql.schema import VERSION as SCHEMA_VERSION
from isolane.sql.usage_report import NothingToReport
from isolane.wiring import renumber_logs

GUIDE: Final = "isolane.agents.guide:agent"

LOG_LEVELS: Final = get_args(Settings.model_fields["log_level"].annotation)

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Refused(click.ClickException):
    """A command line that can't be carried out, told in one sentence."""

    exit_code = 2


def _refuse_workers(_context: click.Context, _option: click.Parameter, count: int | None) -> None:
    if count is not None and count != 1:
        raise Refused(f"--workers {count}: the gateway is one process, so leave --workers out.")


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


_agents = click.option(
    "--agent",
    "agents",
    multiple=True,
    metavar="[NAME=]MODULE:ATTRIBUTE",
    help="An agent to serve; several are served by name, the first is the default.",
)
_agent_threads = click.option(
    "--agent-threads",
    type=click.IntRange(0, 64),
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="Run agents on N event loops of their own (1 without a number), not on the gateway's.",
)
_log_format = click.option("--log-format", type=click.Choice(["json", "console"]), default="json")
_log_level = click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), help="Debug tells most. [info]"
)


@click.group()
@click.version_option(package_name="isolane")
def main() -> None:
    """Isolane: every signed-in user's own lane to an AI agent."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@_agents
@_agent_threads
@click.option("--no-agents", is_flag=True, help="Serve users only: `isolane work` has the agents.")
@click.option("--demo", is_flag=True, help="Two accounts, a sign-in link for each; loopback only.")
@_log_format
@_log_level
@click.option("--workers", type=int, hidden=True, expose_value=False, callback=_refuse_workers)
@_data
@_config
def serve(
    *,
    host: str,
    port: int,
    agents: tuple[str, ...],
    agent_threads: int | None,
    no_agents: bool,
    demo: bool,
    log_format: str,
    log_level: str | None,
    data: Path | None,
    config: Path | None,
) -> None:
    """Serve the gateway."""
    options = {"data": data, "agent_threads": agent_threads, "log_level": log_level}
    settings = _settings(options, config)
    if demo and not is_loopback(host):
        raise click.UsageError(f"--demo gives sign-in links away: loopback only, not {host}")
    if no_agents and agents:
        raise click.UsageError("--no-agents and --agent can't stand together")
    if no_agents:
        _check_shared(settings, "--no-agents")
    role = NodeRole.GATEWAY if no_agents else NodeRole.ALL
    chosen = () if no_agents else agents or (GUIDE,)
    configure_logs(log_format, settings.log_level)
    _serve(settings, chosen, role, host=host, port=port, greet=print_links if demo else None)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535))
@_agents
@_agent_threads
@_log_format
@_log_level
@_data
@_config
def work(
    *,
    host: str,
    port: int,
    agents: tuple[str, ...],
    agent_threads: int | None,
    log_format: str,
    log_level: str | None,
    data: Path | None,
    config: Path | None,
) -> None:
    """Run agents for gateways that share a PostgreSQL database.

    The port answers operators only: /healthz, /readyz and /metrics.
    """
    options = {"data": data, "agent_threads": agent_threads, "log_level": log_level}
    settings = _settings(options, config)
    if not agents:
        raise click.UsageError("name the agents to run: --agent [NAME=]MODULE:ATTRIBUTE")
    _check_shared(settings, "`isolane work`")
    configure_logs(log_format, settings.log_level)
    _serve(settings, agents, NodeRole.WORKER, host=host, port=port)


def _check_shared(settings: Settings, what: str) -> None:
    """Refuse what makes sense only where several processes share a database."""
    if not databases.is_shared(settings.sqlalchemy_url):
        raise Refused(
            f"{what} needs a database that gateways and agents share: set ISOLANE_DATABASE_URL to "
            "the address of a PostgreSQL database."
        )


def _serve(
    settings: Settings,
    agents: tuple[str, ...],
    role: NodeRole,
    *,
    host: str,
    port: int,
    greet: Greet | None = None,
) -> None:
    warn_of_unknown(os.environ, Settings.model_fields)
    if port and not settings.node_id:
        settings = settings.model_copy(update={"node_id": f"{socket.gethostname()}:{port}"})
    try:
        make_issuer(settings)  # for one sentence now, when its key can't be had
        app = create_app(settings, load_checked_agents(agents), role=role)
    except (AgentRefused, InvalidSettings, OSError) as error:
        raise _refuse(error) from error
    try:
        serve_app(app, settings, host=host, port=port, greet=greet)
    except (CannotListen, StartFailed) as error:
        raise _refuse(error) from error


def _refuse(error: Exception) -> click.ClickException:
    _log.debug("start_failed", exc_info=error)
    return click.ClickException(str(error))


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

    async def run(database: Database) -> T:
        accounts = Accounts(database, clock=now_ms)
        try:
            return await act(accounts)
        finally:
            accounts.close()

    return _with_database(_settings({"data": data}, config), run)


def _with_database(settings: Settings, act: Callable[[Database], Awaitable[T]]) -> T:
    """Do one thing with the database, which is migrated if that is due."""

    async def run() -> T:
        database = await databases.open_database(settings.sqlalchemy_url)
        try:
            return await act(database)
        finally:
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
    keys = FileSigningKeys(settings.data / KEY_NAME)
    asyncio.run(keys.rotate(now_s=now_ms() // 1000, forget=forget))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_data
@_config
def nodes(*, as_json: bool, data: Path | None, config: Path | None) -> None:
    """List the processes that serve the database: role, agents, runs, last beat."""
    settings = _settings({"data": data}, config)
    found = _with_database(settings, partial(databases.load_nodes, settings.sqlalchemy_url))
    click.echo(to_nodes_json(found) if as_json else to_nodes_table(found))


@main.command()
@_data
@_config
def migrate(*, data: Path | None, config: Path | None) -> None:
    """Make the database's tables, or bring them to this version, before gateways are deployed.

    Gateways of the version before go on meanwhile.
    """
    settings = _settings({"data": data}, config)
    try:
        with databases.lock(settings.sqlalchemy_url):
            _with_database(settings, _do_nothing)
    except IsolaneError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"the database has the tables of version {SCHEMA_VERSION}")


async def _do_nothing(_database: Database) -> None:
    """Leave a database as it is that was opened, and migrated therefore."""


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
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1), help="Users to list."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_data
@_config
def usage(*, limit: int, as_json: bool, data: Path | None, config: Path | None) -> None:
    """List the users who keep most, with their threads and bytes; also while a gateway runs."""
    settings = _settings({"data": data}, config)
    try:
        report = asyncio.run(databases.read_report(settings.sqlalchemy_url, limit))
    except (NothingToReport, IsolaneError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(report.to_json() if as_json else report.to_table())


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
@click.option("--no-page", is_flag=True, help="The chat page isn't to be there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Rounds.")
def check_deployment(
    *,
    url: str,
    tokens: tuple[str, ...],
    metrics_token: str | None,
    no_page: bool,
    as_json: bool,
    repeat: int,
) -> None:
    """Try the deployment at URL, layer by layer, and say what holds and what doesn't.

    It takes a token with the scope `check`; a second one, of another user, tries isolation too.
    """
    from isolane.check.command import check  # noqa: PLC0415 - the server needs none of it

    shape = {"as_json": as_json, "has_page": not no_page}
    sys.exit(check(url, tokens, metrics_token, repeat=repeat, **shape))


def _settings(options: dict[str, Any], config: Path | None) -> Settings:
    try:
        return load_settings(options, config=config)
    except InvalidSettings as error:
        raise click.ClickException(str(error)) from error
