"""Putting somebody out: what was opened with it closes within a second, and nothing else does."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import RECV_TIMEOUT_S, Client, connect, run_frame
from tests.live.event_stream import EventStream, open_stream
from tests.live.people import Browser, Person, cookie_socket, isolane, new_person, query
from tests.live.server import START_TIMEOUT_S, Server
from tests.live.stage import SCRIPT, Lane, mint, read_to_close, settled, shared_server, steps
from tests.live.stopwatch import Stopwatch, stopwatch
from websockets.exceptions import ConnectionClosed

from isolane.contracts import PLAIN
from isolane.settings import DATABASE_NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)
strict_server = shared_server(SCRIPT, env={"ISOLANE_REVOKED_RUNS": "abort"})

REVOKED: Final = (4401, "revoked")
WITHIN_S: Final = 1.0
HOLD: Final = steps(["say", "1 "], ["hold", "never"])
ROUNDS: Final = 12

Act = Callable[[], Awaitable[object]]


@pytest_asyncio.fixture(loop_scope="module")
async def ann(server: Server) -> Person:
    return await new_person(server)


@pytest_asyncio.fixture(loop_scope="module")
async def bob(server: Server) -> Person:
    return await new_person(server)


def fresh_token(person: Person) -> str:
    """Return a token as `isolane token` makes it: dated to the millisecond."""
    return mint(person.name, iat=time.time(), isolane=True)


@asynccontextmanager
async def sockets_of(person: Person, browser: Browser) -> AsyncIterator[dict[str, Client]]:
    """Open a socket in each way that there is."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        yield {
            "cookie": await enter(browser.connect()),
            "ticket of the session": await enter(browser.redeem(await browser.buy_ticket())),
            "token": await enter(person.lane.connect()),
            "ticket of a token": await enter(
                browser.redeem(*await person.server.tickets(person.lane.token))
            ),
        }


async def closes_after(act: Act, person: Person, clients: Iterable[Client]) -> None:
    """Revoke, and see that each of these sockets is closed with its reason within a second."""
    closing = [asyncio.ensure_future(close_of(client)) for client in clients]
    with stopwatch(person.server.pid) as watch:
        await act()
        closes = await asyncio.gather(*closing)
    assert [close for close, _ in closes] == [REVOKED] * len(closing)
    # By the clock of the revocation itself: a command's process takes its time before and behind.
    began_s = revoked_at_s(person)
    assert max(at_s for _, at_s in closes) - began_s < WITHIN_S + watch.late_s(began_s)


async def close_of(client: Client) -> tuple[tuple[int | None, str], float]:
    """Return how a socket is closed, and when; what does it may be a command that begins now."""
    return await client.closed(timeout_s=START_TIMEOUT_S + RECV_TIMEOUT_S), time.time()


def revoked_at_s(person: Person) -> float:
    """Return when something of the user's was revoked last."""
    statement = "SELECT max(revoked_at) FROM revocations WHERE user_id = :user"
    ((revoked_at,),) = query(person.server, statement, user=person.name)
    return float(revoked_at) / 1000


async def lives_on(client: Client, run_id: str = "lives-on") -> None:
    """See that a socket serves as before, now that others were closed."""
    await client.run(f"thread-{run_id}", run_id, "still here")
    assert (await client.until_end(run_id))["chunk"]["type"] == "RUN_FINISHED"


def opened_with(person: Person, token: str) -> AbstractAsyncContextManager[Client]:
    """Open a socket with a token of the test's own making."""
    return connect(person.server.websocket_url(), token)


async def refusal_of(lane: Lane, token: str) -> tuple[int | None, str]:
    """Return how a socket is refused."""
    async with lane.connect_with(token) as client:
        _, close = await read_to_close(client)
    return close


# ---- who is put out, and by whom -----------------------------------------------------------------


async def test_signing_out_closes_what_that_session_opened_and_nothing_else(
    ann: Person, bob: Person
) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        here, there, other = [await enter(each.sign_in()) for each in (ann, ann, bob)]
        unspent = await here.buy_ticket()
        sockets = await enter(sockets_of(ann, here))
        staying = [sockets["token"], sockets["ticket of a token"]]
        staying += [await enter(each.connect()) for each in (there, other)]
        cookie = here.cookie

        async def sign_out() -> None:
            assert (await here.http.delete("/api/session")).status_code == 204

        await closes_after(sign_out, ann, [sockets["cookie"], sockets["ticket of the session"]])
        for number, client in enumerate(staying):
            await lives_on(client, f"r-{number}")
        async with cookie_socket(ann.server, cookie, ann.server.url) as late:
            assert (await read_to_close(late))[1] == (4401, "invalid")
        with pytest.raises(ConnectionClosed):
            async with here.redeem(unspent):
                pytest.fail("a ticket of the session that was ended let somebody in")
        async with ann.sign_in() as again, again.connect() as client:
            await lives_on(client, "again")


