"""Steps that both of OpenAI's APIs share to start a run: body, ids and checked request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Final, TypeVar

from fastapi import Header, Request

from isolane.context import RunKey, UserExecutionContext
from isolane.contracts import Identity, Opening, RunTicket, Seed, Store, StoredRun, ThreadKind
from isolane.doors.bodies import read_whole, reading
from isolane.doors.credentials import require_agent
from isolane.doors.event_stream import Followed, Streams, follow_to_the_end
from isolane.doors.parts import Intake
from isolane.doors.rate import check_rate
from isolane.doors.sse import Records
from isolane.errors import RunConflict
from isolane.events.transcript import Message, fingerprint
from isolane.ids import new_message_id, new_run_id
from isolane.runs import AgentService
from isolane.runs.draft import make_offer
from isolane.runs.readers import HttpReader, OnDisconnect
from isolane.wire.openai.asking import Asked, NewId
from isolane.wire.openai.content import Json

_Asked = TypeVar("_Asked", bound=Asked)
Fill = Callable[[Mapping[str, Json]], Awaitable[Mapping[str, Json]]]
"""Returns a body with the items that it only names."""
IdempotencyKey = Annotated[
    str | None, Header(alias="idempotency-key", min_length=1, max_length=256)
]
JSON_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}
"""Description of the body in the OpenAPI document; routes read the body after authentication."""
SENT_PER_NEW: Final = 4
"""Bytes of a large body that count as one new byte in its user's pace. Known messages are decoded
and kept here, so more bytes count than for lists that are only scanned."""


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of one request: new ones, or derived from a key that the client repeats."""

    run_id: str
    message_base: str
    """Prefix of the ids of the request's messages."""
    is_repeatable: bool
    """True when the client sent a key, so that the same request has the same ids."""

    @property
    def thread_id(self) -> str:
        """Id for a thread of the request's own."""
        return f"thread-{self.run_id}"

    def new_message_id(self, place: int) -> str:
        """Return the id of the message at an index of the request's list."""
        return f"{self.message_base}-{place}"


def make_ids(user_id: str, key: str | None, body: bytes | bytearray) -> Ids:
    """Return the ids of a request.

    The same user, key and body give the same ids, so that a repeated request attaches to its run.
    Another body gives the messages other ids, and the run refuses them.
    """
    if key is None:
        return Ids(new_run_id(), new_message_id(), is_repeatable=False)
    run_id = f"run_{_digest(user_id, key)}"
    of_body = _digest(run_id, blake2b(body, digest_size=32).hexdigest())
    return Ids(run_id, f"msg_{of_body}", is_repeatable=True)


def _digest(*parts: str) -> str:
    """Return 32 hexadecimal digits.

    Parts are hashed one by one, so that none runs into the next.
    """
    whole = blake2b(digest_size=16)
    for part in parts:
        whole.update(blake2b(part.encode(), digest_size=16).digest())
    return whole.hexdigest()


@asynccontextmanager
async def read_asked(
    intake: Intake,
    identity: Identity,
    request: Request,
    read: Callable[[Mapping[str, Json], NewId], _Asked],
    *,
    key: str | None,
    name: str,
    fill: Fill | None = None,
) -> AsyncIterator[tuple[Ids, _Asked]]:
    """Read and check a request and make its ids; its room is reserved while the block runs.

    `name` is the name of the list in the body. Errors are those of `reading`, `read_whole`, `fill`
    and `read`.
    """
    check_rate(intake.limits, identity.user_id)
    user_id = identity.user_id
    async with reading(request, intake, user_id, sent_per_new=SENT_PER_NEW) as body:
        given: Mapping[str, Json] = await read_whole(body, intake, user_id, name=name)
        if fill is not None:
            given = await fill(given)
        if body.is_small:
            ids = make_ids(user_id, key, body.content)
            asked = read(given, ids.new_message_id)
        else:
            ids = await intake.read_beside(make_ids, user_id, key, body.content)
            asked = await intake.read_beside(read, given, ids.new_message_id)
        body.content = bytearray()
        del given
        yield ids, asked


