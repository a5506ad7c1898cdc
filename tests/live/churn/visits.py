"""How the users of the churn spend their time: visit a thread, have rounds of runs there, leave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Final, Literal, assert_never, get_args

from tests.live.churn.devices import Device, ask_by_post, ask_plainly, replay, stream
from tests.live.churn.rounds import Ask, Manner, Round, judge_run
from tests.live.churn.tab import Leaving, Stopping, Tab
from tests.live.churn.world import PATIENCE_S, Person
from tests.live.client import Follower, parse_id
from tests.live.event_stream import Entry

THREADS: Final = 3
TABS: Final = (2, 2, 3)
ROUNDS: Final = (2, 6)
THREAD_RUNS_MAX: Final = 30
"""A thread that holds more is deleted: the agents are given all that was said in it."""
DELETED_SHARE: Final = 0.1
LEFT_SHARE: Final = 0.3
LEAVINGS: Final[Sequence[Leaving]] = get_args(Leaving)
STOPPINGS: Final[Sequence[Stopping]] = get_args(Stopping)
WORDS: Final = (6, 20)
PACES_S: Final = (0.0, 0.005, 0.02)
REJECTING_S: Final = 2.0
"""A run lives so long before which another is refused. It outlasts all copies of the other's frame
that are under way, so that when one of them is refused none that comes later is taken."""
Kind = Literal["talk", "blob", "raise", "stop", "queue", "interrupt", "reject"]
PLANS: Final[dict[Kind, int]] = {
    "talk": 30,
    "blob": 8,
    "raise": 8,
    "stop": 20,
    "queue": 12,
    "interrupt": 12,
    "reject": 10,
}
"""What a round is about, and how often of a hundred."""
STOPPED: Final[dict[Manner, int]] = {"talk": 6, "wait": 3, "deaf": 1}
"""How agents take it that they are stopped, and how often of ten."""


async def live(person: Person) -> None:
    """Visit thread after thread until it is time to go home, and leave nothing open."""
    try:
        while not person.world.is_over:
            await visit(person, f"t-{person.chance.randrange(THREADS)}")
        await find_nothing_running(person)
    finally:
        await person.go_home()


async def find_nothing_running(person: Person) -> None:
    """Fail when anything says that a run of this user goes on."""

    async def attempt() -> bool:
        async with person.connect() as client:
            assert client.welcome is not None
            assert client.welcome["activeRuns"] == []
        return True

    await person.persist(attempt)
    threads = (await person.ask_http("GET", "/api/threads")).json()["threads"]
    assert {thread["activeRunId"] for thread in threads} <= {None}, threads


async def cut_now_and_then(person: Person) -> None:
    """Break the person's line again and again."""
    while not person.world.is_over:
        person.count("line cuts")
        person.proxy.cut()
        await person.rest(0.5, 6)  # the pace of the cuts


async def visit(person: Person, thread_id: str) -> None:
    """Come to a thread with a few tabs, and leave."""
    tabs = [Tab(person, thread_id) for _ in range(person.chance.choice(TABS))]
    try:
        await stay(person, tabs)
    finally:
        for tab in tabs:
            await tab.leave(person.chance.choice(LEAVINGS))
    person.count("visits")


async def stay(person: Person, tabs: Sequence[Tab]) -> None:
    """Have a few rounds, look at all that was said, and maybe delete it."""
    thread_id = tabs[0].thread_id
    for tab in tabs:
        await tab.open()
    start = tabs[0].log.cursor
    for _ in range(person.chance.randint(*ROUNDS)):
        person.held[thread_id] += await have_round(person, tabs)
        if person.chance.random() < LEFT_SHARE:  # it comes back for the next round
            await person.chance.choice(tabs).leave(person.chance.choice(LEAVINGS))
        await person.rest(0.3, 1.5)
    await look_back(person, tabs, start)
    if person.held[thread_id] > THREAD_RUNS_MAX or person.chance.random() < DELETED_SHARE:
        await delete(person, tabs)
        person.held[thread_id] = 0


# --- a round -------------------------------------------------------------------------------------


def plan(person: Person, tab: Tab) -> Round:
    """Draw what is asked for."""
    (kind,) = person.chance.choices(list(PLANS), list(PLANS.values()))
    person.count(f"rounds of {kind}")
    match kind:
        case "stop":
            (manner,) = person.chance.choices(list(STOPPED), list(STOPPED.values()))
            asks = [new_ask(person, manner, stop_after=person.chance.randint(1, 5))]
        case "queue" | "interrupt":
            count = 3 if kind == "queue" else 2
            asks = [new_ask(person, policy=kind if n else "queue") for n in range(count)]
        case "reject":
            first = new_ask(person, words=20, every_s=REJECTING_S / 20)
            asks = [first, new_ask(person, policy=kind)]
        case "talk" | "blob" | "raise":
            asks = [new_ask(person, kind)]
        case _:
            assert_never(kind)
    return Round(tab.thread_id, asks, tab.log.cursor)


