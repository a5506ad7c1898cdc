"""What every store promises of how a thread begins."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from tests.contracts.conftest import Engines
from tests.house import ALICE, context_of, draft_of, key_of, user_message

from isolane.contracts import Opening, RunDraft, Seed, ThreadKind
from isolane.errors import RunConflict
from isolane.events.transcript import Message

KEY = key_of()
HISTORY: list[Message] = [
    {"id": "s", "role": "system", "content": "rules"},
    {"id": "u", "role": "user", "content": "What is 6 times 7?"},
    {
        "id": "a",
        "role": "assistant",
        "toolCalls": [
            {"id": "c", "type": "function", "function": {"name": "times", "arguments": "{}"}}
        ],
    },
    {"id": "x", "role": "tool", "toolCallId": "c", "content": "42"},
    {"id": "b", "role": "assistant", "content": "42"},
]


def seeded(
    *texts: str,
    history: Sequence[Message] = HISTORY,
    is_claimed: bool = True,
    kind: ThreadKind = ThreadKind.CHAT,
) -> RunDraft:
    opening = Opening(kind, Seed(history, is_claimed=is_claimed))
    return RunDraft("default", [user_message(text) for text in texts], None, {}, opening=opening)


def request(*texts: str) -> RunDraft:
    opening = Opening(ThreadKind.REQUEST)
    return RunDraft("default", [user_message(text) for text in texts], None, {}, opening=opening)


async def test_a_seed_stands_before_what_its_run_adds(engines: Engines) -> None:
    begun = await engines.begin_run(context_of("1"), seeded("q"))
    assert list(begun.added) == [user_message("q")]
    assert list(begun.history) == [*HISTORY, user_message("q")]
    assert begun.after.seq == 0
    # It isn't in the log, so whoever reads that from its start is to have it before.
    assert await engines.store.load_messages_before(KEY, 1) == HISTORY
    snapshot = await engines.store.load_snapshot(KEY)
    assert snapshot is not None
    assert [json.loads(message) for message in snapshot.messages] == HISTORY
    await engines.end(context_of("1"))
    begun = await engines.begin_run(context_of("2"), draft_of("q2"))
    assert list(begun.history) == [*HISTORY, user_message("q"), user_message("q2")]


async def test_a_seed_comes_in_pages_as_other_messages_do(engines: Engines) -> None:
    await engines.begin_run(context_of("1"), seeded("q"))
    await engines.end(context_of("1"))
    found: list[str] = []
    before: str | None = None
    while True:
        page = await engines.store.load_snapshot(KEY, before=before, limit=2)
        assert page is not None
        found = [*(json.loads(message)["id"] for message in page.messages), *found]
        before = page.before
        if before is None:
            break
    assert found == [*(message["id"] for message in HISTORY), "q"]


async def test_a_seed_belongs_to_no_turn_and_is_told_behind_them(engines: Engines) -> None:
    await engines.begin_run(context_of("1"), seeded("q"))
    await engines.end(context_of("1"))
    await engines.begin_run(context_of("2"), draft_of("q2"))
    page = await engines.turns.load_turns(KEY, limit=1)
    assert page is not None
    assert (page.has_older, list(page.seed)) == (True, [])
    page = await engines.turns.load_turns(KEY, before="q2")
    assert page is not None
    assert [turn.turn_id for turn in page.turns] == ["1"]
    assert list(page.turns[0].runs[0].added) == [user_message("q")]
    assert list(page.seed) == HISTORY
    page = await engines.turns.load_turns(KEY, before="a")
    assert page is not None
    assert (page.turns, page.seed) == ([], [])


@pytest.mark.parametrize("is_claimed", [True, False])
async def test_a_run_knows_whether_its_history_is_the_callers_word(
    engines: Engines, *, is_claimed: bool
) -> None:
    begun = await engines.begin_run(context_of("1"), seeded("q", is_claimed=is_claimed))
    assert begun.is_history_claimed == is_claimed
    await engines.end(context_of("1"))
    begun = await engines.begin_run(context_of("2"), draft_of("q2"))
    assert begun.is_history_claimed == is_claimed
    await engines.end(context_of("2"))
    begun = await engines.begin_run(context_of("3"), draft_of("q3", rewind_to="s"))
    assert list(begun.history) == [user_message("q3")]
    assert not begun.is_history_claimed


async def test_a_thread_that_has_a_run_takes_no_seed(engines: Engines) -> None:
    await engines.store.add_thread(KEY, title="made before")
    await engines.begin_run(context_of("1"), seeded("q"))
    with pytest.raises(RunConflict):
        await engines.add_run(context_of("2"), seeded("q2"))
    await engines.end(context_of("1"))
    with pytest.raises(RunConflict):
        await engines.begin_run(context_of("3"), seeded("q3"))
    assert await engines.store.load_known_ids(KEY) == {"q", *(one["id"] for one in HISTORY)}
    await engines.begin_run(context_of("4", user_id="bob"), seeded("q"))
    await engines.log.delete(KEY)
    begun = await engines.begin_run(context_of("5"), seeded("q", history=HISTORY[:1]))
    assert list(begun.history) == [HISTORY[0], user_message("q")]


async def test_another_seed_under_the_same_run_id_is_other_content(engines: Engines) -> None:
    draft = seeded("q")
    await engines.begin_run(context_of("1"), draft)
    stored = await engines.store.load_run(context_of("1").run_key)
    assert stored is not None
    assert len(stored.asked) == 2


async def test_a_request_is_in_no_list(engines: Engines) -> None:
    for number in range(3):
        chat, own = f"chat{number}", f"request{number}"
        await engines.begin_run(context_of(chat, thread_id=chat), draft_of("q"))
        begun = await engines.begin_run(context_of(own, thread_id=own), request("q"))
        assert begun.kind is ThreadKind.REQUEST
        engines.clock.now += 1
    page = await engines.store.load_threads(ALICE, before=None, limit=2)
    rest = await engines.store.load_threads(ALICE, before=page.cursor, limit=2)
    found = [thread.thread_id for thread in (*page.threads, *rest.threads)]
    assert found == ["chat2", "chat1", "chat0"]
    thread = await engines.store.load_thread(key_of("request1"))
    assert thread is not None
    assert thread.kind is ThreadKind.REQUEST


async def test_a_thread_stays_what_it_is(engines: Engines) -> None:
    await engines.begin(context_of("1"), "q")
    await engines.end(context_of("1"))
    begun = await engines.begin_run(context_of("2"), request("q2"))
    assert begun.kind is ThreadKind.CHAT
    await engines.begin_run(context_of("3", thread_id="other"), request("q"))
    await engines.end(context_of("3", thread_id="other"))
    begun = await engines.begin_run(context_of("4", thread_id="other"), draft_of("q2"))
    assert begun.kind is ThreadKind.REQUEST


async def test_requests_whose_runs_have_ended_are_told_to_be_removed(engines: Engines) -> None:
    async def due(limit: int = 10) -> list[str]:
        keys = await engines.store.load_ended_requests(older_than=engines.clock(), limit=limit)
        return [key.thread_id for key in keys]

    await engines.begin_run(context_of("0", thread_id="chat"), draft_of("q"))
    await engines.end(context_of("0", thread_id="chat"))
    for name in "abc":
        await engines.begin_run(context_of(name, thread_id=name), request("q"))
    await engines.add_run(context_of("b2", thread_id="b"), draft_of("q2"))
    for name in "cba":
        await engines.end(context_of(name, thread_id=name))
        engines.clock.now += 1
    assert await due() == ["c", "a"]
    if engines.reopen is not None:
        engines = await engines.reopen()
    assert await due(1) == ["c"]
    await engines.log.delete(key_of("c"))
    await engines.begin_run(context_of("c2", thread_id="c"), request("q"))
    await engines.end(context_of("c2", thread_id="c"))
    assert await due() == ["a"]
    engines.clock.now += 1
    assert await due() == ["a", "c"]