def choose_agent(service: AgentService, identity: Identity, model: str) -> str:
    """Return the agent that a request names as its model.

    Raises:
        UnknownAgent: There is no such agent.
        MissingScope: The credential may not run it.
    """
    name = service.check_agent(model)
    require_agent(identity, name)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A run that a request asks for."""

    context: UserExecutionContext
    """Context with the run's thread and id."""
    agent: str
    asked: Asked
    messages: Sequence[Message]
    """Messages that the run adds to its thread."""
    opening: Opening | None = None
    """Opening of a thread that begins with the run; None for a thread that may exist."""
    instructions: str | None = None
    """Instructions for the agent in this run only."""
    policy: str | None = None
    """Policy for a busy thread; None leaves it to the server."""
    repeated: StoredRun | None = None
    """The run that the same request started earlier, or None."""
    on_disconnect: OnDisconnect | None
    """Fate of the run without a reader. None in the background, where neither a leaving reader nor
    a later question ends the run."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An accepted run."""

    stored: StoredRun
    followed: Followed[Records]
    """The run's records from the first one on, for one reader."""


async def find_repeated(
    store: Store, context: UserExecutionContext, ids: Ids, asked: Asked
) -> StoredRun | None:
    """Return the run that the same request started earlier; None for a new request.

    The run stays on its first thread, wherever such a request would go now.

    Raises:
        RunConflict: The key came with another body earlier, which shows in the ids of the messages.
    """
    if not ids.is_repeatable:
        return None
    stored = await store.load_run(RunKey(context.user_id, ids.run_id))
    if stored is None:
        return None
    if asked.added and not any(fingerprint(one)[0] in stored.asked for one in asked.added):
        raise RunConflict("this Idempotency-Key was used with another body")
    return stored


def claimed_opening(asked: Asked) -> Opening:
    """Return the opening of a thread of the request's own: the history that the caller claims.

    A thread that isn't to be stored is that of a single request.
    """
    kind = ThreadKind.CHAT if asked.is_stored else ThreadKind.REQUEST
    seed = Seed(asked.history, is_claimed=True) if asked.history else None
    return Opening(kind, seed)


async def take_on(
    streams: Streams, identity: Identity, wanted: Wanted, reader: HttpReader
) -> Taken:
    """Start a run for a reader, or attach to the run with its id; see `start_run`."""
    service = streams.service
    if wanted.repeated is not None:
        begin = await service.load_start(wanted.context)
        again = follow_to_the_end(streams, wanted.context, after=begin)
        return Taken(wanted.repeated, Followed(streams, identity, again))
    ticket = await _start(service, wanted)
    reader.run_id = ticket.context.run_id
    stored = await service.load_run(ticket.context, ticket.context.run_key.run_id)
    batches = follow_to_the_end(streams, ticket.context, after=ticket.after)
    return Taken(stored, Followed(streams, identity, batches))


async def start_run(service: AgentService, wanted: Wanted) -> StoredRun:
    """Start a run, or attach to the run with its id; errors are those of `AgentService.start`.

    A cancelled caller changes nothing for the run.
    """
    if wanted.repeated is not None:
        return wanted.repeated
    ticket = await _start(service, wanted)
    return await service.load_run(ticket.context, ticket.context.run_key.run_id)


async def _start(service: AgentService, wanted: Wanted) -> RunTicket:
    asked = wanted.asked
    offer = make_offer(
        agent=wanted.agent,
        messages=wanted.messages,
        policy=wanted.policy,
        resume=asked.resume,
        tools=asked.tools,
        forwarded_props={"openai": asked.props},
        on_disconnect=wanted.on_disconnect,
        instructions=wanted.instructions,
        opening=wanted.opening,
    )
    is_read = wanted.on_disconnect is not None
    return await service.start_offer(wanted.context, offer, over_http=is_read)


def run_headers(context: UserExecutionContext) -> dict[str, str]:
    """Return the headers by which a caller finds a run again."""
    return {
        "x-request-id": context.request_id,
        "x-isolane-run": context.run_key.run_id,
        "x-isolane-thread": context.thread_key.thread_id,
    }