def new_ask(
    person: Person,
    manner: Manner = "talk",
    *,
    policy: str = "queue",
    words: int | None = None,
    every_s: float | None = None,
    stop_after: int | None = None,
) -> Ask:
    """Draw one run, as far as nothing is said of it."""
    person.runs += 1
    return Ask(
        f"r-{person.runs}",
        person.mark,
        person.chance.randint(*WORDS) if words is None else words,
        person.chance.choice(PACES_S) if every_s is None else every_s,
        manner,
        policy,
        stop_after,
    )


async def have_round(person: Person, tabs: Sequence[Tab]) -> int:
    """Ask and listen on every device, compare what they heard, and return how many runs it was."""
    made = plan(person, tabs[0])
    asker, listeners = choose_devices(person, made)
    others = [*([asker] if asker else []), *listeners]
    try:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            heard = [group.create_task(device(person, made)) for device in others]
            group.create_task(tabs[0].follow(made, asks=asker is None))
            group.create_task(tabs[1].follow(made, stops=person.chance.choice(STOPPINGS)))
            for tab in tabs[2:]:
                group.create_task(tab.follow(made))
    except BaseException as error:
        ended = [sorted(tab.ended & made.wanted) for tab in tabs]
        error.add_note(f"{person.lane.user} had {made}; ended for its tabs: {ended}")
        raise
    logs = [tab.log for tab in tabs]
    await judge_round(person, made, logs, [task.result() for task in heard])
    return len(made.wanted)


def choose_devices(person: Person, made: Round) -> tuple[Device | None, list[Device]]:
    """Draw who asks instead of a tab, which only a lone run allows, and who else listens."""
    chance = person.chance
    asker = chance.choice((None, ask_plainly, ask_by_post)) if len(made.asks) == 1 else None
    listeners: list[Device] = [replay] if chance.random() < 0.3 else []
    # A stream can't tell that the last run it waits for was refused.
    is_sure = all(ask.policy != "reject" for ask in made.asks)
    return asker, [*listeners, *([stream] if is_sure and chance.random() < 0.25 else [])]


async def judge_round(
    person: Person, made: Round, logs: Sequence[Follower], heard: Sequence[list[Entry]]
) -> None:
    """Fail unless every device heard the same, and each run is whole and ended once."""
    envelopes = [e for e in logs[0].envelopes if e["runId"] in made.wanted]
    in_turn = [run_id for run_id, _ in groupby(envelope["runId"] for envelope in envelopes)]
    assert sorted(in_turn) == sorted(made.wanted), in_turn
    assert all(log.envelopes == logs[0].envelopes for log in logs)
    of_all = [Entry(e["id"], e["chunk"]) for e in envelopes]
    of_first = [Entry(e["id"], e["chunk"]) for e in envelopes if e["runId"] == in_turn[0]]
    for entries in heard:
        assert entries in (of_all, of_first), (made, entries, of_all)
    person.count("runs refused by policy", len(made.refused))
    for ask in made.asks:
        if ask.run_id in made.wanted:
            await judge_end(person, made, ask, logs[0])


async def judge_end(person: Person, made: Round, ask: Ask, log: Follower) -> None:
    """Fail unless a run is whole, and what is on record of it is how it ended."""
    outcomes = made.possible_outcomes(ask) | person.world.faulty_outcomes
    outcome = judge_run(ask, log.of_run(ask.run_id), outcomes)
    person.count("runs ended")
    person.count(f"runs ended: {outcome}")
    run = (await person.ask_http("GET", f"/api/runs/{ask.run_id}")).json()
    assert (run["state"], run["outcome"]) == ("ended", outcome), run


# --- afterwards ----------------------------------------------------------------------------------


async def look_back(person: Person, tabs: Sequence[Tab], start: str) -> None:
    """Read what was said once more: all that was seen is there, and nothing says running."""
    seen = tabs[0].log
    again = Tab(person, seen.thread_id, Follower(seen.thread_id, start))
    await again.catch_up(seen)
    assert again.log.envelopes == seen.envelopes
    await again.leave("goodbye")
    thread = (await person.ask_http("GET", f"/api/threads/{seen.thread_id}")).json()
    assert (thread["activeRunId"], thread["head"]) == (None, seen.cursor), thread
    person.count("entries read again", len(seen.envelopes))


async def delete(person: Person, tabs: Sequence[Tab]) -> None:
    """Delete the thread under a run: its devices are told, and nothing of it is left."""
    ask = new_ask(person, "wait")
    made = Round(tabs[0].thread_id, [ask], tabs[0].log.cursor)
    await until_begun(tabs[0], made)
    await person.ask_http("DELETE", f"/api/threads/{made.thread_id}", 404)
    person.count("threads deleted")
    person.count("tabs told of a deletion", sum([await tab.until_deleted() for tab in tabs]))
    for path in (f"/api/threads/{made.thread_id}", f"/api/runs/{ask.run_id}"):
        assert (await person.ask_http("GET", path, 404)).is_client_error
    fresh = Tab(person, made.thread_id)
    await fresh.open()
    epoch, head_seq = parse_id(fresh.log.cursor)
    assert (epoch == parse_id(made.after)[0], head_seq) == (False, 0)
    await fresh.leave("goodbye")


async def until_begun(tab: Tab, made: Round) -> None:
    """Ask, and return once it was taken on; what comes of it is not waited for."""
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        asking = group.create_task(tab.follow(made, asks=True))
        await made.begun.wait()
        asking.cancel()
