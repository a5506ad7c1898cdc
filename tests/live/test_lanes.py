"""Users who look alike, over real sockets: each has exactly their own, whatever they all do.

A state machine draws what they do, and a ledger in dictionaries says what must come of it. After
each step every device has what is due to it and nothing else, and nothing that a user has got
holds a word of another's. The server's database, log and metrics are searched after each example.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.live.lanes.guest import Deed, Guest
from tests.live.lanes.ledger import DEVICES, FROM_START, RUNS_MAX
from tests.live.lanes.party import NAMES, After, Joins, Party, at_once
from tests.live.lanes.plot import PLOTS
from tests.live.lanes.thread import Run
from tests.live.lanes.venue import Venue
from tests.live.stage import SCRIPT, own_server

STEPS: Final = int(os.environ.get("ISOLANE_LANES_STEPS", "1500"))
"""How many steps are made; the environment may ask for more."""
SOAK_STEPS: Final = 100_000
STEPS_A_ROUND: Final = 10_000
STEPS_AN_EXAMPLE: Final = 50
GUESTS: Final = 3
RESTARTING_SHARE: Final = 4
"""One example in so many may restart the server, which takes as long as a hundred steps."""
PHASES: Final = (Phase.generate, Phase.shrink)
"""Not `explain`, which runs what failed many times more."""
ENV: Final = {
    "ISOLANE_DRAIN_TIMEOUT_S": "0",
    "ISOLANE_LIMIT_RUNS_PER_USER": str(RUNS_MAX),
    "ISOLANE_LIMIT_QUEUED_RUNS_PER_THREAD": "100",
    "ISOLANE_LIMIT_CONNECTIONS_PER_USER": "1000",
    "ISOLANE_LIMIT_FRAMES_PER_MINUTE": "1000000",
}

WHO = st.integers(0, GUESTS - 1)
ON = st.integers(0, DEVICES - 1)
# ("a:b", "c") and ("a", "b:c") are told apart, and so are a thread and a run of one id.
THREAD = st.sampled_from(("c", "b:c", "t"))
RUN = st.sampled_from(("c", "b:c", *(f"r-{number}" for number in range(1, 11))))
PLOT = st.sampled_from((*PLOTS, "hold", "hold", "hold"))
POLICY = st.sampled_from(("queue", "queue", "reject", "interrupt"))
AFTER = st.sampled_from(("start", "own", "head", "ahead", "foreign", "stale", 1, 2, 3, 5, 8))
WAY = st.tuples(AFTER, st.booleans())
JOINS = st.builds(Joins, ways=st.tuples(WAY, WAY), lag=st.integers(-4, 12))
KEY = st.sampled_from(("header", "subprotocol", "ticket"))
WHICH = st.integers(0, 11)


class Lanes(RuleBasedStateMachine):
    """What three users do on three devices each; every example has users of its own."""

    def __init__(self, venue: Venue, runner: asyncio.Runner) -> None:
        super().__init__()
        self.venue = venue
        self.runner = runner
        self.party = Party(venue, [])
        self.restarts_left = 0
        self.is_broken = False

    def do(self, deed: Deed) -> None:
        """Make a step."""
        self.venue.steps += 1
        self.finish(deed)

    def finish(self, deed: Deed) -> None:
        """Wait until a deed is done; one that fails ends the example."""
        try:
            self.runner.run(deed)
        except BaseException as error:
            self.is_broken = True
            self.venue.remember(error)
            raise

    def user(self, who: int) -> Guest:
        """Return one of the three."""
        return self.party.guests[who]

    @initialize(names=st.permutations(NAMES), chance=st.integers(1, RESTARTING_SHARE))
    def arrive(self, *, names: list[str], chance: int) -> None:
        self.party = Party(self.venue, names[:GUESTS])
        self.restarts_left = int(chance == RESTARTING_SHARE)

    @invariant()
    def everyone_has_exactly_their_own(self) -> None:
        self.finish(self.party.rest())

    def teardown(self) -> None:
        try:
            if not self.is_broken:
                self.finish(self.party.clear_up())
        finally:
            if self.is_broken:
                self.runner.run(self.party.give_up())

    # --- connections ---------------------------------------------------------------------------

    @rule(who=WHO, on=ON, is_plain=st.booleans(), key=KEY)
    def connect(self, *, who: int, on: int, is_plain: bool, key: str) -> None:
        self.do(self.user(who).connect(on, is_plain=is_plain, key=key))

    @rule(who=WHO, on=ON, is_reset=st.booleans())
    def drop(self, *, who: int, on: int, is_reset: bool) -> None:
        self.do(self.user(who).drop(on, is_reset=is_reset))

    @rule(who=WHO, on=ON, whose=WHO)
    def renew(self, *, who: int, on: int, whose: int) -> None:
        self.do(self.user(who).renew(on, self.user(whose).name))

    @precondition(lambda self: self.restarts_left and self.party.held)
    @rule(is_killed=st.booleans())
    def restart(self, *, is_killed: bool) -> None:
        self.restarts_left -= 1
        self.do(self.party.restart(is_killed=is_killed))

    # --- runs ----------------------------------------------------------------------------------

    @rule(who=WHO, on=ON, thread=THREAD, run=RUN, plot=PLOT, policy=POLICY)
    def ask(self, *, who: int, on: int, thread: str, run: str, plot: str, policy: str) -> None:
        self.do(self.user(who).ask(on, thread, run, plot, policy))

    @rule(who=WHO, on=ON, thread=THREAD, run=RUN, plot=PLOT, policy=POLICY)
    def ask_by_http(
        self, *, who: int, on: int, thread: str, run: str, plot: str, policy: str
    ) -> None:
        self.do(self.user(who).ask_by_http(on, thread, run, plot, policy))

    @precondition(lambda self: self.party.runs)
    @rule(which=WHICH, on=ON)
    def ask_again(self, *, which: int, on: int) -> None:
        guest, run = self.party.runs[which % len(self.party.runs)]
        self.do(guest.ask_again(on, run))

    @rule(who=WHO, on=ON, thread=THREAD, run=RUN, plot=PLOT)
    def stop_and_ask(self, *, who: int, on: int, thread: str, run: str, plot: str) -> None:
        self.do(self.user(who).overtake(on, thread, run, plot))

    @rule(who=WHO, on=ON, run=RUN, is_by_http=st.booleans())
    def abort(self, *, who: int, on: int, run: str, is_by_http: bool) -> None:
        guest = self.user(who)
        self.do(guest.desk.abort(run) if is_by_http else guest.abort(on, run))

    @precondition(lambda self: self.party.held)
    @rule(which=WHICH)
    def let_go(self, *, which: int) -> None:
        guest, run = self.held(which)
        self.do(guest.let_go(run))

    def held(self, which: int) -> tuple[Guest, Run]:
        """Return one of the runs that wait at a gate, and whose it is."""
        return self.party.held[which % len(self.party.held)]

    # --- reading -------------------------------------------------------------------------------

    @rule(who=WHO, on=ON, thread=THREAD, after=AFTER)
    def subscribe(self, *, who: int, on: int, thread: str, after: After) -> None:
        guest = self.user(who)
        self.do(guest.subscribe(on, thread, self.party.find(guest, on, thread, after)))

    @rule(who=WHO, on=ON, thread=THREAD)
    def unsubscribe(self, *, who: int, on: int, thread: str) -> None:
        self.do(self.user(who).unsubscribe(on, thread))

    @rule(who=WHO, on=ON, thread=THREAD, after=AFTER)
    def follow_by_http(self, *, who: int, on: int, thread: str, after: After) -> None:
        guest = self.user(who)
        self.do(guest.follow_by_http(on, thread, self.party.find(guest, on, thread, after)))

    @precondition(lambda self: self.party.runs)
    @rule(which=WHICH, on=ON, after=AFTER)
    def replay(self, *, which: int, on: int, after: After) -> None:
        guest, run = self.party.runs[which % len(self.party.runs)]
        place = self.party.find(guest, on, run.thread_id, after)
        self.do(guest.replay(on, run.run_id, place or FROM_START))

    @rule(on=ON, run=RUN)
    def all_replay(self, *, on: int, run: str) -> None:
        self.do(at_once([guest.replay(on, run, FROM_START) for guest in self.party.guests]))

    @rule(who=WHO, thread=THREAD, run=RUN)
    def read(self, *, who: int, thread: str, run: str) -> None:
        self.do(self.user(who).desk.read(thread, run))

    # --- threads -------------------------------------------------------------------------------

    @rule(who=WHO, thread=THREAD, is_new=st.booleans())
    def name_thread(self, *, who: int, thread: str, is_new: bool) -> None:
        guest = self.user(who)
        self.do(guest.desk.create(thread) if is_new else guest.desk.rename(thread))

    @rule(who=WHO, thread=THREAD)
    def delete(self, *, who: int, thread: str) -> None:
        self.do(self.user(who).desk.delete(thread))

    # --- several at once -----------------------------------------------------------------------

    @rule(on=ON, thread=THREAD, run=RUN, plot=PLOT)
    def all_ask(self, *, on: int, thread: str, run: str, plot: str) -> None:
        guests = self.party.guests
        self.do(at_once([guest.ask(on, thread, run, plot, "queue") for guest in guests]))

    @rule(on=ON, thread=THREAD)
    def all_subscribe(self, *, on: int, thread: str) -> None:
        self.do(at_once([guest.subscribe(on, thread, None) for guest in self.party.guests]))

    @rule(on=ON, run=RUN)
    def all_abort(self, *, on: int, run: str) -> None:
        self.do(at_once([guest.abort(on, run) for guest in self.party.guests]))

    @rule(who=WHO, on=ON, thread=THREAD, run=RUN, plot=PLOT, joins=JOINS)
    def join_what_begins(
        self, *, who: int, on: int, thread: str, run: str, plot: str, joins: Joins
    ) -> None:
        guest = self.user(who)
        move = partial(guest.ask, on, thread, run, plot, "interrupt")
        self.do(self.party.join(guest, on, thread, joins, move))

    @precondition(lambda self: self.party.held)
    @rule(which=WHICH, on=ON, joins=JOINS)
    def join_what_is_let_go(self, *, which: int, on: int, joins: Joins) -> None:
        guest, run = self.held(which)
        self.do(self.party.join(guest, on, run.thread_id, joins, partial(guest.let_go, run)))

    @precondition(lambda self: self.party.held)
    @rule(which=WHICH, on=ON, joins=JOINS)
    def join_what_is_stopped(self, *, which: int, on: int, joins: Joins) -> None:
        guest, run = self.held(which)
        move = partial(guest.abort, on, run.run_id)
        self.do(self.party.join(guest, on, run.thread_id, joins, move))


def play(data: Path, steps: int, first_seed: int) -> None:
    """Play until there were so many steps."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            server = runner.run(stack.enter_async_context(own_server(data, SCRIPT, env=ENV)))
            venue = Venue(server)
            stack.push_async_callback(venue.close)
            runner.run(venue.open())
            for number in count(first_seed):
                play_round(venue, runner, number, min(steps - venue.steps, STEPS_A_ROUND))
                if venue.steps >= steps:
                    break
        finally:
            runner.run(stack.aclose())
    # Whatever was drawn, it isn't a test of lives if there was but one.
    assert steps < STEPS_A_ROUND or venue.restarts.keys() == {True, False}


