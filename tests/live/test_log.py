"""One log per thread: its ids, who gets what of it, and how a client goes on after a gap."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path

import pytest
from tests.live.agents import numbered
from tests.live.client import (
    RECV_TIMEOUT_S,
    Client,
    Follower,
    Frame,
    connect,
    is_terminal,
    parse_id,
)
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    caught_up,
    envelopes,
    kept_events,
    own_server,
    read_to_close,
    settled,
    shared_server,
    steps,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "slow=agents:slow")

MALFORMED_CURSORS = [
    *("", "7", "-", "e-", "-1", "e-01", "e--1", "e-1.0", "E-1", "é-1", "e-1 ", "e_1", "e-1-1"),
    *(f"{'e' * 33}-1", f"e-{'9' * 16}", "e-1\x00", "e-\u0661"),
]


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


# --- ids -----------------------------------------------------------------------------------------


async def test_ids_count_from_one_without_a_gap_over_all_runs_of_a_thread(lane: Lane) -> None:
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        for run_id in ("r-1", "r-2"):
            await lane.finish(client, "t", run_id, "two words")
    ids = [envelope["id"] for envelope in follower.envelopes]
    epoch = parse_id(ids[0])[0]
    assert ids == [f"{epoch}-{number}" for number in range(1, 13)]
    assert re.fullmatch(r"[a-z0-9]{1,32}", epoch)


async def test_seen_ids_and_the_epoch_survive_a_restart(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            before = await client.subscribe("t")
            await lane.finish(client, "t", "r-1", "one")
        await server.restart()
        assert (await lane.load_log("t")).envelopes == before.envelopes
        async with lane.connect() as client:
            await client.follow(before)
            await lane.finish(client, "t", "r-2", "two")
    assert before.text == "one two "


async def test_unused_thread_is_an_empty_one_from_whose_end_one_goes_on(lane: Lane) -> None:
    async with lane.connect() as client, lane.connect() as later:
        await client.send({"type": "subscribe", "threadId": "new"})
        answer = await client.recv()
        head = answer.pop("head")
        assert re.fullmatch(r"[a-z0-9]{1,32}-0", head)
        assert answer == {"type": "subscribed", "threadId": "new", "recovered": True}
        await client.run("new", "r-1", "hi")
        started = await client.until_event("RUN_STARTED")
        assert parse_id(started["id"])[1] == 1
        assert (await caught_up(later, "new", head)).envelopes[0] == started


# --- following -----------------------------------------------------------------------------------


async def test_subscriber_gets_what_comes_strictly_after_and_then_live(lane: Lane) -> None:
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", "a b c")
        log = follower = await caught_up(client, "t")
        for place, entry in enumerate(log.envelopes, 1):
            follower = await caught_up(client, "t", entry["id"])
            assert follower.envelopes == log.envelopes[place:]
        assert follower.cursor == log.cursor
        await lane.finish(client, "t", "r-2", "live")
        assert follower.text == "live "


async def test_number_zero_is_the_start_whatever_the_epoch(lane: Lane) -> None:
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", "word")
        log = await caught_up(client, "t")
        follower = await caught_up(client, "t", "whatever-0")
    assert follower.envelopes == log.envelopes


async def test_subscribed_stands_before_what_it_announces(lane: Lane) -> None:
    async with lane.connect() as client:
        end = await lane.finish(client, "t", "r-1", "word")
        await client.send({"type": "subscribe", "threadId": "t"})
        frames = await client.until(lambda frame: frame.get("id") == end["id"])
    kinds = [frame.get("type", "data") for frame in frames if frame.get("type") != "thread"]
    assert kinds == ["subscribed", *["data"] * 5]
    assert next(f for f in frames if f.get("type") == "subscribed")["head"] == end["id"]


async def test_nothing_comes_after_unsubscribe(lane: Lane) -> None:
    async with lane.connect() as client, lane.connect() as other:
        await client.subscribe("t")
        await other.run("t", "r-1", steps(["say", "1 "], ["hold", f"{lane.user} go"], ["say", "2"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.send({"type": "unsubscribe", "threadId": "t"})
        assert await client.until_type("unsubscribed") == {"type": "unsubscribed", "threadId": "t"}
        await lane.open_gate(f"{lane.user} go")
        await other.until_end("r-1")
        assert envelopes(await settled(client)) == []


async def test_unsubscribe_where_nothing_is_followed_is_answered(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.send({"type": "unsubscribe", "threadId": "never"})
        assert await client.recv() == {"type": "unsubscribed", "threadId": "never"}


async def test_subscribing_again_replaces_what_was_followed(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        first = await client.subscribe("t")
        await client.run("t", "r-1", steps(["count", 5], ["hold", gate], ["count", 5]))
        await client.until_event("TEXT_MESSAGE_START")
        second = await client.subscribe("t")
        for _ in range(4):
            second = await client.subscribe("t")
        await lane.open_gate(gate)
        await client.until_end("r-1")
        assert envelopes(await settled(client)) == []
    # The follower fails at any entry that comes twice, or for the subscription before its own.
    assert second.text == "1 2 3 4 5 " * 2
    assert len(first.envelopes) < len(second.envelopes)


async def test_subscribing_again_while_events_come_brings_each_once(lane: Lane) -> None:
    async with lane.connect(agent="slow") as client:
        follower = await client.subscribe("t")
        await client.run("t", "r-1", "count 150 every 2ms")
        while len(follower.envelopes) < 100:
            await client.until(lambda frame: "chunk" in frame)
            # From where it stands, so that an entry of the subscription before is one too many.
            await client.follow(follower)
        await client.until_end("r-1")
    assert follower.text == numbered(150)


async def test_subscribing_follows_on_where_a_run_was_followed(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["say", "1 "], ["hold", gate], ["say", "2"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        follower = await client.subscribe("t")
        await lane.open_gate(gate)
        await client.until_end("r-1")
        assert envelopes(await settled(client)) == []
    assert follower.text == "1 2"


async def test_all_devices_of_a_user_see_one_sequence(lane: Lane) -> None:
    async with lane.connect() as phone, lane.connect() as laptop:
        seen = [await phone.subscribe("t"), await laptop.subscribe("t")]
        await phone.run("t", "r-1", "from the phone")
        await laptop.run("t", "r-2", "from the laptop")
        for device in (phone, laptop):
            await device.until(is_terminal)
            await device.until(is_terminal)
    assert seen[0].envelopes == seen[1].envelopes
    assert {*seen[0].texts.values()} == {"from the phone ", "from the laptop "}


@pytest.mark.parametrize("hello", [True, False])
async def test_who_did_not_subscribe_gets_the_runs_it_sent_only(lane: Lane, *, hello: bool) -> None:
    async with lane.connect(hello=hello) as client, lane.connect() as other:
        await client.run("t", "own-1", "mine")
        got = await client.until(lambda frame: is_end_of(frame, "own-1"))
        await lane.finish(other, "t", "foreign", "not mine")
        await client.run("t", "own-2", "mine again")
        got += await client.until(lambda frame: is_end_of(frame, "own-2"))
    assert [frame["runId"] for frame in envelopes(got)] == ["own-1"] * 5 + ["own-2"] * 6


async def test_two_own_runs_without_subscription_come_once_each(lane: Lane) -> None:
    async with lane.connect(hello=False) as client:
        await client.run("t", "r-1", "one two")
        await client.run("t", "r-2", "three")
        got = envelopes(await client.until(lambda frame: is_end_of(frame, "r-2")))
    assert [parse_id(frame["id"])[1] for frame in got] == list(range(1, 12))


@pytest.mark.parametrize("subscribed", [True, False])
async def test_run_that_is_received_already_is_attached_without_a_second_copy(
    lane: Lane, *, subscribed: bool
) -> None:
    gate = f"{lane.user} go"
    text = steps(["say", "1 "], ["hold", gate], ["say", "2"])
    async with lane.connect() as client:
        if subscribed:
            await client.subscribe("t")
        await client.run("t", "r-1", text)
        got = await client.until(lambda frame: is_event_of(frame, "TEXT_MESSAGE_CONTENT"))
        await client.run("t", "r-1", text)
        got += await client.until(lambda frame: frame.get("type") == "accepted")
        assert got[-1]["disposition"] == "attached"
        await lane.open_gate(gate)
        got += await client.until(lambda frame: is_end_of(frame, "r-1"))
        got += await settled(client)
    assert [parse_id(frame["id"])[1] for frame in envelopes(got)] == list(range(1, 7))


async def test_run_frame_of_a_finished_run_replays_it(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", "some words")
        first = await client.until(lambda frame: is_end_of(frame, "r-1"))
        await lane.finish(client, "t", "r-2", "others")
        await client.run("t", "r-1", "some words")
        again = await client.until(lambda frame: is_end_of(frame, "r-1"))
        assert envelopes(await settled(client)) == []
    assert envelopes(again) == envelopes(first)


async def test_replay_of_one_run_repeats_nothing_of_another(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", "some words")
        await client.run("t", "r-2", steps(["count", 3], ["hold", gate], ["count", 3]))
        got = await client.until(lambda frame: frame.get("chunk", {}).get("delta") == "3 ")
        await client.run("t", "r-1", "some words")
        replayed = await client.until(lambda frame: is_end_of(frame, "r-1"))
        await lane.open_gate(gate)
        got += replayed + await client.until(lambda frame: is_end_of(frame, "r-2"))
    own = [parse_id(frame["id"])[1] for frame in envelopes(got) if frame["runId"] == "r-2"]
    assert own == list(range(7, 17))
    assert {frame["runId"] for frame in envelopes(replayed)} == {"r-1"}


async def test_who_joins_in_mid_run_misses_nothing_and_gets_nothing_twice(lane: Lane) -> None:
    async with lane.connect() as writer:
        await writer.run("t", "r-1", steps(*[["count", 20]] * 20))

        async def join() -> Follower:
            async with lane.connect() as client:
                follower = await client.subscribe("t")
                await client.until_end("r-1")
                return follower

        # One after the other they join at different places, while events are appended.
        joined = []
        for _ in range(8):
            joined.append(asyncio.ensure_future(join()))
            await settled(writer)
        followers = await asyncio.gather(*joined)
    log = await lane.load_log("t")
    assert len(log.envelopes) == 404
    assert all(follower.envelopes == log.envelopes for follower in followers)


# --- by URL --------------------------------------------------------------------------------------


async def test_address_replays_one_run_from_its_first_event_and_closes(lane: Lane) -> None:
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", "before")
        await lane.finish(client, "t", "r-2", "some words")
        await lane.finish(client, "t", "r-3", "after")
    log = await lane.load_log("t")
    own = [entry for entry in log.envelopes if entry["runId"] == "r-2"]
    async with lane.replay("r-2") as socket:
        assert await read_to_close(socket) == (own, (1000, ""))
    for place, entry in enumerate(own, 1):
        async with lane.replay("r-2", entry["id"]) as socket:
            assert await read_to_close(socket) == (own[place:], (1000, ""))


async def test_address_after_the_end_closes_at_once(lane: Lane) -> None:
    async with lane.connect() as client:
        end = await lane.finish(client, "t", "r-1", "word")
        later = await lane.finish(client, "t", "r-2", "later")
    for offset in (end["id"], later["id"]):
        async with lane.replay("r-1", offset) as socket:
            assert await read_to_close(socket) == ([], (1000, ""))


async def test_address_goes_from_replay_to_live(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["say", "1 "], ["hold", gate], ["say", "2"]))
        seen = await client.until_event("TEXT_MESSAGE_CONTENT")
        async with lane.replay("r-1") as whole, lane.replay("r-1", seen["id"]) as rest:
            await whole.until_event("TEXT_MESSAGE_CONTENT")
            await lane.open_gate(gate)
            got = [await read_to_close(socket) for socket in (whole, rest)]
    log = await lane.load_log("t")
    assert [close for _, close in got] == [(1000, "")] * 2
    assert got[1][0] == log.envelopes[3:]
    # `until_event` took the first three, up to the first text.
    assert got[0][0] == log.envelopes[3:]


async def test_address_of_a_waiting_run_delivers_it_in_its_turn(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["hold", gate]))
        await client.run("t", "r-2", steps(["say", "second"]))
        await client.until(lambda frame: frame.get("disposition") == "queued")
        async with lane.replay("r-2") as socket:
            await lane.open_gate(gate)
            frames, close = await read_to_close(socket)
    assert {frame["runId"] for frame in frames} == {"r-2"}
    assert [frame["chunk"]["type"] for frame in frames] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert close == (1000, "")


async def test_what_a_client_sends_to_a_replay_is_ignored(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["say", "1 "], ["hold", gate]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        async with lane.replay("r-1") as socket:
            await socket.until_event("TEXT_MESSAGE_CONTENT")
            await socket.send({"type": "hello", "v": 1})
            await socket.send({"type": "subscribe", "threadId": "t"})
            await socket.run("t", "r-2", steps(["say", "never"]))
            await socket.abort("r-1")
            for _ in range(25):
                await socket.send("no JSON")
            await socket.send(b"binary")
            await asyncio.wait_for(await socket.socket.ping(), RECV_TIMEOUT_S)
            await lane.open_gate(gate)
            frames, close = await read_to_close(socket)
        assert [frame["chunk"]["type"] for frame in frames] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
        assert frames[-1]["chunk"]["outcome"] == {"type": "success"}
        assert close == (1000, "")
        await client.abort("r-2")
        assert (await client.until_type("error"))["code"] == "not_found"


async def test_unknown_and_foreign_run_close_alike(lane: Lane, server: Server) -> None:
    stranger = Lane(server)
    async with stranger.connect() as client:
        end = await stranger.finish(client, "t", "foreign", "word")
    for run_id in ("foreign", "unknown", "", "a b", "../x", "r" * 200):
        for offset in ("-1", end["id"], "malformed"):
            async with lane.replay(run_id, offset) as socket:
                assert await read_to_close(socket) == ([], (1008, "unknown run")), run_id


# --- cursors that lead nowhere -------------------------------------------------------------------


@pytest.mark.parametrize("after", [*MALFORMED_CURSORS, 7, True, [], {}], ids=repr)
async def test_malformed_cursor_is_an_error_and_no_data(lane: Lane, after: object) -> None:
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", "word")
        await client.send({"type": "subscribe", "threadId": "t", "after": after})
        assert_invalid_cursor(await client.until_type("error"))
        assert await settled(client) == []


async def test_cursor_ahead_of_the_log_is_an_error_and_leaves_the_subscription(lane: Lane) -> None:
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        end = await lane.finish(client, "t", "r-1", "word")
        epoch, seq = parse_id(end["id"])
        await client.send({"type": "subscribe", "threadId": "t", "after": f"{epoch}-{seq + 1}"})
        error = await client.until_type("error")
        assert_invalid_cursor(error)
        assert error["threadId"] == "t"
        await lane.finish(client, "t", "r-2", "more")
    assert follower.text == "word more "


async def test_cursor_that_leads_nowhere_ends_a_replay(lane: Lane) -> None:
    async with lane.connect() as client:
        end = await lane.finish(client, "t", "r-1", "word")
    epoch, seq = parse_id(end["id"])
    for offset in {*MALFORMED_CURSORS, f"{epoch}-{seq + 1}"} - {"-1"}:
        async with lane.replay("r-1", offset) as socket:
            frames, (code, _) = await read_to_close(socket)
        assert code == 1008, offset
        assert [(f["type"], f["code"], f["runId"]) for f in frames] == [
            ("RUN_ERROR", "invalid_cursor", "r-1")
        ], offset


async def test_blank_offset_is_a_malformed_cursor(lane: Lane) -> None:
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", "word")
    address = f"{lane.server.websocket_url()}?runId=r-1"
    async with connect(f"{address}&offset=", lane.token, hello=False) as socket:
        assert (await read_to_close(socket))[1][0] == 1008
    async with connect(address, lane.token) as socket:  # without an offset it is ignored
        assert await settled(socket) == []


# --- deleting ------------------------------------------------------------------------------------


async def test_deleted_thread_tells_its_subscribers_and_begins_anew(lane: Lane) -> None:
    async with lane.connect() as client, lane.connect() as other:
        old = await client.subscribe("t")
        await lane.finish(other, "t", "r-1", "word")
        await other.run("t", "r-2", steps(["say", "1"], ["hold", "never"]))
        await client.until_true(lambda: old.text.endswith("1"))
        async with lane.server.http(lane.token) as http:
            assert (await http.delete("/api/threads/t")).is_success
        told = await client.until(lambda frame: frame.get("deleted") is True)
        assert (told[-1]["type"], told[-1]["threadId"]) == ("thread", "t")
        # Its run ids are free, its numbering is another, and who followed follows no more.
        await lane.finish(other, "t", "r-1", "new")
        await lane.finish(other, "t", "r-2", "newer")
        assert envelopes(await settled(client)) == []
        new = await caught_up(other, "t")
        assert new.text == "new newer "
        assert parse_id(new.cursor)[0] != parse_id(old.cursor)[0]
        await client.send({"type": "subscribe", "threadId": "t", "after": old.cursor})
        client.followers.clear()
        answer = await client.until_type("subscribed")
        assert (answer["recovered"], answer["messages"]) == (False, [])
        frames = await client.until(lambda frame: frame.get("id") == new.cursor)
        assert envelopes(frames) == new.envelopes


# --- retention -----------------------------------------------------------------------------------


async def test_old_runs_are_let_go_whole_and_nobody_misses_it(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, env=kept_events(10)) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            whole = await client.subscribe("t")
            for number in range(1, 5):  # of five events each, of which the last two runs are kept
                await lane.finish(client, "t", f"r-{number}", steps(["say", f"answer {number}"]))
            first_kept = next(e["id"] for e in whole.envelopes if e["runId"] == "r-3")
            await client.send({"type": "subscribe", "threadId": "t"})
            assert_gap(await client.until_type("subscribed"), whole, turns=2)
            kept = await follow_gap(client, whole, first_kept)
            assert kept.envelopes == whole.envelopes[10:]
            for after in (whole.envelopes[0]["id"], whole.envelopes[8]["id"], "another-3"):
                await client.send({"type": "subscribe", "threadId": "t", "after": after})
                assert_gap(await client.until_type("subscribed"), whole, turns=2)
                again = await follow_gap(client, whole, first_kept)
                assert again.envelopes == kept.envelopes
            # The last entry that is gone, and every one after it, leave nothing out.
            for place in (9, 10, 19):
                rest = await caught_up(client, "t", whole.envelopes[place]["id"])
                assert rest.envelopes == whole.envelopes[place + 1 :]
        await replays_of_gone_runs_end(lane, whole)


async def test_messages_of_a_gap_are_those_before_the_first_entry_kept(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, env=kept_events(10)) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            await lane.finish(client, "t", "r-1", "one")
            await lane.finish(client, "t", "r-2", "two")
            rewind = {"rewindTo": "r-2-question"}
            await lane.finish(client, "t", "r-3", "three", forwardedProps=rewind)
            for run_id, words in (("r-4", ["one", "two"]), ("r-5", ["one", "three"])):
                await lane.finish(client, "t", run_id, "more")
                await client.send({"type": "subscribe", "threadId": "t"})
                answer = await client.until_type("subscribed")
                questions = [m["content"] for m in answer["messages"] if m["role"] == "user"]
                answers = [m["content"] for m in answer["messages"] if m["role"] == "assistant"]
                assert questions == words
                assert answers == [f"{word} " for word in words]
                await client.until(partial(has_id, answer["head"]))


async def replays_of_gone_runs_end(lane: Lane, whole: Follower) -> None:
    for run_id, offset in (("r-1", "-1"), ("r-2", whole.envelopes[6]["id"]), ("r-4", "other-2")):
        async with lane.replay(run_id, offset) as socket:
            frames, (code, _) = await read_to_close(socket)
        assert code == 1000
        assert [(f["type"], f["code"], f["runId"]) for f in frames] == [
            ("RUN_ERROR", "resume_expired", run_id)
        ]
    async with lane.replay("r-3") as socket:
        assert await read_to_close(socket) == (whole.envelopes[10:15], (1000, ""))
    async with lane.connect() as client:  # the same by a run frame: known, ended, not kept
        await client.run("t", "r-1", steps(["say", "answer 1"]))
        assert (await client.until_type("accepted"))["disposition"] == "attached"
        error = await client.until_type("RUN_ERROR")
        assert (error["code"], error["runId"]) == ("resume_expired", "r-1")


async def test_active_run_is_never_trimmed(tmp_path: Path) -> None:
    env = {**kept_events(66), "ISOLANE_LOG_RETENTION_S": "0.5"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server)
        async with lane.connect() as client, lane.connect() as looker:
            whole = await client.subscribe("t")
            await lane.finish(client, "t", "r-1", steps(["say", "old"]))
            await client.run("t", "r-2", steps(["count", 30], ["hold", "go"], ["count", 30]))
            await client.until(lambda frame: frame.get("chunk", {}).get("delta") == "30 ")
            await until_gone(looker, whole.envelopes[0]["id"])
            log = await caught_up_after_gap(looker, "t")
            assert log.envelopes == whole.envelopes[5:]
            await lane.open_gate("go")
            await client.until_end("r-2")
            assert whole.of_run("r-2")[-1]["type"] == "RUN_FINISHED"
            # An ended run goes in its turn, and its thread's numbering goes on.
            await until_gone(looker, whole.envelopes[5]["id"])
            await lane.finish(client, "t", "r-3", steps(["say", "new"]))
        assert whole.has_ended("r-3")


async def until_gone(client: Client, event_id: str) -> None:
    """Return once the entry after `event_id` is no longer kept."""
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while True:
            await client.send({"type": "subscribe", "threadId": "t", "after": event_id})
            if not (await client.until_type("subscribed"))["recovered"]:
                return
            await asyncio.sleep(0.05)  # retention has a pace of its own


async def caught_up_after_gap(client: Client, thread_id: str) -> Follower:
    await client.send({"type": "subscribe", "threadId": thread_id})
    answer = await client.until_type("subscribed")
    assert answer["recovered"] is False
    frames = envelopes(await client.until(lambda frame: frame.get("id") == answer["head"]))
    epoch, seq = parse_id(frames[0]["id"])
    follower = Follower(thread_id, f"{epoch}-{seq - 1}")
    for frame in frames:
        follower.apply(frame)
    return follower


async def follow_gap(client: Client, whole: Follower, first_kept: str) -> Follower:
    epoch, seq = parse_id(first_kept)
    client.followers["t"] = Follower("t", f"{epoch}-{seq - 1}")
    await client.until(lambda frame: frame.get("id") == whole.cursor)
    return client.followers["t"]


def assert_gap(answer: Frame, whole: Follower, *, turns: int) -> None:
    """Look at a `subscribed` that tells of a gap: the messages are those of the first `turns`."""
    assert answer.keys() == {"type", "threadId", "head", "recovered", "messages"}
    assert (answer["recovered"], answer["head"]) == (False, whole.cursor)
    expected = []
    for number in range(1, turns + 1):
        question = whole.of_run(f"r-{number}")[0]["input"]["messages"][0]
        message_id = whole.of_run(f"r-{number}")[1]["messageId"]
        answered = {"id": message_id, "role": "assistant", "content": f"answer {number}"}
        expected += [question, answered]
    assert answer["messages"] == expected


def assert_invalid_cursor(error: Frame) -> None:
    assert (error["type"], error["code"]) == ("error", "invalid_cursor")
    assert error["message"].startswith("after: ")
    assert (error["retryable"], error["errorId"][:4]) == (False, "err_")


def has_id(event_id: str, frame: Frame) -> bool:
    return frame.get("id") == event_id


def is_event_of(frame: Frame, kind: str) -> bool:
    return "chunk" in frame and frame["chunk"]["type"] == kind


def is_end_of(frame: Frame, run_id: str) -> bool:
    return frame.get("runId") == run_id and is_event_of(frame, "RUN_FINISHED")
