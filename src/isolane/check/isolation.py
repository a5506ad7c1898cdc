"""The layer `isolation`: the second user looks for everything of the first, and finds nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from isolane.check.conversation import FENCE, settle, start_run, stop_run, subscribe
from isolane.check.finding import Broken, Skipped
from isolane.check.lane import Lane, new_name
from isolane.check.order import Frame, is_envelope, text_of
from isolane.check.walk import Run, Walk
from isolane.check.wire import Socket

_ERROR_ID: Final = re.compile(r"err_[0-9a-f-]+")
_EMPTY_HEAD: Final = re.compile(r'"head": "[0-9a-z]+-0"')
_PAGES_MAX: Final = 20
_HTTP: Final[tuple[tuple[str, str, Mapping[str, object] | None], ...]] = (
    ("GET", "/api/threads/{thread}", None),
    ("GET", "/api/threads/{thread}/events", None),
    ("PATCH", "/api/threads/{thread}", {"title": "taken"}),
    ("GET", "/api/runs/{run}", None),
    ("POST", "/api/runs/{run}/abort", None),
    # the last one, because it would delete what the others look for
    ("DELETE", "/api/threads/{thread}", None),
)
_FRAMES: Final[tuple[Mapping[str, str], ...]] = (
    {"type": "abort", "runId": "{run}"},
    {"type": "subscribe", "threadId": "{thread}"},
)


@dataclass(frozen=True, slots=True)
class Names:
    """A pair of ids, real or made up; all pairs have the same length."""

    thread: str
    run: str

    def hide(self, text: str) -> str:
        """Return an answer with ids and errorId replaced, so that answers can be compared."""
        text = text.replace(self.thread, "(thread)").replace(self.run, "(run)")
        return _EMPTY_HEAD.sub('"head": "(empty)"', _ERROR_ID.sub("(error)", text))


@dataclass(frozen=True)
class Secret:
    """Runs of the first user, active and ended, which only that user may see."""

    active: Names
    ended: Names
    marker: str = field(default_factory=lambda: new_name("marker"))

    @property
    def marks(self) -> list[str]:
        """Texts that nobody else may receive."""
        return [self.marker, *(n for names in (self.active, self.ended) for n in _both(names))]


def _both(names: Names) -> tuple[str, str]:
    return names.thread, names.run


async def check_isolation(walk: Walk) -> str:
    """Look through everything that the second user receives, then try the first user's ids."""
    if len(walk.lanes) < 2:  # noqa: PLR2004 - two users
        raise Skipped("it takes a second token: --token A --token B")
    owner, other = walk.lanes
    ended = walk.get_run()
    active = Run(owner.new_thread(), new_name("run"), "")
    secret = Secret(Names(active.thread_id, active.run_id), Names(ended.thread_id, ended.run_id))
    eve, _ = await other.greet()
    await subscribe(eve, other.new_thread())
    await start_run(walk.get_socket(), active, ["say", secret.marker], ["wait"])
    await walk.get_socket().until(_is_said, what="the run's text")
    places = await _seek(walk, other, eve, secret)
    tries = await _try_ids(other, eve, secret)
    await _check_untouched(owner, active)
    await stop_run(walk.get_socket(), active.run_id)
    await _check_equal_ids(walk, other)
    await _check_memory(walk, other)
    return f"{len(secret.marks)} marks sought in {places} places, {tries} tries with foreign ids"


def _is_said(frame: Frame) -> bool:
    return is_envelope(frame) and frame["chunk"]["type"] == "TEXT_MESSAGE_CONTENT"


# --- frames without a request --------------------------------------------------------------------


async def _seek(walk: Walk, other: Lane, eve: Socket, secret: Secret) -> int:
    """Look for the secret texts in all that the second user receives or lists.

    Return the places.
    """
    own_run = Run(other.threads[-1], new_name("run"), "")
    await start_run(eve, own_run, ["say", "of the second user"])
    await eve.read_run(own_run.run_id)
    await settle(eve)
    pages = await _load_threads(other)
    metrics = await walk.metrics.fetch()
    own_thread = await other.ask("GET", f"/api/threads/{own_run.thread_id}")
    refusal = await other.ask("GET", "/api/threads/!")
    places = {
        "frames on the second user's socket": "\n".join(eve.heard),
        "GET /api/threads of the second user": "\n".join(pages),
        "a thread of the second user": own_thread.text,
        "a refusal": refusal.text,
        "/metrics": metrics.text,
    }
    for place, text in places.items():
        _check_absent(secret.marks, text, place)
    return len(places)


async def _load_threads(lane: Lane) -> list[str]:
    """Return the pages of the user's list, up to a bound."""
    pages: list[str] = []
    path: str | None = "/api/threads?limit=200"
    while path is not None and len(pages) < _PAGES_MAX:
        answer = await lane.ask("GET", path)
        pages.append(answer.text)
        cursor = answer.read().get("nextCursor")
        path = f"/api/threads?limit=200&cursor={cursor}" if cursor else None
    return pages


def _check_absent(marks: Sequence[str], text: str, place: str) -> None:
    found = next((mark for mark in marks if mark in text), None)
    if found is not None:
        begin = max(text.index(found) - 100, 0)
        raise Broken(
            f"something of the first user reached {place}",
            sent=f"{found}, by the first user",
            came=text[begin : begin + 300],
            expected="nothing of it",
        )


# --- frames with a request -----------------------------------------------------------------------


