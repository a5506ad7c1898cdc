"""The question at the end of a run frame, and what it means to its thread. Pure.

Clients send their whole list of messages. A new last message is a new question. A known last
message is asked again: the client has removed its answer, or lost the connection before it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ag_ui.core import RunAgentInput

from isolane.contracts import KnownMessage, RunDraft
from isolane.errors import InvalidInput, RunConflict
from isolane.events.transcript import Message
from isolane.runs.readers import OnDisconnect

INSTRUCTIONS: Final = ("system", "developer")
"""Roles of messages that instruct the model and are no part of the conversation."""


@dataclass(frozen=True, slots=True)
class Question:
    """The message of a user that ends a frame's list, and its place there."""

    place: int
    message: Message

    @property
    def message_id(self) -> str:
        """Its id, which its client chose."""
        return str(self.message["id"])

    def check_same(self, known: Message | None) -> None:
        """Check that `known`, the thread's message of the same id, says the same.

        Raises:
            InvalidInput: `known` is another message.
        """
        if known is not None and not says_the_same(self.message, known):
            raise InvalidInput(
                f"messages.{self.place}.id",
                "is that of another message of this thread; a new message needs an id of its own",
            )


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a tool at the end of a frame's list, and its place there."""

    place: int
    message: Message

    @property
    def message_id(self) -> str:
        """Its id, which its client chose."""
        return str(self.message["id"])

    @property
    def call_id(self) -> str:
        """The call that it answers."""
        return str(self.message["toolCallId"])

    def is_same(self, known: Message | None) -> bool:
        """Say whether `known`, the thread's message of the same id, answers the same call.

        None stands for an id that the thread doesn't know, and counts as the same.
        """
        return known is None or known.get("toolCallId") == self.call_id

    def check_answered(self, messages: Iterable[Message]) -> None:
        """Check that its call is answered in `messages`, under another id.

        The thread's message of its own id is another one, so it can't join the thread.

        Raises:
            InvalidInput: No message answers its call.
        """
        if all(message.get("toolCallId") != self.call_id for message in messages):
            raise InvalidInput(
                f"messages.{self.place}.id",
                "is that of another message; a tool's answer needs an id of its own",
            )


@dataclass(frozen=True, slots=True)
class Offer:
    """What a run frame brings: a draft, a policy for a busy thread, and a question."""

    draft: RunDraft
    policy: str | None
    """`queue`, `reject` or `interrupt`; None when the frame names no policy."""
    question: Question | None
    """None when the last message of its list is no user's."""
    results: Sequence[Result] = ()
    """Results of tools, if its list ends in some."""
    on_disconnect: OnDisconnect | None = None
    """What becomes of its run without readers; None when the frame doesn't say."""

    @property
    def may_ask_again(self) -> bool:
        """True when a known question asks for its answer once more.

        A frame that rewinds says itself what to take back. A frame that answers an interrupt asks
        nothing again.
        """
        has_own_plan = self.draft.rewind_to is not None or self.draft.request.get("resume")
        return self.question is not None and not has_own_plan

    def get_others(self) -> Sequence[Message]:
        """Return the users' messages before the question, if the question may be a known one."""
        if not self.may_ask_again:
            return ()
        return [one for one in self.draft.messages[:-1] if one["role"] == "user"]

    def check_content(self, known: KnownMessage | None) -> None:
        """Check that the question doesn't reuse the id of a message with other content.

        A message that the frame's own rewind takes back may come again in other words.

        Raises:
            InvalidInput: The thread's message of that id has other content.
        """
        if self.question is None or known is None:
            return
        if known.stands or self.draft.rewind_to is None:
            self.question.check_same(known.message)

    def settle(self, known: KnownMessage | None, *, is_last: bool) -> RunDraft:
        """Return the draft of a run of its own, by what the thread knows of the question.

        A known question is asked again if it `is_last` among the thread's questions.

        Raises:
            RunConflict: Another question was asked after it, or it was taken back.
        """
        if self.question is None or known is None or not self.may_ask_again:
            return self.draft
        if not is_last:
            raise RunConflict(
                f"messages.{self.question.place} was asked before, and is not the thread's last "
                "question now; to ask it again or in other words, name the message to go back to "
                "in forwardedProps.rewindTo"
            )
        own, message_id = [self.question.message], self.question.message_id
        return replace(self.draft, messages=own, rewind_to=message_id, asks_again=True)

    def policy_for(self, draft: RunDraft, *, default: str) -> str:
        """Return the policy for a busy thread. A question that is asked again interrupts."""
        if draft.asks_again:
            return "reject" if self.policy == "reject" else "interrupt"
        return self.policy or default


def question_of(run_input: RunAgentInput, messages: Sequence[Message]) -> Question | None:
    """Return the question that ends a list; `messages` are those of its users and tools.

    Instructions at the end of the list are skipped, because they are no part of the conversation.
    """
    for place in reversed(range(len(run_input.messages))):
        role = run_input.messages[place].role
        if role not in INSTRUCTIONS:
            return Question(place, messages[-1]) if role == "user" else None
    return None


def results_of(run_input: RunAgentInput, messages: Sequence[Message]) -> list[Result]:
    """Return the results of tools that end a list; `messages` are those of its users and tools."""
    results: list[Result] = []
    for place in reversed(range(len(run_input.messages))):
        role = run_input.messages[place].role
        if role == "tool":
            results.append(Result(place, messages[-1 - len(results)]))
        elif role not in INSTRUCTIONS:
            break
    return results[::-1]


def check_doubles(places: Sequence[tuple[int, Message]]) -> None:
    """Check that two questions of one list with the same id say the same.

    `places` are the list's messages of users and tools, each with its place in the list.

    Raises:
        InvalidInput: They say different things.
    """
    first: dict[str, Message] = {}
    for place, message in places:
        if message["role"] != "user":
            continue
        known = first.setdefault(message["id"], message)
        if known is not message:  # in most lists each id comes once
            Question(place, message).check_same(known)


def says_the_same(one: Message, other: Message) -> bool:
    """Say whether two messages have the same role and content, whatever other fields they have."""
    is_same = _content_of(one) == _content_of(other)
    return one["role"] == other["role"] and is_same


def _content_of(message: Message) -> list[Any]:
    """Return a message's parts. Adjoining texts become one, because clients split them freely."""
    content = message.get("content")
    given = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    parts: list[Any] = []
    for part in given:
        if part.get("type") != "text":
            parts.append(_without_nulls(part))
        elif parts and isinstance(parts[-1], str):
            parts[-1] += part["text"]
        else:
            parts.append(part["text"])
    return [part for part in parts if part != ""]


def _without_nulls(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in part.items() if value is not None}
