"""What every event log promises to the sources whose batches it takes."""

from __future__ import annotations

import asyncio

import pytest
from tests.contracts.conftest import Engines
from tests.house import START, context_of, key_of

from isolane.contracts import Batch, RunLease
from isolane.errors import DatabaseFailed, Fenced
from isolane.events.event import Record

REFUSED = b"refused"
REFUSE = {
    "sqlite": [
        (
            "CREATE TRIGGER refuse BEFORE INSERT ON events "
            "WHEN NEW.payload = CAST('refused' AS BLOB) BEGIN SELECT raise(ABORT, 'refused'); END"
        )
    ],
    "postgresql": [
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF NEW.payload = 'refused' THEN RAISE EXCEPTION 'refused'; END IF; "
            "RETURN NEW; END $$"
        ),
        "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
}
"""Makes the database refuse one payload."""


class Source:
    """A source that has everything put into it in its next batch."""

    def __init__(self, engines: Engines, lease: RunLease) -> None:
        self.engines = engines
        self.lease = lease
        self.waiting: list[bytes] = []
        self.outcomes: list[list[Record] | Exception] = []
        self.heard = asyncio.Event()
        self._batch = 0

    def ask(self, *payloads: bytes) -> None:
        self.waiting += payloads
        self.engines.log.commit_soon(self)

    def take_batch(self) -> Batch | None:
        payloads, self.waiting = self.waiting, []
        self._batch += 1
        return Batch(self.lease, payloads, self._batch)

    def settle(self, outcome: list[Record] | Exception) -> None:
        self.outcomes.append(outcome)
        self.heard.set()

    async def until_heard(self) -> list[Record] | Exception:
        """Return the next outcome that it hears of."""
        await self.heard.wait()
        self.heard.clear()
        return self.outcomes[-1]


class Silent(Source):
    """A source that has nothing to commit any more when it is asked."""

    def take_batch(self) -> Batch | None:
        return None


class BrokenBefore(Source):
    """A source that breaks when its batch is taken."""

    def take_batch(self) -> Batch | None:
        raise KeyError("broken")


class BrokenAfter(Source):
    """A source that breaks when it hears that its batch is committed."""

    def settle(self, outcome: list[Record] | Exception) -> None:
        super().settle(outcome)
        if not isinstance(outcome, Exception):
            raise KeyError("broken")


async def open_source(engines: Engines, thread_id: str, kind: type[Source] = Source) -> Source:
    return kind(engines, await engines.begin(context_of(f"r-{thread_id}", thread_id=thread_id)))


def payloads_of(outcome: list[Record] | Exception) -> list[bytes]:
    assert isinstance(outcome, list)
    return [record.payload for record in outcome]


async def test_a_source_hears_of_its_records(engines: Engines) -> None:
    source = await open_source(engines, "t")
    source.ask(b"1", b"2")
    heard = await source.until_heard()
    assert payloads_of(heard) == [b"1", b"2"]
    assert heard == await _as_stored(engines, "t", heard)


async def _as_stored(
    engines: Engines, thread_id: str, heard: list[Record] | Exception
) -> list[Record] | Exception:
    """Return what was heard, after a look at what the log has."""
    stored = await engines.log.read(key_of(thread_id), after=START, limit=10)
    assert isinstance(heard, list)
    assert [(one.id, one.payload) for one in stored] == [(one.id, one.payload) for one in heard]
    return heard


async def test_a_batch_has_all_that_came_until_its_commit_begins(engines: Engines) -> None:
    first, second = [await open_source(engines, name) for name in ("a", "b")]
    before = engines.transactions[0]
    first.ask(b"1")
    await asyncio.sleep(0)  # its commit is under way
    second.ask(b"2")
    second.waiting.append(b"3")
    await asyncio.sleep(0)
    second.waiting.append(b"4")
    assert payloads_of(await second.until_heard()) == [b"2", b"3", b"4"]
    assert payloads_of(first.outcomes[0]) == [b"1"]
    assert engines.transactions[0] - before == 2


async def test_sources_share_a_commit(engines: Engines) -> None:
    sources = [await open_source(engines, str(number)) for number in range(50)]
    before = engines.transactions[0]
    for source in sources:
        source.ask(b"{}")
    for source in sources:
        assert payloads_of(await source.until_heard()) == [b"{}"]
    assert engines.transactions[0] - before == 1


async def test_a_source_may_ask_again_as_soon_as_it_hears(engines: Engines) -> None:
    class Eager(Source):
        def settle(self, outcome: list[Record] | Exception) -> None:
            super().settle(outcome)
            if len(self.outcomes) < 5:
                self.ask(b"%d" % len(self.outcomes))

    source = await open_source(engines, "t", Eager)
    source.ask(b"0")
    while len(source.outcomes) < 5:
        await source.until_heard()
    stored = await engines.log.read(key_of("t"), after=START, limit=10)
    assert [record.payload for record in stored] == [b"0", b"1", b"2", b"3", b"4"]


async def test_one_that_cannot_be_committed_keeps_no_other_out(engines: Engines) -> None:
    sound, broken, fenced = [await open_source(engines, name) for name in ("a", "b", "c")]
    await engines.log.take_over(key_of("c"), "r-c")
    await engines.change(**REFUSE)
    for source, payload in ((sound, b"1"), (broken, REFUSED), (fenced, b"3")):
        source.ask(payload)
    assert payloads_of(await sound.until_heard()) == [b"1"]
    assert isinstance(await broken.until_heard(), DatabaseFailed)
    assert isinstance(await fenced.until_heard(), Fenced)
    sound.ask(b"2")
    assert payloads_of(await sound.until_heard()) == [b"2"]


@pytest.mark.parametrize("kind", [Silent, BrokenBefore, BrokenAfter])
async def test_a_source_that_breaks_stops_nobody_else(engines: Engines, kind: type[Source]) -> None:
    sound, broken = await open_source(engines, "a"), await open_source(engines, "b", kind)
    broken.ask(b"{}")
    sound.ask(b"1")
    assert payloads_of(await sound.until_heard()) == [b"1"]
    sound.ask(b"2")
    assert payloads_of(await sound.until_heard()) == [b"2"]
    if kind is not Silent:  # and hears of it, so that it doesn't wait for ever
        assert isinstance(broken.outcomes[-1], KeyError)