async def _try_ids(other: Lane, eve: Socket, secret: Secret) -> int:
    """Try foreign and made-up ids on every operation; return the number of operations."""
    tries = 0
    for foreign in (secret.ended, secret.active):
        nobody = Names(new_name("thread"), new_name("run"))
        for method, path, body in _HTTP:
            answers = [await _ask(other, method, path, body, n) for n in (foreign, nobody)]
            _check_alike(f"{method} {path}", foreign, answers)
        for frame in _FRAMES:
            answers = [await _tell(other, eve, frame, names) for names in (foreign, nobody)]
            _check_alike(f"the frame {frame}", foreign, answers)
        answers = [await _replay(other, names) for names in (foreign, nobody)]
        _check_alike("?runId={run}&offset=-1", foreign, answers)
        tries += len(_HTTP) + len(_FRAMES) + 1
    _check_absent([secret.marker], "\n".join(eve.heard), "frames on the second user's socket")
    return tries


async def _ask(
    lane: Lane, method: str, path: str, body: Mapping[str, object] | None, names: Names
) -> str:
    answer = await lane.ask(method, path.format(thread=names.thread, run=names.run), body)
    return names.hide(f"{answer.status} {answer.kind} {answer.text}")


async def _tell(lane: Lane, socket: Socket, frame: Mapping[str, str], names: Names) -> str:
    """Return everything that answers a frame, without news of the user's own threads.

    A frame about a thread that nobody follows marks the end, because its answer comes in order. A
    pong may come earlier.
    """
    own = {key: value.format(thread=names.thread, run=names.run) for key, value in frame.items()}
    await socket.send(own)
    await socket.send({"type": "unsubscribe", "threadId": FENCE})
    answers: list[Frame] = []
    while not answers or answers[-1].get("threadId") != FENCE:
        answer = await socket.recv()
        if answer.get("type") != "thread" or answer.get("threadId") not in lane.threads:
            answers.append(answer)
    return names.hide(json.dumps(answers))


async def _replay(lane: Lane, names: Names) -> str:
    socket = await lane.open(query={"runId": names.run, "offset": "-1"})
    try:
        return names.hide(str(await socket.read_to_close()))
    finally:
        await socket.close()


def _check_alike(operation: str, foreign: Names, answers: list[str]) -> None:
    if answers[0] != answers[1]:
        raise Broken(
            "a foreign id is answered otherwise than an unknown one",
            sent=f"{operation} with the first user's {foreign.thread} and {foreign.run}",
            came=answers[0],
            expected=f"as for an id that never was: {answers[1]}",
        )


async def _check_untouched(owner: Lane, active: Run) -> None:
    """The attempts of the second user have changed nothing."""
    answer = await owner.ask("GET", f"/api/runs/{active.run_id}")
    if answer.read().get("state") != "running":
        raise Broken(
            "the second user could end a run of the first",
            sent="abort and DELETE, with the first user's ids",
            came=f"{answer.status} {answer.text}",
            expected="state running",
        )


# --- equal ids -----------------------------------------------------------------------------------


async def _check_equal_ids(walk: Walk, other: Lane) -> None:
    """Two users use one thread id and one run id at once, and never meet."""
    socket, words = walk.get_socket(), (new_name("marker"), new_name("marker"))
    run = Run(walk.lane.new_thread(), new_name("run"), "")
    other.threads.append(run.thread_id)
    theirs, _ = await other.greet()
    await start_run(socket, run, ["say", words[0]], ["wait"])
    await start_run(theirs, run, ["say", words[1]])
    heard = await theirs.read_run(run.run_id)
    end = await stop_run(socket, run.run_id)
    if text_of(heard) != words[1] or end["chunk"].get("outcome") != {"type": "cancelled"}:
        raise Broken(
            "two users with equal ids meet",
            sent=f"run {run.run_id} on thread {run.thread_id}, by both",
            came=[text_of(heard), end],
            expected=f"{words[1]} for the second, and the first one's run cancelled",
        )
    _check_absent(words[:1], "\n".join(theirs.heard), "the second user, by equal ids")
    _check_absent(words[1:], "\n".join(socket.heard), "the first user's socket")


async def _check_memory(walk: Walk, other: Lane) -> None:
    """Two users use one thread id in turn, and the agent remembers only each user's own words.

    An agent's memory is keyed by the ids that the gateway gives it.
    """
    socket, words = walk.get_socket(), (new_name("marker"), new_name("marker"))
    thread_id, run_id = walk.lane.new_thread(), new_name("run")
    other.threads.append(thread_id)
    theirs, _ = await other.greet()
    await _recall(socket, Run(thread_id, run_id, ""), ["remember", words[0]])
    heard = await _recall(theirs, Run(thread_id, run_id, ""), ["remember", words[1]])
    _check_remembered(thread_id, heard, words[1], "the second user, by what the agent remembers")
    again = await _recall(socket, Run(thread_id, new_name("run"), ""))
    _check_remembered(thread_id, again, words[0], "the first user, by what the agent remembers")


async def _recall(socket: Socket, run: Run, *steps: list[object]) -> str:
    """Run the steps, and return what the agent then remembers in the thread."""
    await start_run(socket, run, *steps, ["recall"])
    return text_of(await socket.read_run(run.run_id))


def _check_remembered(thread_id: str, heard: str, wanted: str, place: str) -> None:
    if heard != wanted:
        raise Broken(
            f"something of another user reached {place}"
            if wanted in heard
            else "the agent doesn't remember what it was told",
            sent=f"thread {thread_id}, by both users",
            came=heard,
            expected=wanted,
        )
