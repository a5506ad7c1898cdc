"""Every log is a legal stream for `@ag-ui/client`, whatever the agent yielded."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import pytest
from ag_ui.core import EventType, RunAgentInput
from structlog.testing import capture_logs
from tests.house import House, ask, context_of, open_house
from tests.live.fuzz import (
    EVENT_BYTES,
    FAULTS,
    OWN_RUN,
    OWN_THREAD,
    any_stream,
    legal_stream,
    new_random,
    stream_that,
)
from tests.live.judge import Event, Message, Recording, Verdict, judge

from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal
from isolane.errors import AgentProtocolError
from isolane.events.grammar import RunGrammar

pytestmark = pytest.mark.timeout(900)  # the trial takes half a minute of CPU

LEGAL, BROKEN_OF_EACH, ANYTHING = 300, 25, 800
LONG, AT_ONCE = 300, 64

ENDS: Final = frozenset(
    {"TEXT_MESSAGE_END", "TOOL_CALL_END", "REASONING_END", "REASONING_MESSAGE_END"}
    | {"STEP_FINISHED", "SUBAGENT_FINISHED"}
)

# --- what the agents do --------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What one agent yields, how it leaves, and how its run must end."""

    name: str
    values: Sequence[object]
    leave: str = "returns"
    end: str | None = "success"
    """The outcome or the code of the run's last event; None where the client decides."""
    said: Sequence[Event] | None = None
    """What of it is in the log, where that is known."""


@dataclass(frozen=True)
class Played:
    """A case and what it left."""

    case: Case
    payloads: list[bytes]
    messages: list[Message]

    @property
    def events(self) -> list[Event]:
        """The log."""
        return [json.loads(payload) for payload in self.payloads]

    @property
    def end(self) -> str:
        """The outcome of the run, or the code of its error."""
        last = self.events[-1]
        return str(last.get("code") or last["outcome"]["type"])

    @property
    def raw(self) -> Recording:
        """The stream as the agent yielded it, for the client to read without the gateway."""
        values = [value for value in self.case.values if isinstance(value, dict)]
        events = [json.dumps(value).encode() for value in values]
        return Recording([self.payloads[0], *events])


def legal_cases(random: Random) -> Iterator[Case]:
    """Yield agents that keep the rules, and leave in all the ways there are."""
    ends = {"returns": "success", "raises": "agent_error", "exits": "agent_error",
            "is stopped": "cancelled", "fails": "agent_error", "finishes": "success",
            "interrupts": "interrupt", "goes on": "success"}  # fmt: skip
    for number in range(LEGAL):
        leave = random.choice([*ends, "returns", "returns"])
        said = legal_stream(random)
        yield Case(f"legal {number}", said, leave, ends[leave], said)


def broken_cases(random: Random) -> Iterator[Case]:
    """Yield agents that break one rule, somewhere in the middle of what is fine."""
    for name, fault in FAULTS.items():
        for number in range(BROKEN_OF_EACH):
            before, after = legal_stream(random), legal_stream(random)
            still_fine, wrong = fault(random)
            values = [*before, *still_fine, wrong, *after]
            yield Case(f"{name} {number}", values, end="agent_protocol", said=before)


def any_cases(random: Random) -> Iterator[Case]:
    """Yield agents that say what comes to their mind."""
    for number in range(ANYTHING):
        yield Case(f"anything {number}", any_stream(random), end=None)


LAST_WORDS: Final[dict[str, list[Event]]] = {
    "fails": [{"type": "RUN_ERROR", "message": "no"}],
    "finishes": [{"type": "RUN_FINISHED", "threadId": OWN_THREAD, "runId": OWN_RUN, "result": [1]}],
    "interrupts": [
        {
            "type": "RUN_FINISHED",
            "threadId": OWN_THREAD,
            "runId": OWN_RUN,
            "outcome": {"type": "interrupt", "interrupts": [{"id": "i", "reason": "may I?"}]},
        }
    ],
    "goes on": [
        {"type": "RUN_STARTED", "threadId": OWN_THREAD, "runId": OWN_RUN},
        {"type": "RUN_FINISHED", "threadId": OWN_THREAD, "runId": OWN_RUN},
        {"type": "RUN_FINISHED", "threadId": OWN_THREAD, "runId": OWN_RUN},
        {"type": "TEXT_MESSAGE_END", "messageId": "nobody's"},
        {"type": "RUN_STARTED", "threadId": OWN_THREAD, "runId": OWN_RUN},
    ],
}


