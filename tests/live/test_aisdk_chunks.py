"""Whatever an agent says, the package `ai` refuses none of the chunks that are made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Final

import pytest
from tests.live.aisdk_judge import UIVerdict, judge_chunks
from tests.live.fuzz import IDS, Dice, legal_stream, new_random

from isolane.events.event import encode_event
from isolane.events.grammar import RunGrammar
from isolane.wire.aisdk.chunks import Chunk, UIChunks
from isolane.wire.aisdk.messages import UIMessage, UIMessageFold

Event = dict[str, Any]
TURNS: Final = 600
ENDS: Final = ("success", "success", "interrupt", "interrupt", "cancelled", "error")
PAYLOADS: Final[Sequence[object]] = (
    None, "yes", True, {"approved": True}, {"approved": False, "reason": "no"}, {"approved": "x"},
)  # fmt: skip
CUSTOMS: Final[Sequence[Event]] = (
    {"name": "source", "value": {"url": "https://a.example", "title": "A"}},
    {"name": "source", "value": {"mediaType": "text/plain", "title": "A", "id": "s"}},
    {"name": "source", "value": {"url": 1}},
    {"name": "file", "value": {"url": "data:,x", "mediaType": "text/plain"}},
    {"name": "file", "value": None},
    {"name": "weather", "value": {"c": 21}, "metadata": {"id": "w"}},
    {"name": "weather", "value": None, "metadata": {"id": 1, "transient": True}},
    {"name": "state", "value": 1},
    {"name": "a name with spaces", "value": [1]},
)


class TurnDice:
    """Draws whole turns: runs whose ends ask things, and runs that answer."""

    def __init__(self, random: Random) -> None:
        """Throw what `random` says."""
        self._random = random
        self._dice = Dice(random)
        self._calls: list[str] = []
        self._questions: list[str] = []

    def turn(self) -> list[Event]:
        """Draw a turn, as a log has it."""
        self._calls, self._questions = [], []
        runs = range(self._random.choice([1, 1, 2, 3]))
        return [
            json.loads(encode_event(one, max_bytes=1 << 20)) for n in runs for one in self._run(n)
        ]

    def _run(self, number: int) -> Iterator[Event]:
        names = {"threadId": "t", "runId": f"r-{number}"}
        answers = [self._answer(one) for one in self._questions]
        messages = [self._output(one) for one in self._calls if self._dice.is_heads()]
        yield {"type": "RUN_STARTED", **names, "input": {"messages": messages, "resume": answers}}
        self._questions = []
        grammar = RunGrammar()
        said = [*legal_stream(self._random, most=30)]
        for custom in self._random.sample(CUSTOMS, 2):
            said.insert(self._random.randrange(len(said) + 1), {"type": "CUSTOM", **custom})
        for value in said:
            yield from grammar.accept(value)
        self._calls += [one["toolCallId"] for one in said if one["type"] == "TOOL_CALL_START"]
        if self._random.random() < 0.9:  # else its process died: nothing was closed
            yield from grammar.close()
        yield self._end(names)

    def _answer(self, question: str) -> Event:
        status = self._dice.one_of("resolved", "resolved", "cancelled")
        return {"interruptId": question, "status": status, "payload": self._dice.one_of(*PAYLOADS)}

    def _output(self, call_id: str) -> Event:
        content = self._dice.one_of(
            '{"a": 1}', "text", "null", "1e999", [{"type": "text", "text": ""}]
        )
        message = {"role": "tool", "id": f"m-{call_id}", "toolCallId": call_id, "content": content}
        return message | self._dice.maybe(error="it failed")

    def _end(self, names: Event) -> Event:
        end = self._dice.one_of(*ENDS)
        if end == "error":
            metadata = {"errorId": "err_1"}
            said = {"message": "The agent failed.", "code": "agent_error", "metadata": metadata}
            return {"type": "RUN_ERROR", "runId": names["runId"], **said}
        outcome: Event = {"type": end}
        if end == "interrupt":
            self._questions = self._random.sample([*IDS, f"q-{names['runId']}"], 2)
            outcome["interrupts"] = [self._question(one) for one in self._questions]
        usage = self._dice.maybe(usage=[{"inputTokens": 1}])
        return {"type": "RUN_FINISHED", **names, "outcome": outcome, **usage}

    def _question(self, question: str) -> Event:
        about = {"toolCallId": self._dice.one_of(*self._calls)} if self._calls else {}
        return {"id": question, "reason": "x", **about, **self._dice.maybe(message="May I?")}


def fold(events: Sequence[Event], *, is_replay: bool = False) -> tuple[list[Chunk], UIMessage]:
    """Return a turn's chunks, and the message that the gateway makes of them."""
    chunks = UIChunks("turn")
    if is_replay:
        chunks.look_ahead(events)
    message, made = UIMessageFold(), list[Chunk]()
    for event in events:
        for chunk in chunks.add(event):
            made.append(chunk)
            message.add(chunk)
    return made, json.loads(json.dumps(message.to_message()))


def without_growing(message: UIMessage | None) -> UIMessage:
    """Return a message without what a client guesses of arguments that broke off."""
    assert message is not None
    parts = [
        {name: part[name] for name in part if name != "input"}
        if part.get("state") == "input-streaming"
        else part
        for part in message["parts"]
    ]
    return {**message, "parts": parts}


@pytest.fixture(scope="module")
def turns() -> list[list[Event]]:
    dice = TurnDice(new_random())
    return [dice.turn() for _ in range(TURNS)]


@pytest.mark.parametrize("is_replay", [False, True], ids=["live", "replayed"])
def test_the_package_refuses_nothing_and_shows_the_same(
    turns: list[list[Event]], *, is_replay: bool
) -> None:
    made = [fold(turn, is_replay=is_replay) for turn in turns]
    for (chunks, message), verdict in zip(
        made, judge_chunks(chunks for chunks, _ in made), strict=True
    ):
        assert (verdict.refused, verdict.failures, verdict.invalid) == ([], [], None), chunks
        assert without_growing(verdict.message) == without_growing(message)


def test_a_replay_has_the_same_chunks_but_for_a_mark(turns: list[list[Event]]) -> None:
    marked = 0
    for turn in turns:
        live, _ = fold(turn)
        replayed, _ = fold(turn, is_replay=True)
        assert len(live) == len(replayed)
        for one, other in zip(live, replayed, strict=True):
            if one != other:
                assert {**one, "providerExecuted": True} == other
                marked += 1
    assert marked


def test_the_judge_refuses_what_a_page_would_break_at() -> None:
    start: Chunk = {"type": "start", "messageId": "ai_t"}
    wrong: list[dict[str, Any]] = [
        {"type": "nobody-knows"},
        {"type": "text-delta", "id": "m", "delta": "x"},
        {"type": "tool-output-available", "toolCallId": "c", "output": 1},
        {"type": "finish", "finishReason": "cancelled"},
        {"type": "data-step", "id": 1, "data": {}},
    ]
    verdicts: list[UIVerdict] = judge_chunks(
        [[start, {"type": "start-step"}, one] for one in wrong]
    )
    assert all(verdict.refused or verdict.failures for verdict in verdicts)