async def test_session_that_is_ended_from_another_one_closes_its_sockets(ann: Person) -> None:
    async with AsyncExitStack() as stack:
        lost, mine = [await stack.enter_async_context(ann.sign_in()) for _ in range(2)]
        sockets = await stack.enter_async_context(sockets_of(ann, lost))
        own = await stack.enter_async_context(mine.connect())
        listed = (await mine.http.get("/api/sessions")).json()["sessions"]
        (lost_id,) = [each["sessionId"] for each in listed if not each["isCurrent"]]

        async def end() -> None:
            assert (await mine.http.delete(f"/api/sessions/{lost_id}")).status_code == 204

        await closes_after(end, ann, [sockets["cookie"], sockets["ticket of the session"]])
        assert await lost.who() == (401, "invalid")
        assert await mine.who() == (200, None)
        await lives_on(own)


@pytest.mark.parametrize("how", ["by oneself", "by an admin", "from the command line"])
async def test_signing_out_everywhere_closes_all_that_was_opened(
    ann: Person, bob: Person, how: str
) -> None:
    admin = mint("root", scope="admin")

    async def sign_out() -> None:
        if how == "from the command line":
            done = await isolane("user", "sign-out", ann.name, data=ann.server.data)
            assert done == (0, "", "")
            return
        async with ann.server.http(admin) as http:
            answer = await (
                browser.http.delete("/api/sessions")
                if how == "by oneself"
                else http.post(f"/api/users/{ann.name}/sign-out")
            )
        assert answer.status_code == 204

    old = ann.lane.token
    async with ann.sign_in() as browser, bob.sign_in() as other, other.connect() as staying:
        cookie = browser.cookie
        async with sockets_of(ann, browser) as sockets:
            await closes_after(sign_out, ann, sockets.values())
        async with cookie_socket(ann.server, cookie, ann.server.url) as late:
            assert (await read_to_close(late))[1] == (4401, "invalid")
        assert await refusal_of(ann.lane, old) == REVOKED
        await lives_on(staying)
    async with ann.server.http(old) as http:
        answer = await http.get("/api/threads")
        assert (answer.status_code, answer.json()["reason"]) == (401, "revoked")
    await comes_back_at_once(ann)


async def comes_back_at_once(person: Person) -> None:
    """See that a new sign-in and a new token aren't taken for old ones."""
    async with person.sign_in() as browser, browser.connect() as client:
        await lives_on(client, "signed-in-again")
    async with opened_with(person, fresh_token(person)) as client:
        await lives_on(client, "with-a-new-token")


async def test_account_that_is_removed_closes_all_and_signs_in_no_more(ann: Person) -> None:
    old = ann.lane.token
    async with ann.sign_in() as browser, sockets_of(ann, browser) as sockets:

        async def remove() -> None:
            done = await isolane("user", "remove", ann.name, data=ann.server.data)
            assert done == (0, "", "")

        await closes_after(remove, ann, sockets.values())
        assert await browser.who() == (401, "invalid")
    assert await refusal_of(ann.lane, old) == REVOKED


async def test_user_of_another_issuer_is_signed_out_by_name_alone(server: Server) -> None:
    # Nothing but the name is known here of whoever a provider vouches for.
    lane = Lane(server, "corp|ann")
    async with server.http(mint("root", scope="admin")) as http, lane.connect() as client:
        answer = await http.post("/api/users/corp%7Cann/sign-out")
        assert answer.status_code == 204
        assert await client.closed() == REVOKED


# ---- who may do less -----------------------------------------------------------------------------


