"""The key file: made once, rotated beside whoever uses it, never lost halfway."""

from __future__ import annotations

import asyncio
import multiprocessing
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from isolane.auth.local import LocalIssuer
from isolane.clock import now_ms
from isolane.contracts import SigningKey
from isolane.engines.file.signing_keys import FileSigningKeys
from isolane.errors import InvalidInput, Unauthenticated
from isolane.settings import InvalidSettings

HOUR_S = 3600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "signing.key"


def issuer_on(path: Path) -> LocalIssuer:
    """Return what another process would be that uses the file."""
    return LocalIssuer(FileSigningKeys(path), issuer=None, audience=None, clock=now_ms)


def keys_in(path: Path) -> Sequence[SigningKey]:
    """Return what another process would find."""
    return asyncio.run(FileSigningKeys(path).load())


def accepts(issuer: LocalIssuer, token: str) -> bool:
    try:
        return asyncio.run(issuer.authenticate(token)).user_id == "ada"
    except Unauthenticated as error:
        return error.reason != "invalid"


def issue(issuer: LocalIssuer, *, expires_s: int = HOUR_S) -> str:
    return issuer.issue("ada", expires_s=expires_s)


def rotate(path: Path, *, after_s: int = 0, forget: bool = False) -> None:
    keys = FileSigningKeys(path)
    asyncio.run(keys.rotate(now_s=now_ms() // 1000 + after_s, forget=forget))


# --- the file -------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_for_its_owner_only(path: Path) -> None:
    (key,) = keys_in(path)
    assert keys_in(path) == (key,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_of_many_who_make_the_first_key_at_once_one_does(path: Path) -> None:
    start = Barrier(8)

    def make(_: int) -> str:
        start.wait()
        return keys_in(path)[0].secret

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
    assert list(path.parent.iterdir()) == [path]


def test_the_file_stays_its_owners_only_and_leaves_no_drafts(path: Path) -> None:
    issue(issuer_on(path))
    for forget in (False, True):
        rotate(path, forget=forget)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_id_tells_keys_apart_and_stays(path: Path) -> None:
    first = keys_in(path)[0].id
    rotate(path)
    second = keys_in(path)[0].id
    assert first != second
    assert keys_in(path)[0].id == second


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "key 5\nno key at all\n",
        "two words and more",
        "key # comment",
        "key soon",
        "key -1",
        "key 1e9",
        "\0",
    ],
    ids=ascii,
)
def test_file_that_holds_something_else_is_refused_at_the_start_and_passed_over_later(
    path: Path, content: str
) -> None:
    server = issuer_on(path)
    token = issue(server)
    right = path.read_text()
    overwrite(path, content)
    with pytest.raises(InvalidSettings, match=r"signing\.key"):
        FileSigningKeys(path)
    with pytest.raises(InvalidSettings):
        server.issue("ada", expires_s=60)
    assert path.read_text() == content, "what can't be understood isn't written over"
    assert accepts(server, token)
    overwrite(path, right)
    rotate(path)
    assert accepts(server, token)
    assert accepts(server, issue(issuer_on(path)))


def test_file_that_is_gone_or_closed_to_the_server_lets_nobody_out(path: Path) -> None:
    server = issuer_on(path)
    token = issue(server)
    away = path.rename(path.with_name("away"))
    assert accepts(server, token)
    path.mkdir()  # what can't be read as a file, also by a user who may read all
    assert accepts(server, token)
    path.rmdir()
    away.rename(path)
    rotate(path, forget=True)
    assert not accepts(server, token)


def overwrite(path: Path, content: str) -> None:
    """Put other content there, at once as the commands do."""
    draft = path.with_name("draft")
    draft.write_text(content)
    draft.replace(path)


@pytest.mark.parametrize("expires_s", [-(10**13), -(10**10), 10**10, 10**12, 10**15])
def test_token_of_any_life_leaves_a_file_that_can_be_read(path: Path, expires_s: int) -> None:
    server = issuer_on(path)
    token = issue(server)
    with suppress(InvalidInput):  # it may well be refused
        issue(issuer_on(path), expires_s=expires_s)
    assert accepts(issuer_on(path), token)
    rotate(path)
    assert accepts(issuer_on(path), token)


@pytest.mark.parametrize("content", ["k" * 43, "k" * 43 + "\n"], ids=["bare", "line"])
def test_key_that_somebody_put_there_stays_until_it_is_forgotten(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(0o600)
    server = issuer_on(path)
    token = issue(server)
    assert [key.secret for key in keys_in(path)] == ["k" * 43]
    rotate(path, after_s=100 * HOUR_S)
    assert accepts(server, token)
    rotate(path, forget=True)
    assert not accepts(server, token)


# --- rotation -------------------------------------------------------------------------------------


def test_rotation_signs_anew_and_keeps_what_was_signed(path: Path) -> None:
    server, command = issuer_on(path), issuer_on(path)
    old = issue(command)
    assert accepts(server, old)
    rotate(path)
    new = issue(command)
    assert old.split(".")[0] != new.split(".")[0], "it names another key"
    assert accepts(server, old)
    assert accepts(server, new)


def test_old_key_goes_at_the_rotation_after_its_last_token_died(path: Path) -> None:
    server = issuer_on(path)
    old = issue(server, expires_s=HOUR_S)
    issue(server, expires_s=60)  # a shorter life than one before shortens nothing
    rotate(path)
    rotate(path, after_s=HOUR_S - 60)
    assert accepts(server, old)
    rotate(path, after_s=HOUR_S + 60)
    assert not accepts(server, old)


def test_forgetting_ends_every_older_token_at_once(path: Path) -> None:
    server = issuer_on(path)
    tokens = [issue(server)]
    rotate(path)
    tokens.append(issue(server))
    assert [accepts(server, token) for token in tokens] == [True, True]
    rotate(path, forget=True)
    assert [accepts(server, token) for token in tokens] == [False, False]
    assert len(keys_in(path)) == 1
    assert accepts(server, issue(server))


def test_identity_names_the_key_that_vouches_for_it(path: Path) -> None:
    server = issuer_on(path)
    old = asyncio.run(server.authenticate(issue(server)))
    rotate(path)
    new = asyncio.run(server.authenticate(issue(server)))
    assert old.key_id is not None
    assert new.key_id is not None
    assert server.knows_key(old.key_id)
    assert server.knows_key(new.key_id)
    rotate(path, forget=True)
    asyncio.run(server.load_keys())
    assert not server.knows_key(old.key_id)
    assert not server.knows_key(new.key_id)


def test_token_that_names_no_key_is_judged_by_those_there_are(path: Path) -> None:
    server = issuer_on(path)
    claims = {"sub": "ada", "exp": now_ms() // 1000 + HOUR_S}
    token = jwt.encode(claims, keys_in(path)[0].secret, algorithm="HS256")
    assert accepts(server, token)
    rotate(path, forget=True)
    assert not accepts(server, token)


# --- at once --------------------------------------------------------------------------------------


def test_rotations_and_tokens_at_once_lose_no_key(path: Path) -> None:
    issue(issuer_on(path))
    start = Barrier(8)

    def work(number: int) -> str:
        issuer = issuer_on(path)
        start.wait()
        for _ in range(5):
            rotate(path)
            issue(issuer)
        return issue(issuer) if number % 2 else issue(issuer_on(path))

    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(work, range(8)))
    server = issuer_on(path)
    rotate(path)
    assert [accepts(server, token) for token in tokens] == [True] * 8


def _rotate_often(path: Path, times: int) -> None:
    for _ in range(times):
        issuer = issuer_on(path)
        issue(issuer)
        rotate(path)


def test_processes_that_rotate_at_once_lose_no_key(path: Path) -> None:
    issue(issuer_on(path))
    spawn = multiprocessing.get_context("fork")
    others = [spawn.Process(target=_rotate_often, args=(path, 5)) for _ in range(2)]
    for other in others:
        other.start()
    _rotate_often(path, 5)
    for other in others:
        other.join(10)
        assert other.exitcode == 0
    assert len(keys_in(path)) >= 3


def test_reader_never_sees_half_a_file(path: Path) -> None:
    server = issuer_on(path)
    token = issue(server)
    # Another process, as the command line is: two busy threads of one wait for each other only.
    other = multiprocessing.get_context("fork").Process(target=_rotate_often, args=(path, 50))
    with capture_logs() as told:
        other.start()
        while other.is_alive():
            assert accepts(server, token)
    assert other.exitcode == 0
    assert told == []


def test_token_that_is_made_while_a_rotation_comes_between_outlives_the_next(
    path: Path,
) -> None:
    """The rotation falls between the taking of the key and the signature, which no lock spans."""

    class Interrupted(FileSigningKeys):
        async def take(self, expiry_s: int) -> SigningKey:
            taken = await super().take(expiry_s)
            await FileSigningKeys(path).rotate(now_s=now_ms() // 1000)
            return taken

    issuer = LocalIssuer(Interrupted(path), issuer=None, audience=None, clock=now_ms)
    token = issue(issuer)
    rotate(path)
    assert accepts(issuer_on(path), token)


# --- any story ------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["short", "long", "rotate", "pass", "forget"]), max_size=12))
def test_living_tokens_count_until_they_are_forgotten(steps: list[str]) -> None:
    now_s = now_ms() // 1000
    passed_s = 0
    lives: dict[str, int] = {}  # until when each token's key must be there, by the commands' clock
    with TemporaryDirectory() as folder:
        path = Path(folder) / "signing.key"
        server = issuer_on(path)
        for step in steps:
            if step == "pass":
                passed_s += HOUR_S
            elif step in {"short", "long"}:
                life_s = passed_s + (2 if step == "short" else 6) * HOUR_S
                lives[issue(issuer_on(path), expires_s=life_s)] = now_s + life_s
            else:
                rotate(path, after_s=passed_s, forget=step == "forget")
            if step == "forget":
                lives.clear()
            for token, dies_s in lives.items():
                assert accepts(server, token) or dies_s <= now_s + passed_s