class Actors:
    """The one agent of a house: plays the case that its run is named after."""

    def __init__(self, cases: Sequence[Case]) -> None:
        """Play `cases`; who opens the house sets `house`."""
        self.cases = {f"r-{number}": case for number, case in enumerate(cases)}
        self.house: House

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002, ARG002 - the contract's word for it
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield what the case says, and leave as it says."""
        case = self.cases[str(context.run_id)]
        for value in [*case.values, *LAST_WORDS.get(case.leave, [])]:
            yield _named(value, context)
        if case.leave == "raises":
            raise ValueError("the agent's own")
        if case.leave == "exits":
            raise SystemExit(3)
        if case.leave == "is stopped":
            await self.house.service.abort(context)
            await stop.wait()

    async def play(self, run_id: str) -> Played:
        """Run one case for a user of its own, and read back what it left."""
        context = context_of(run_id, user_id=f"user-{run_id}")
        await self.house.service.start(context, ask(context, "q"))
        payloads = [record.payload for record in await self.house.records(context)]
        snapshot = await self.house.ground.store.load_snapshot(context.thread_key)
        assert snapshot is not None
        return Played(self.cases[run_id], payloads, [*map(json.loads, snapshot.messages)])


def _named(value: object, context: UserExecutionContext) -> object:
    """Return the value with the names of its run where something stands for them."""
    if not isinstance(value, dict):
        return value
    names = {OWN_THREAD: context.thread_id, OWN_RUN: context.run_id}
    own = {name for name in ("threadId", "runId") if value.get(name) in (OWN_THREAD, OWN_RUN)}
    return value | {name: names[value[name]] for name in own}


async def play(cases: Sequence[Case]) -> list[Played]:
    """Run every case through grammar, writer, log and store."""
    actors = Actors(cases)
    async with open_house({"default": actors}, limit_event_bytes=EVENT_BYTES) as house:
        actors.house = house
        ids, played = list(actors.cases), list[Played]()
        while ids:
            now, ids = ids[:AT_ONCE], ids[AT_ONCE:]
            played += await asyncio.gather(*(actors.play(run_id) for run_id in now))
        return played


# --- the trial -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """All that was played, and what the client says to it."""

    played: list[Played]
    logs: list[Verdict]
    finished: list[Verdict]
    """To the same logs, had each run finished: an error may leave something open, a finish not."""
    raw: list[Verdict]
    """To what the agents yielded, where they yielded anything at all that came to their mind."""

    @property
    def anything(self) -> list[Played]:
        """Those on which the client has the say."""
        return [one for one in self.played if one.case.end is None]


@pytest.fixture(scope="module")
def trial() -> Trial:
    random = new_random()
    cases = [*legal_cases(random), *broken_cases(random), *any_cases(random)]
    with capture_logs():  # thousands of tracebacks of agents that were meant to fail
        played = asyncio.run(play(cases))
    logs = [Recording(one.payloads, one.messages) for one in played]
    finished = [Recording([*one.payloads[:-1], FINISH]) for one in played]
    raw = [one.raw for one in played if one.case.end is None]
    verdicts = judge([*logs, *finished, *raw])
    return Trial(
        played, verdicts[: len(logs)], verdicts[len(logs) : -len(raw)], verdicts[-len(raw) :]
    )


FINISH: Final = b'{"type":"RUN_FINISHED","threadId":"t","runId":"r"}'


def test_every_log_is_accepted(trial: Trial) -> None:
    refused = [
        (one.case.name, verdict.failure, verdict.malformed, one.events)
        for one, verdict in zip(trial.played, trial.logs, strict=True)
        if verdict.failure is not None or verdict.malformed
    ]
    assert refused == []


def test_every_log_leaves_nothing_open(trial: Trial) -> None:
    left_open = [
        (one.case.name, verdict.failure, one.events)
        for one, verdict in zip(trial.played, trial.finished, strict=True)
        if verdict.failure is not None
    ]
    assert left_open == []


def test_every_log_begins_once_and_ends_once(trial: Trial) -> None:
    for one in trial.played:
        types = [event["type"] for event in one.events]
        ends = [kind for kind in types if kind in {"RUN_FINISHED", "RUN_ERROR"}]
        assert (types[0], types.count("RUN_STARTED"), ends) == ("RUN_STARTED", 1, types[-1:])


def without_words(event: Event) -> Event:
    """Return an event without what the log withholds of a subagent's error, or adds to it."""
    if event["type"] != "SUBAGENT_ERROR":
        return event
    told = {"message", "code", "metadata", "rawEvent"}
    return {name: value for name, value in event.items() if name not in told}


def test_what_keeps_the_rules_passes_unchanged(trial: Trial) -> None:
    legal = [one for one in trial.played if one.case.name.startswith("legal")]
    assert len(legal) == LEGAL
    for one in legal:
        said = [*map(without_words, one.case.said or ())]
        through = [*map(without_words, one.events[1:-1])]
        assert (one.case.name, through[: len(said)]) == (one.case.name, said)
        assert {event["type"] for event in through[len(said) :]} <= ENDS
        assert (one.case.leave, one.end) == (one.case.leave, one.case.end)


def test_what_breaks_a_rule_ends_the_run_before_it(trial: Trial) -> None:
    broken = [one for one in trial.played if one.case.end == "agent_protocol"]
    assert len(broken) == len(FAULTS) * BROKEN_OF_EACH
    assert [(one.case.name, one.end) for one in broken if one.end != "agent_protocol"] == []
    for one in broken:
        said = [*map(without_words, one.case.said or ())]
        through = [*map(without_words, one.events[1 : len(said) + 1])]
        assert (one.case.name, through) == (one.case.name, said)


