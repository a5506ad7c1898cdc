"""The search for secrets in what servers write finds them; every other test relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from tests.live.build import Mistake, build_with
from tests.live.people import new_person
from tests.live.server import Server, running_server
from tests.live.stage import SCRIPT, SECRET_KEY, mint
from tests.live.untold import find_leaks, note

from isolane.testing.servers import running

WORDS: Final = "what nobody but ada should ever read"
SLIP: Final = 'import structlog; structlog.get_logger("isolane.slip").debug'


def slip(file: str, line: str, kind: str, value: str) -> Mistake:
    """Return the mistake of a line that was added to find an error, and stayed."""
    indent = line[: len(line) - len(line.lstrip())]
    added = f'{line}\n{indent}{SLIP}("slip: {kind}", value={value})'
    return Mistake(file, f"{line}\n", f"{added}\n")


SLIPS: Final = {
    "token": slip("doors/websocket.py", "    handshake.check_offer()", "token", "handshake.token"),
    "ticket": slip(
        "doors/websocket.py",
        '        origins = get_headers(scope, b"origin")',
        "ticket",
        "handshake.ticket",
    ),
    "cookie": slip(
        "doors/credentials.py",
        "    check_origin(settings, scope, is_needed=is_write)",
        "cookie",
        'scope["headers"]',
    ),
    "password": slip("doors/sessions.py", "    credentials.check_own_users()", "password", "given"),
    "what a user says": slip(
        "doors/conversation.py",
        "        run_input = to_run_input(frame, left_out)",
        "what a user says",
        "run_input",
    ),
}


async def test_server_that_tells_a_secret_fails_whatever_the_test_looked_at(tmp_path: Path) -> None:
    env = {"ISOLANE_SECRET_KEY": SECRET_KEY, **build_with(tmp_path / "build", *SLIPS.values())}
    with pytest.raises(AssertionError, match="the server told what nobody may") as caught:
        await entrust_secrets(tmp_path / "data", env)
    found = {kind for kind in SLIPS if f"slip: {kind}" in str(caught.value)}
    assert found == SLIPS.keys()


async def entrust_secrets(data: Path, env: Mapping[str, str]) -> None:
    """Start a server, give it one secret of each kind, and stop it."""
    async with running_server(data, SCRIPT, env=env) as server:
        person = await new_person(server)
        async with person.lane.connect() as client:
            await client.run("t", "r-1", WORDS)
            await client.until_end("r-1")
        async with person.sign_in() as browser:
            ticket = await browser.buy_ticket()
            async with browser.redeem(ticket):
                pass


UNFORESEEN: Final = Mistake(
    "auth/judge.py",
    "        found = await self._ask(token)\n",
    '        found: object = f"somebody by {len(token)} letters"\n',
)


async def test_log_for_people_tells_no_secret_with_a_traceback(tmp_path: Path) -> None:
    env = build_with(tmp_path / "build", UNFORESEEN)
    server = Server(tmp_path / "data", (SCRIPT,), env, ("--log-format", "console"), is_planted=True)
    async with running(server), server.http(mint("ada")) as http:
        assert (await http.get("/api/me")).status_code == 500
    assert [line for line in server.lines if "ContractError" in line]
    assert find_leaks(server.lines) == []


@pytest.mark.parametrize(
    "line",
    [
        f'{{"reason":"no user is called {WORDS[:30]}"}}',
        f"bearer {mint('ada')} was refused",
        f"claims {mint('ada').split('.')[1]}",
        f"signature {mint('ada').rpartition('.')[2][:25]}…",
        "a token that nobody noted: eyJhbGciOiJub25lIn0.eyJzdWIiOiJldmUifQ.",
        '{"text":"she said \\"so long\\" to them"}',
    ],
    ids=["words", "token", "claims", "signature", "unknown token", "escaped"],
)
def test_secret_is_found_cut_off_taken_apart_and_escaped(line: str) -> None:
    note(WORDS)
    note('she said "so long" to them')
    assert find_leaks(["before", line, "behind"]) == [line]


@pytest.mark.parametrize(
    "line",
    ['{"event":"connected","user_id":"ada","agent":"script"}', "xxxxxxxxxxxxxxxxxxxxxxxxxx", ""],
)
def test_what_is_no_secret_is_let_stand(line: str) -> None:
    for short_or_dull in ("ada", "connected", "x" * 5000, ""):
        note(short_or_dull)
    assert find_leaks([line]) == []
