"""What `isolane serve --demo` adds: two accounts, and a sign-in link for each."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Final

import click

from isolane.contracts import Identity
from isolane.doors.gateway import Gateway
from isolane.doors.outside import SIGN_IN_PATH

DEMO_USERS: Final = ("alice", "bob")


async def print_links(gateway: Gateway, address: str) -> None:
    """Make the demo's accounts and print a one-time sign-in link for each."""
    address = gateway.settings.public_url or address
    known = {account.user_id for account in await gateway.sign_in.accounts.load_all()}
    for user_id in DEMO_USERS:
        if user_id not in known:
            await gateway.sign_in.accounts.add(user_id, secrets.token_urlsafe(24))
        ticket = await gateway.sign_in.links.issue(Identity(user_id, None))
        click.echo(f"{user_id}: {address}{SIGN_IN_PATH}?code={ticket.secret}")


def is_loopback(host: str) -> bool:
    """Say whether `host` is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
