"""The promises of the book of runs: one run id once, one turn a thread, stops and limits by row."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.contracts.conftest import Engines
from tests.house import ALICE, context_of, draft_of, key_of, user_message

from isolane.context import RunKey
from isolane.contracts import (
    ActiveRun,
    Admitted,
    BegunRun,
    Opening,
    RunBook,
    RunDraft,
    RunEnd,
    RunState,
    StoredRun,
    Terms,
    ThreadKind,
    ensure,
)
from isolane.errors import Fenced, LimitExceeded, NotFound, RunConflict

KEY = key_of()


def key_of_run(run_id: str, *, user_id: str = ALICE) -> RunKey:
    return RunKey(user_id, run_id)


async def states(engines: Engines) -> dict[str, RunState]:
    return {run.run_id: run.state for run in await engines.book.load_open_runs()}


async def live(engines: Engines) -> set[str]:
    return {node.node_id for node in await engines.members.load_nodes()}


async def claimed(engines: Engines, node_id: str = "node", *, room: int = 9) -> list[str]:
    return [each.run.run_id for each in await engines.book.claim(node_id, room=room)]


async def line_up(engines: Engines, *run_ids: str) -> None:
    """Let the first run begin and the others wait behind it."""
    await engines.begin(context_of(run_ids[0]))
    for run_id in run_ids[1:]:
        await engines.add_run(context_of(run_id), draft_of(run_id))


def test_it_keeps_its_contract(engines: Engines) -> None:
    ensure(engines.book, RunBook)


# --- who is let in -------------------------------------------------------------------------------


async def test_a_run_begins_on_a_free_thread_and_waits_on_a_busy_one(engines: Engines) -> None:
    first = await engines.admit(context_of("1"), draft_of("a"))
    assert (first.position, first.ahead) == (0, None)
    assert first.begun is not None
    for position, run_id in ((1, "2"), (2, "3")):
        waiting = await engines.admit(context_of(run_id), draft_of(run_id))
        assert (waiting.begun, waiting.position, waiting.ahead) == (None, position, "1")
    other = await engines.admit(context_of("4", thread_id="other"), draft_of("d"))
    assert other.position == 0


async def test_a_run_id_is_let_in_once(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    for run_id in ("1", "2"):
        for thread_id in ("thread", "other"):
            again = context_of(run_id, thread_id=thread_id)
            known = await engines.book.admit(again, draft_of("else"), Terms())
            assert isinstance(known, StoredRun)
            assert (known.run_id, known.thread_id) == (run_id, "thread")
    bobs = await engines.admit(context_of("1", user_id="bob"), draft_of("a"))
    assert bobs.begun is not None


async def test_of_two_admissions_of_one_run_id_at_once_one_is_let_in(engines: Engines) -> None:
    both = [engines.book.admit(context_of("r"), draft_of("a"), Terms()) for _ in range(2)]
    outcomes = await asyncio.gather(*both)
    assert sorted(isinstance(one, Admitted) for one in outcomes) == [False, True]


async def test_policy_reject_refuses_a_busy_thread(engines: Engines) -> None:
    await line_up(engines, "1")
    with pytest.raises(RunConflict) as refused:
        await engines.admit(context_of("2"), draft_of("b"), policy="reject")
    assert refused.value.retryable
    assert await states(engines) == {"1": RunState.RUNNING}
    await engines.end(context_of("1"))
    assert (await engines.admit(context_of("2"), draft_of("b"), policy="reject")).position == 0


async def test_a_run_that_interrupts_is_next_and_stops_the_one_that_has_the_turn(
    engines: Engines,
) -> None:
    await line_up(engines, "1", "2", "3")
    for run_id in ("4", "5"):
        waiting = await engines.admit(context_of(run_id), draft_of(run_id), policy="interrupt")
        assert (waiting.position, waiting.ahead) == (1, "1")
    first, *others = await engines.book.load_open_runs()
    assert (first.run_id, first.stop_at) == ("1", engines.clock())
    assert [(run.run_id, run.stop_at) for run in others] == [
        ("5", None),
        ("4", None),
        ("2", None),
        ("3", None),
    ]


@pytest.mark.parametrize("most", [1, 3])
async def test_a_user_has_as_many_runs_as_allowed_and_one_that_ends_makes_room(
    engines: Engines, most: int
) -> None:
    terms = Terms(runs_per_user=most)
    contexts = [context_of(f"{n}", thread_id=f"t{n % 2}") for n in range(most)]
    for context in contexts:
        await engines.book.admit(context, draft_of("a"), terms)
    late = context_of("late", thread_id="late")
    with pytest.raises(LimitExceeded, match=f"runsPerUser is limited to {most}"):
        await engines.book.admit(late, draft_of("b"), terms)
    assert await engines.store.load_thread(late.thread_key) is None
    bobs = context_of("0", user_id="bob")
    assert isinstance(await engines.book.admit(bobs, draft_of("b"), terms), Admitted)
    await engines.end(contexts[0])
    assert isinstance(await engines.book.admit(late, draft_of("b"), terms), Admitted)


async def test_of_two_admissions_at_once_one_gets_the_last_slot(engines: Engines) -> None:
    outcomes = await asyncio.gather(
        *(
            engines.book.admit(
                context_of(f"{n}", thread_id=f"t{n}"), draft_of("a"), Terms(runs_per_user=1)
            )
            for n in range(2)
        ),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in outcomes) == ["Admitted", "LimitExceeded"]


async def test_runs_of_a_deleted_thread_take_no_slot(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    await engines.log.delete(KEY)
    terms = Terms(runs_per_user=1)
    again = await engines.book.admit(context_of("1"), draft_of("b"), terms)
    assert isinstance(again, Admitted)
    assert again.begun is not None


@pytest.mark.parametrize("most", [0, 2])
async def test_so_many_runs_wait_and_no_more(engines: Engines, most: int) -> None:
    await line_up(engines, *(str(n) for n in range(most + 1)))
    terms = Terms(queued_per_thread=most)
    with pytest.raises(LimitExceeded, match=f"queuedRunsPerThread is limited to {most}"):
        await engines.book.admit(context_of("late"), draft_of("b"), terms)
    assert len(await states(engines)) == most + 1


async def test_a_revocation_since_it_was_asked_for_stops_a_run(engines: Engines) -> None:
    now = engines.clock()
    await engines.revoke(ALICE, now)
    for run_id, asked_at, stop_at in (("1", now, now), ("2", now + 1, None), ("3", None, None)):
        context = context_of(run_id, thread_id=run_id)
        admitted = await engines.book.admit(context, draft_of("a"), Terms(asked_at=asked_at))
        assert isinstance(admitted, Admitted)
        assert admitted.stop_at == stop_at
        stored = await engines.store.load_run(context.run_key)
        assert stored is not None
        assert stored.stop_at == stop_at


# --- whose turn it is ----------------------------------------------------------------------------


async def test_an_end_hands_the_turn_on_in_its_own_transaction(engines: Engines) -> None:
    await line_up(engines, "1", "2", "3")
    assert await claimed(engines) == []
    for run_id, following in (("1", "2"), ("2", "3")):
        before = engines.transactions[0]
        await engines.end(context_of(run_id))
        assert engines.transactions[0] == before + 1
        assert await claimed(engines) == [following]
        assert (await engines.take_turn(context_of(following))).added
    await engines.end(context_of("3"))
    assert await claimed(engines) == []
    assert (await engines.admit(context_of("4"), draft_of("d"))).begun is not None


async def test_nobody_begins_before_the_turn_has_come(engines: Engines) -> None:
    await line_up(engines, "1", "2", "3")
    assert await claimed(engines) == []
    await engines.end(context_of("1"))
    (next_one,) = await engines.book.claim("node", room=9)
    assert next_one.run.run_id == "2"
    for lease in (
        replace(next_one.lease, run_no=next_one.lease.run_no + 1),
        replace(next_one.lease, fence=99),
    ):
        with pytest.raises(Fenced):
            await engines.book.begin(context_of("2"), lease)
    with pytest.raises(Fenced):
        await engines.book.begin(context_of("3"), replace(next_one.lease, fence=99))
    await engines.log.delete(KEY)
    with pytest.raises(NotFound):
        await engines.book.begin(context_of("2"), next_one.lease)


async def test_a_thread_whose_next_run_has_not_begun_is_busy(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    await engines.end(context_of("1"))
    assert (await engines.admit(context_of("3"), draft_of("c"))).ahead == "2"
    with pytest.raises(RunConflict):
        await engines.admit(context_of("4"), draft_of("d"), policy="reject")


async def test_a_run_is_claimed_by_one_node_as_long_as_that_lives(engines: Engines) -> None:
    await engines.members.register("one")
    for thread_id in "abc":
        await engines.begin(context_of(f"{thread_id}1", thread_id=thread_id))
        await engines.add_run(context_of(f"{thread_id}2", thread_id=thread_id), draft_of("x"))
        await engines.end(context_of(f"{thread_id}1", thread_id=thread_id))
    assert len(await claimed(engines, "one", room=2)) == 2
    assert len(await claimed(engines, "two")) == 1
    await engines.members.leave("one")
    assert len(await claimed(engines, "three")) == 3


async def test_a_node_claims_runs_of_its_own_agents_alone(engines: Engines) -> None:
    await engines.members.register("gateway")
    for name in ("a", "b", "c"):
        left = replace(Terms(), may_begin=False)
        context, draft = context_of(name, thread_id=name), draft_of("x", agent=name)
        admitted = await engines.book.admit(context, draft, left)
        assert isinstance(admitted, Admitted)
        assert (admitted.begun, admitted.position, admitted.ahead) == (None, 0, None)
    assert await engines.book.find_wanted() == {"a", "b", "c"}
    assert await engines.book.claim("gateway", room=9, agents=()) == []
    (own,) = await engines.book.claim("worker", room=9, agents=["a", "nobody's"])
    assert (await engines.book.begin(context_of("a", thread_id="a"), own.lease)).added
    assert await engines.book.find_wanted() == {"b", "c"}
    await engines.book.request_stop(key_of_run("b"), asked_at=1)
    (stopped,) = await engines.book.claim("gateway", room=9, agents=())
    assert stopped.run.run_id == "b"
    assert await claimed(engines, "alone") == ["c"]


async def test_a_run_that_is_left_to_others_waits_behind_the_one_under_way(
    engines: Engines,
) -> None:
    await engines.begin(context_of("1"))
    left = replace(Terms(), may_begin=False)
    admitted = await engines.book.admit(context_of("2"), draft_of("b", agent="other"), left)
    assert isinstance(admitted, Admitted)
    assert (admitted.begun, admitted.position, admitted.ahead) == (None, 1, "1")
    assert await engines.book.find_wanted() == frozenset()
    await engines.end(context_of("1"))
    assert await engines.book.find_wanted() == {"other"}


async def test_a_run_that_is_given_back_is_claimed_by_a_node_of_its_agent(
    engines: Engines,
) -> None:
    lease = await engines.begin(context_of("1"))
    assert await engines.book.give_back(lease)
    assert await engines.book.find_wanted() == {"default"}
    assert await engines.book.claim("other", room=9, agents=["other"]) == []
    assert len(await engines.book.claim("node", room=9, agents=["default"])) == 1


async def begin_restartable(
    engines: Engines, run_id: str = "1", *, node_id: str = "node"
) -> BegunRun:
    terms = replace(Terms(node_id=node_id), is_restartable=True)
    admitted = await engines.book.admit(context_of(run_id), draft_of("a"), terms)
    assert isinstance(admitted, Admitted)
    assert admitted.begun is not None
    return admitted.begun


async def test_a_restartable_run_that_is_handed_over_begins_anew_elsewhere(
    engines: Engines,
) -> None:
    begun = await begin_restartable(engines)
    await engines.log.append(begun.lease, [b"{}", b"{}"], batch=1)
    assert await engines.book.hand_over(begun.lease)
    assert not await engines.book.hand_over(begun.lease)
    with pytest.raises(Fenced):
        await engines.log.append(begun.lease, [b"late"], batch=2)
    assert (await engines.admit(context_of("2"), draft_of("b"))).ahead == "1"
    (claimed_one,) = await engines.book.claim("other", room=9)
    anew = await engines.book.begin(context_of("1"), claimed_one.lease, is_restartable=True)
    assert (anew.is_anew, anew.attempt) == (True, 1)
    assert [message["content"] for message in anew.history] == ["a"]
    assert (anew.after, list(anew.added)) == (begun.after, list(begun.added))
    await engines.log.append(anew.lease, [b"{}"], batch=1)
    assert await engines.book.claim("third", room=9) == []


async def test_a_restartable_run_of_a_node_that_died_begins_anew_three_times_at_most(
    engines: Engines,
) -> None:
    await engines.members.register("dies")
    begun = await begin_restartable(engines, node_id="dies")
    lease = begun.lease
    assert not await engines.book.begin_anew(key_of_run("1"))  # its node lives
    for attempt in (2, 3):
        await engines.log.append(lease, [b"{}"], batch=1)
        await engines.members.leave("dies")
        assert await engines.book.begin_anew(key_of_run("1"))
        with pytest.raises(Fenced):
            await engines.log.append(lease, [b"late"], batch=2)
        (claimed_one,) = await engines.book.claim("dies", room=9)
        anew = await engines.book.begin(context_of("1"), claimed_one.lease)
        assert (anew.is_anew, anew.attempt) == (True, attempt)
        lease = anew.lease
    assert not await engines.book.begin_anew(key_of_run("1"))
    assert [run.run_id for run in await engines.book.find_lost()] == ["1"]


async def test_runs_that_are_stopped_ended_or_not_restartable_are_not_handed_over(
    engines: Engines,
) -> None:
    lease = await engines.begin(context_of("1"))
    assert not await engines.book.hand_over(lease)
    assert not await engines.book.begin_anew(key_of_run("1"))
    await engines.end(context_of("1"))
    begun = await begin_restartable(engines, "2")
    assert not await engines.book.hand_over(replace(begun.lease, fence=1))
    await engines.book.request_stop(key_of_run("2"), asked_at=1)
    assert not await engines.book.hand_over(begun.lease)
    assert not await engines.book.begin_anew(key_of_run("2"))


async def test_a_run_is_begun_by_the_lease_of_the_newest_claim(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    await engines.end(context_of("1"))
    (first,) = await engines.book.claim("dead", room=9)
    (second,) = await engines.book.claim("node", room=9)
    with pytest.raises(Fenced):
        await engines.book.begin(context_of("2"), first.lease)
    begun = await engines.book.begin(context_of("2"), second.lease)
    assert begun.lease == second.lease


async def test_a_begin_whose_answer_was_lost_is_repeated(engines: Engines) -> None:
    await engines.begin(context_of("1"), "a", "b")
    await engines.add_run(context_of("2"), draft_of("in other words", "c", rewind_to="b"))
    await engines.end(context_of("1"))
    lease = await engines.claim(context_of("2"))
    begun = await engines.book.begin(context_of("2"), lease)
    assert await engines.book.begin(context_of("2"), lease) == begun
    await engines.log.append(lease, [b"{}"], batch=1)
    with pytest.raises(Fenced):
        await engines.book.begin(context_of("2"), lease)


async def test_a_claim_whose_answer_was_lost_is_not_claimed_anew(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    await engines.end(context_of("1"))
    assert await claimed(engines) == ["2"]
    assert await claimed(engines) == []
    (held,) = await engines.book.load_held("node")
    assert await engines.book.give_back(held.lease)
    assert await claimed(engines) == ["2"]


async def test_a_turn_that_was_lost_is_handed_on(engines: Engines) -> None:
    await line_up(engines, "1", "2", "3")
    assert await engines.book.mend_turns() == 0
    await engines.execute("UPDATE runs SET state = 'ended' WHERE run_id = '1'")
    assert await claimed(engines) == []
    assert await engines.book.mend_turns() == 1
    assert await claimed(engines) == ["2"]
    assert await engines.book.mend_turns() == 0


async def test_who_comes_after_a_lost_turn_waits_behind_those_who_wait(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    await engines.execute("UPDATE runs SET state = 'ended' WHERE run_id = '1'")
    late = await engines.admit(context_of("3"), draft_of("c"))
    assert (late.begun, late.position, late.ahead) == (None, 2, None)
    assert await claimed(engines) == ["2"]


async def test_a_run_whose_end_cannot_be_written_holds_up_nobody(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    await engines.book.give_up(key_of_run("1"))
    assert await claimed(engines) == ["2"]
    assert await states(engines) == {"1": RunState.RUNNING, "2": RunState.QUEUED}
    terms = Terms(runs_per_user=2)
    assert isinstance(await engines.book.admit(context_of("3"), draft_of("c"), terms), Admitted)
    await engines.book.give_up(key_of_run("unknown"))


# --- what a node holds, and gives back -----------------------------------------------------------


async def test_a_node_holds_what_it_has_claimed_or_begun(engines: Engines) -> None:
    await engines.book.admit(context_of("1"), draft_of("a"), Terms(node_id="one"))
    await engines.add_run(context_of("2"), draft_of("b"))
    other = context_of("1", thread_id="other", user_id="bob")
    await engines.book.admit(other, draft_of("c"), Terms(node_id="two"))
    (held,) = await engines.book.load_held("one")
    assert (held.lease.run_id, held.has_begun, held.has_events) == ("1", True, False)
    await engines.log.append(held.lease, [b"{}"], batch=1)
    assert await engines.book.load_held("one") == [replace(held, has_events=True)]
    await engines.end(context_of("1"))
    assert await engines.book.load_held("one") == []
    (next_one,) = await engines.book.claim("one", room=9)
    (held,) = await engines.book.load_held("one")
    assert (held.lease, held.has_begun, held.has_events) == (next_one.lease, False, False)
    await engines.log.delete(KEY)
    assert await engines.book.load_held("one") == []


async def test_a_claimed_run_that_is_given_back_is_anybodys(engines: Engines) -> None:
    await line_up(engines, "1", "2", "3")
    await engines.end(context_of("1"))
    await engines.members.register("one")
    (first,) = await engines.book.claim("one", room=9)
    assert await claimed(engines, "two") == []
    assert await engines.book.give_back(first.lease)
    with pytest.raises(Fenced):
        await engines.book.begin(context_of("2"), first.lease)
    assert await engines.book.load_held("one") == []
    assert await claimed(engines, "two") == ["2"]
    assert not await engines.book.give_back(first.lease)


@pytest.mark.parametrize(
    "draft",
    [
        draft_of("c", "d"),
        draft_of("in other words", rewind_to="b"),
        RunDraft("default", [user_message("b")], "b", {}, asks_again=True),
        replace(draft_of("e"), request={"state": {"a": 1}}),
        RunDraft("default", [], None, {}),
    ],
    ids=["adds", "rewinds", "asks again", "has a state", "adds nothing"],
)
async def test_a_run_that_was_admitted_and_is_given_back_joins_its_thread_once(
    engines: Engines, draft: RunDraft
) -> None:
    await engines.begin(context_of("1"), "a", "b")
    await engines.end(context_of("1"), messages=[], state=b'{"kept":1}')
    begun = await engines.begin_run(context_of("2"), draft)
    assert await engines.book.give_back(begun.lease)
    (waiting,) = await engines.book.load_open_runs()
    assert (waiting.state, waiting.after) == (RunState.QUEUED, begun.after)
    with pytest.raises(Fenced):
        await engines.log.append(begun.lease, [b"{}"], batch=1)
    lease = await engines.claim(context_of("2"))
    assert await engines.book.begin(context_of("2"), lease) == replace(begun, lease=lease)
    (record,) = await engines.log.append(lease, [b"{}"], batch=1)
    assert record.id.seq == begun.after.seq + 1
    await engines.end(context_of("2"))
    assert await engines.book.load_open_runs() == []


async def test_nothing_is_given_back_by_another_lease_or_after_an_event(engines: Engines) -> None:
    lease = await engines.begin(context_of("1"))
    for other in (replace(lease, fence=lease.fence - 1), replace(lease, run_no=lease.run_no + 1)):
        assert not await engines.book.give_back(other)
    newer = await engines.log.take_over(KEY, "1")
    assert not await engines.book.give_back(lease)
    await engines.log.append(newer, [b"{}"], batch=1)
    newest = await engines.log.take_over(KEY, "1")  # whose batches are counted anew
    assert not await engines.book.give_back(newest)
    end = RunEnd("1", "success", None, (), engines.clock())
    await engines.log.append(newest, [b"{}"], batch=1, end=end)
    assert not await engines.book.give_back(newest)
    assert await states(engines) == {}
    lease = await engines.begin(context_of("2"))
    await engines.log.delete(KEY)
    assert not await engines.book.give_back(lease)


# --- stops ---------------------------------------------------------------------------------------


async def test_the_first_stop_of_a_run_counts_and_an_ended_one_stays(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    for run_id in ("1", "2"):
        for asked_at in (7, 8):
            assert await engines.book.request_stop(key_of_run(run_id), asked_at=asked_at)
    assert [run.stop_at for run in await engines.book.load_open_runs()] == [7, 7]
    await engines.begin(context_of("3", thread_id="other"))
    await engines.end(context_of("3", thread_id="other"))
    assert await engines.book.request_stop(key_of_run("3"), asked_at=9)
    ended = await engines.store.load_run(key_of_run("3"))
    assert ended is not None
    assert ended.stop_at is None
    assert not await engines.book.request_stop(key_of_run("1", user_id="bob"), asked_at=9)


async def test_the_id_of_a_run_that_attached_stops_the_other(engines: Engines) -> None:
    await line_up(engines, "1")
    await engines.book.attach(context_of("2"), run_id="1", asked=[])
    assert await engines.book.request_stop(key_of_run("2"), asked_at=7)
    (run,) = await engines.book.load_open_runs()
    assert (run.run_id, run.stop_at) == ("1", 7)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "in its turn"])
async def test_an_abort_waits_ten_seconds_for_its_run(engines: Engines, *, waits: bool) -> None:
    if waits:
        await line_up(engines, "ahead")
    for run_id in ("in-time", "too-late"):
        assert not await engines.book.request_stop(key_of_run(run_id), asked_at=0)
    asked_at = engines.clock()
    engines.clock.now += 10_000
    bobs = await engines.admit(context_of("in-time", user_id="bob"), draft_of("a"))
    assert bobs.stop_at is None
    assert (await engines.admit(context_of("in-time"), draft_of("a"))).stop_at == asked_at
    engines.clock.now += 1
    assert (await engines.admit(context_of("too-late"), draft_of("b"))).stop_at is None


async def test_a_hundred_aborts_of_each_user_wait(engines: Engines) -> None:
    assert not await engines.book.request_stop(key_of_run("r0", user_id="bob"), asked_at=0)
    for number in range(101):
        await engines.book.request_stop(key_of_run(f"r{number}"), asked_at=0)
    for run_id, user_id, is_kept in (
        ("r0", ALICE, False),
        ("r1", ALICE, True),
        ("r0", "bob", True),
    ):
        context = context_of(run_id, user_id=user_id)
        assert ((await engines.admit(context, draft_of("a"))).stop_at is not None) == is_kept


async def test_an_abort_of_an_id_that_attaches_stops_the_other(engines: Engines) -> None:
    await line_up(engines, "1")
    await engines.book.request_stop(key_of_run("2"), asked_at=0)
    assert await engines.book.attach(context_of("2"), run_id="1", asked=[]) == engines.clock()
    assert await engines.book.attach(context_of("3"), run_id="1", asked=[]) is None
    (run,) = await engines.book.load_open_runs()
    assert run.stop_at == engines.clock()


async def test_a_refused_run_leaves_its_abort_waiting(engines: Engines) -> None:
    await line_up(engines, "1")
    await engines.book.request_stop(key_of_run("2"), asked_at=0)
    with pytest.raises(RunConflict):
        await engines.admit(context_of("2"), draft_of("b"), policy="reject")
    assert (await engines.admit(context_of("2"), draft_of("b"))).stop_at is not None


async def test_a_node_sees_each_stop_of_its_runs_once(engines: Engines) -> None:
    for node_id in ("one", "two"):
        context = context_of(node_id, thread_id=node_id)
        await engines.book.admit(context, draft_of("a"), Terms(node_id=node_id))
        await engines.book.request_stop(context.run_key, asked_at=7)
    assert await engines.book.load_stops("one") == [(key_of_run("one"), 7)]
    await engines.book.note_stops([key_of_run("one")])
    assert await engines.book.load_stops("one") == []
    assert await engines.book.load_stops("two") == [(key_of_run("two"), 7)]


async def test_all_runs_of_users_are_stopped_that_they_had_at_a_time(engines: Engines) -> None:
    before = engines.clock()
    await line_up(engines, "1", "2")
    await engines.begin(context_of("1", user_id="bob"))
    await engines.begin(context_of("1", user_id="carol"))
    await engines.book.request_stop(key_of_run("1"), asked_at=7)
    engines.clock.now += 1
    await engines.add_run(context_of("3"), draft_of("c"))
    await engines.begin(context_of("2", user_id="bob", thread_id="other"))
    until = {ALICE: before, "bob": before + 1, "nobody": before}
    await engines.book.request_stops(until, asked_at=9)
    found = {run.key: run.stop_at for run in await engines.book.load_open_runs()}
    assert found == {
        key_of_run("1"): 7,
        key_of_run("2"): 9,
        key_of_run("3"): None,
        key_of_run("1", user_id="bob"): 9,
        key_of_run("2", user_id="bob"): 9,
        key_of_run("1", user_id="carol"): None,
    }


async def test_stops_of_users_without_a_run_write_nothing(engines: Engines) -> None:
    await engines.begin(context_of("1"))
    before = engines.transactions[0]
    await engines.book.request_stops({f"user-{n}": 10**15 for n in range(100)}, asked_at=9)
    assert engines.transactions[0] - before <= 1  # a look


# --- what is lost and what is under way ----------------------------------------------------------


async def test_a_run_is_lost_once_its_node_lives_no_more(engines: Engines) -> None:
    await engines.members.register("one")
    for run_id in ("1", "2"):
        await engines.book.admit(context_of(run_id), draft_of(run_id), Terms(node_id="one"))
    assert await engines.book.find_lost() == []
    await engines.members.leave("one")
    (lost,) = await engines.book.find_lost()
    assert lost.run_id == "1"
    await engines.members.register("two")
    assert await engines.book.take_over(lost.key, "two")
    assert await engines.book.find_lost() == []
    assert not await engines.book.take_over(key_of_run("2"), "two")


async def test_a_run_that_was_given_up_is_lost_once_its_thread_is_free(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    await engines.book.give_up(key_of_run("1"))
    assert await engines.book.find_lost() == []
    assert not await engines.book.take_over(key_of_run("1"), "node")
    await engines.take_turn(context_of("2"))
    await engines.end(context_of("2"))
    assert [run.run_id for run in await engines.book.find_lost()] == ["1"]
    assert await engines.book.take_over(key_of_run("1"), "node")
    assert (await engines.admit(context_of("3"), draft_of("c"))).ahead == "1"


async def test_runs_under_way_are_told_in_chats_alone(engines: Engines) -> None:
    await line_up(engines, "1", "2")
    request = replace(draft_of("a"), opening=Opening(ThreadKind.REQUEST))
    await engines.begin_run(context_of("3", thread_id="request"), request)
    await engines.begin(context_of("1", user_id="bob"))
    (record,) = await engines.write(KEY, "1", [b"{}"])
    assert await engines.book.find_active(ALICE) == [ActiveRun("thread", "1", record.id)]
    await engines.end(context_of("1"))
    assert await engines.book.find_active(ALICE) == []


async def test_members_are_those_who_registered_and_have_not_left(engines: Engines) -> None:
    assert await live(engines) == frozenset()
    await engines.members.register("one")
    await engines.members.beat("one")
    assert await live(engines) == {"one"}
    await engines.members.register("two")  # the file has one gateway: it has started anew
    assert await live(engines) == {"two"}
    await engines.members.leave("one")
    await engines.members.leave("two")
    assert await live(engines) == frozenset()
    assert engines.members.clock_skew_ms() == 0