async def test_account_that_may_do_less_loses_what_may_do_more(ann: Person) -> None:
    old, reading = ann.lane.token, mint(ann.name, scope="threads:read")
    async with ann.sign_in() as browser, sockets_of(ann, browser) as sockets:
        async with opened_with(ann, reading) as staying:

            async def allow_to_read() -> None:
                words = ("user", "allow", ann.name, "--scope", "threads:read")
                assert await isolane(*words, data=ann.server.data) == (0, "", "")

            await closes_after(allow_to_read, ann, sockets.values())
            await staying.subscribe("t")
        assert await browser.who() == (200, None)
        answer = await browser.http.post("/api/threads", json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        async with browser.connect() as client:
            await client.subscribe("t")
            await client.run("t", "r-1", "hello")
            assert (await client.until_type("error"))["code"] == "forbidden"
        assert await refusal_of(ann.lane, old) == REVOKED


async def test_account_that_may_do_more_loses_nothing(ann: Person) -> None:
    async with ann.sign_in() as browser, sockets_of(ann, browser) as sockets:
        words = [word for scope in (*PLAIN, "admin") for word in ("--scope", scope)]
        done = await isolane("user", "allow", ann.name, *words, data=ann.server.data)
        assert done.code == 0
        await knows_of_revocations(ann.server)
        for number, client in enumerate(sockets.values()):
            await lives_on(client, f"r-{number}")


async def knows_of_revocations(server: Server) -> None:
    """Return once the server has read every revocation of this moment."""
    lane = Lane(server)
    async with lane.connect() as client, server.http(lane.token) as http:
        assert (await http.delete("/api/sessions")).status_code == 204
        assert await client.closed() == REVOKED


async def test_renewed_socket_outlives_what_it_was_opened_with(ann: Person) -> None:
    async with ann.sign_in() as browser, browser.connect() as client:
        await client.send({"type": "auth", "token": fresh_token(ann)})
        await client.until_type("auth_ok")
        await browser.http.delete("/api/session")
        await knows_of_revocations(ann.server)
        await lives_on(client)


async def test_revoked_token_renews_nothing_and_resumes_nothing(ann: Person) -> None:
    old = ann.lane.token
    async with opened_with(ann, old) as client:
        await client.run("t", "r-1", HOLD)
        seen = await client.until_event("TEXT_MESSAGE_CONTENT")
        async with ann.sign_in() as browser:
            await browser.http.delete("/api/sessions")
        assert await client.closed() == REVOKED
    assert await refusal_of(ann.lane, old) == REVOKED
    async with ann.server.http(old) as http:
        for headers in ({}, {"last-event-id": seen["id"]}):
            answer = await http.get("/api/threads/t/events", headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (401, "revoked")
    async with opened_with(ann, fresh_token(ann)) as client:
        await client.send({"type": "auth", "token": old})
        error = await client.until_type("error")
        assert (error["code"], error["reason"]) == ("unauthenticated", "revoked")
        await client.send({"type": "subscribe", "threadId": "t", "after": seen["id"]})
        assert (await client.until_type("subscribed"))["recovered"] is True


# ---- event streams -------------------------------------------------------------------------------


@asynccontextmanager
async def streams_of(http: httpx.AsyncClient, run_id: str) -> AsyncIterator[list[EventStream]]:
    """Start a run over HTTP that never ends, and follow its thread beside it."""
    async with open_stream(http, "/agui", run_frame("t", run_id, HOLD)) as run:
        await run.until_type("TEXT_MESSAGE_CONTENT")
        async with open_stream(http, "/api/threads/t/events") as thread:
            await thread.until_type("TEXT_MESSAGE_CONTENT")
            yield [run, thread]


async def test_event_streams_end_with_an_error_that_says_so(ann: Person) -> None:
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(ann.sign_in())
        http = await stack.enter_async_context(ann.server.http(ann.lane.token))
        ending = await stack.enter_async_context(streams_of(browser.http, "r-1"))
        staying = await stack.enter_async_context(open_stream(http, "/api/threads/t/events"))
        await staying.until_type("TEXT_MESSAGE_CONTENT")
        with stopwatch(ann.server.pid) as watch:
            assert (await browser.http.delete("/api/session")).status_code == 204
            await end_as_revoked(ann, ending, watch)
        await http.post("/api/runs/r-1/abort")
        end = await staying.until_end("r-1")
    assert end.event["outcome"] == {"type": "cancelled"}


async def end_as_revoked(person: Person, streams: Iterable[EventStream], watch: Stopwatch) -> None:
    ends = [await stream.rest() for stream in streams]
    # Only the stream of a run names one.
    assert [last.event.get("runId") for (last,) in ends][1:] == [None] * (len(ends) - 1)
    assert "runId" in ends[0][0].event
    began_s = revoked_at_s(person)
    assert time.time() - began_s < WITHIN_S + watch.late_s(began_s)
    for (last,) in ends:
        assert last.id is None, "it belongs to no log"
        assert (last.event["type"], last.event["code"]) == ("RUN_ERROR", "unauthenticated")
        told = await logged(person.server, last.event["metadata"]["errorId"])
        assert told["reason"] == "the credential behind the stream was revoked"


async def logged(server: Server, error_id: str) -> dict[str, Any]:
    """Return what the log says of an error."""
    return await server.wait_for_log(lambda entry: entry.get("error_id") == error_id)


# ---- what becomes of the runs --------------------------------------------------------------------


async def test_runs_go_on(ann: Person) -> None:
    gate = f"{ann.name} go"
    async with ann.sign_in() as browser, browser.connect() as client:
        await client.run("t", "r-1", steps(["say", "1 "], ["hold", gate], ["say", "2 "]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.run("t", "r-2", "queued behind it")
        await client.until(lambda frame: frame.get("disposition") == "queued")
        await browser.http.delete("/api/sessions")
        assert await client.closed() == REVOKED
    await ann.lane.open_gate(gate)
    async with ann.sign_in() as browser, browser.connect() as client:
        log = await client.subscribe("t")
        await client.until_true(lambda: log.has_ended("r-2"))
    assert log.text == "1 2 queued behind it "
    assert [log.of_run(run)[-1]["outcome"]["type"] for run in ("r-1", "r-2")] == ["success"] * 2


async def test_all_runs_of_who_is_put_out_are_stopped_where_the_settings_say_so(
    strict_server: Server,
) -> None:
    ann, bob = [await new_person(strict_server) for _ in range(2)]
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(ann.sign_in())
        client = await stack.enter_async_context(browser.connect())
        other = await stack.enter_async_context(bob.lane.connect())
        for each in (client, other):
            await each.run("t", "r-1", HOLD)
            await each.until_event("TEXT_MESSAGE_CONTENT")
            await each.run("t", "r-2", "queued behind it")
            await each.until(lambda frame: frame.get("disposition") == "queued")
        await browser.http.delete("/api/sessions")
        assert await client.closed() == REVOKED
        client = await stack.enter_async_context(opened_with(ann, fresh_token(ann)))
        log = await client.subscribe("t")
        await client.until_true(lambda: log.has_ended("r-1") and log.has_ended("r-2"))
        for run_id in ("r-1", "r-2"):
            assert log.of_run(run_id)[-1]["outcome"] == {"type": "cancelled"}
        assert (await settled(other)) == [], "nobody else's runs end"


async def test_old_revocation_stops_no_run_at_the_next_start(strict_server: Server) -> None:
    ann = await new_person(strict_server)
    async with ann.sign_in() as browser:
        await browser.http.delete("/api/sessions")
    token = fresh_token(ann)
    async with opened_with(ann, token) as client:
        await client.run("t", "r-1", HOLD)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.run("t", "r-2", "what was asked after it")
        await client.until(lambda frame: frame.get("disposition") == "queued")
    await strict_server.kill()
    await strict_server.start()
    async with opened_with(ann, token) as client:
        log = await client.subscribe("t")
        await client.until_true(lambda: log.has_ended("r-2"))
    assert log.of_run("r-2")[-1]["outcome"] == {"type": "success"}


# ---- at the same moment --------------------------------------------------------------------------


@pytest.mark.parametrize("credential", ["cookie", "ticket", "token"])
async def test_socket_that_is_opened_meanwhile_does_not_stay(ann: Person, credential: str) -> None:
    for round_number in range(ROUNDS):
        async with ann.sign_in() as browser:
            opening = {
                "cookie": browser.connect(),
                "ticket": browser.redeem(await browser.buy_ticket()),
                "token": opened_with(ann, fresh_token(ann)),
            }[credential]
            await asyncio.gather(
                sign_out_after(browser, turns=20 * round_number), is_refused_or_closed(opening)
            )


async def sign_out_after(browser: Browser, *, turns: int) -> None:
    """Sign out everywhere, in each round a little later."""
    for _ in range(turns):
        await asyncio.sleep(0)
    assert (await browser.http.delete("/api/sessions")).status_code == 204


async def is_refused_or_closed(opening: AbstractAsyncContextManager[Client]) -> None:
    with suppress(ConnectionClosed):
        async with opening as client:
            assert await client.closed() == REVOKED


async def test_socket_opened_while_the_revocation_waits_for_the_disk_is_closed(ann: Person) -> None:
    async with ann.sign_in() as browser:
        with ExitStack() as lock:
            lock.enter_context(locked_database(ann.server))
            signing_out = asyncio.ensure_future(browser.http.delete("/api/sessions"))
            for _ in range(3):  # so the sign-out, which came before them, waits for the file by now
                assert await browser.who() == (200, None)
            async with browser.connect() as client:
                lock.close()
                assert (await signing_out).status_code == 204
                assert await client.closed() == REVOKED


@contextmanager
def locked_database(server: Server) -> Iterator[None]:
    """Let nobody write for the block's time; who wants to waits."""
    with closing(sqlite3.connect(server.data / DATABASE_NAME, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield  # closing it lets go