def play_round(venue: Venue, runner: asyncio.Runner, number: int, steps: int) -> None:
    """Play about so many steps; Hypothesis cuts some examples short."""
    chosen = settings(
        max_examples=-(-steps // STEPS_AN_EXAMPLE),
        stateful_step_count=STEPS_AN_EXAMPLE + 1,  # the arrival counts as one
        phases=PHASES,
        report_multiple_bugs=False,
    )
    machine = seed(number)(lambda: Lanes(venue, runner))
    try:
        run_state_machine_as_test(machine, settings=chosen)  # type: ignore[arg-type]  # makes one
    except Flaky as error:
        # What the clock decides need not come twice, and Hypothesis tells of nothing else then.
        assert venue.failure is not None
        raise venue.failure from error


@pytest.mark.timeout(3600)  # a minute and a half, where nothing else wants the machine
def test_every_user_has_exactly_their_own(tmp_path: Path) -> None:
    play(tmp_path / "data", STEPS, first_seed=0)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_user_has_exactly_their_own_for_long(tmp_path: Path) -> None:
    first_seed = int(os.environ.get("ISOLANE_LANES_SEED") or secrets.randbits(32))
    sys.stdout.write(f"\nISOLANE_LANES_SEED={first_seed}\n")
    play(tmp_path / "data", max(STEPS, SOAK_STEPS), first_seed)