def test_client_and_gateway_agree_on_what_may_come(trial: Trial) -> None:
    disputed = [
        (one.case.name, verdict.failure, one.end, one.case.values)
        for one, verdict in zip(trial.anything, trial.raw, strict=True)
        if one.end != ("success" if verdict.failure is None else "agent_protocol")
    ]
    assert disputed == []


def test_client_and_store_make_the_same_messages_of_a_log(trial: Trial) -> None:
    differing = [
        (one.case.name, spoken(verdict.messages), one.messages, one.events)
        for one, verdict in zip(trial.played, trial.logs, strict=True)
        if spoken(verdict.messages) != one.messages
    ]
    assert differing == []


def test_client_makes_the_same_messages_of_chunks_as_the_gateway(trial: Trial) -> None:
    differing = [
        (one.case.name, spoken(verdict.messages), one.messages, one.case.values)
        for one, verdict in zip(trial.anything, trial.raw, strict=True)
        if verdict.failure is None and spoken(verdict.messages) != one.messages
    ]
    assert differing == []


def test_trial_is_about_something(trial: Trial) -> None:
    """What no stream contained, no test above has tried."""
    types = Counter(event["type"] for one in trial.played for event in one.events)
    assert set(types) == {kind.value for kind in EventType if not kind.value.endswith("_CHUNK")}
    ends = Counter(one.end for one in trial.anything)
    assert min(ends["success"], ends["agent_protocol"]) > ANYTHING / 10
    chunks = [one for one in trial.anything if b"_CHUNK" in b"".join(one.raw.payloads)]
    assert sum(one.end == "success" for one in chunks) > ANYTHING / 10
    roles = Counter(message["role"] for one in trial.played for message in one.messages)
    assert set(roles) == {"user", "assistant", "system", "tool", "reasoning", "activity"}


def takes(stream: Sequence[Event]) -> bool:
    """Say whether the gateway takes all of a stream."""
    try:
        spelled_out(stream)
    except AgentProtocolError:
        return False
    return True


def spelled_out(stream: Sequence[Event]) -> list[Event]:
    grammar = RunGrammar()
    through = [legal for event in stream for legal in grammar.accept(event)]
    return [*through, *grammar.close()]


def test_client_takes_what_the_gateway_takes() -> None:
    """Long streams, half of them shorthand; drawn at random, few would come this far.

    The client ends a shorthand under the name that it began with, and refuses its own end when a
    snapshot gave the message to another meanwhile, or somebody ended it by hand. The gateway
    writes the end that fits.
    """
    random = new_random()
    streams = [stream_that(takes, random) for _ in range(LONG)]
    logs = [Recording.of([START, *spelled_out(stream), END]) for stream in streams]
    verdicts = judge([*(Recording.of([START, *stream]) for stream in streams), *logs])
    raw, spelled = verdicts[:LONG], verdicts[LONG:]
    assert [verdict.failure for verdict in spelled if verdict.failure is not None] == []
    failures = [verdict.failure for verdict in raw if verdict.failure is not None]
    assert [one for one in failures if not re.search(r"Cannot send '\w+_END'", one)] == []
    assert len(failures) < LONG / 10
    for one, other in zip(raw, spelled, strict=True):
        assert one.failure is not None or one.messages == other.messages


def spoken(messages: Sequence[Message]) -> list[Message]:
    """Return the messages without those of an assistant that say nothing.

    The client shows them as empty; kept, they would go to the model as part of the history, and
    providers refuse them.
    """
    said = ("content", "toolCalls", "encryptedValue")
    return [one for one in messages if one["role"] != "assistant" or any(map(one.get, said))]


# --- the judge himself ---------------------------------------------------------------------------

START: Final[Event] = {"type": "RUN_STARTED", "threadId": "t", "runId": "r"}
END: Final[Event] = json.loads(FINISH)
TEXT: Final[Event] = {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}


@pytest.mark.parametrize(
    "events,taken",
    [
        ([TEXT, END], 0),
        ([START, START], 1),
        ([START, TEXT, END], 2),
        ([START, TEXT, TEXT], 2),
        ([START, END, TEXT], 2),
        ([START, {**TEXT, "role": "nobody"}], 1),
        ([START, {**TEXT, "messageId": 5}], 1),
    ],
    ids=["no start", "two starts", "left open", "opened twice", "after the end", "role", "id"],
)
def test_judge_refuses_an_illegal_log(events: list[Event], taken: int) -> None:
    verdict, honest = judge([Recording.of(events), Recording.of([START, END])])
    assert verdict.failure is not None
    assert verdict.taken == taken
    assert (honest.failure, honest.malformed) == (None, [])


def test_judge_refuses_what_its_schemas_do_not_describe() -> None:
    nameless = {"id": "m", "role": "tool", "content": "x"}
    (verdict,) = judge([Recording.of([START, {**TEXT, "role": 5}], messages=[nameless])])
    assert [words.partition(":")[0] for words in verdict.malformed] == [
        "TEXT_MESSAGE_START.role",
        "tool.toolCallId",
    ]
