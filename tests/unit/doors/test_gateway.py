"""The gateway that doors open onto: revocations that the database refuses for a moment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from unittest.mock import patch

import pytest
from tests.house import ALICE, MEMORY, says

from isolane.agents.function import adapt_function
from isolane.auth import revocations
from isolane.errors import Unavailable
from isolane.settings import Settings
from isolane.wiring import open_gateway


async def test_stops_of_a_revocation_are_written_again_until_they_are_on_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(database_url=MEMORY, revoked_runs="abort")
    agents = {"default": adapt_function(says("word"), name="default")}
    # Only this test looks for revocations.
    monkeypatch.setattr("isolane.wiring.start_upkeep", lambda _gateway: None)
    async with open_gateway(settings, agents) as gateway:
        book, database = gateway.storage.book, gateway.credentials.revocations._database
        request_stops, tried = book.request_stops, list[Mapping[str, int]]()

        async def refuse_once(until: Mapping[str, int], *, asked_at: int) -> None:
            tried.append(dict(until))
            if len(tried) == 1:
                raise Unavailable("the disk is full")
            await request_stops(until, asked_at=asked_at)

        with patch.object(book, "request_stops", refuse_once):
            now = gateway.clock()
            await database.write(partial(revocations.add, ALICE, now, ()))
            with pytest.raises(Unavailable):
                await gateway.enforce_revocations()
            assert gateway.unstopped == {ALICE: now}
            await gateway.enforce_revocations()
        assert tried == [{ALICE: now}] * 2
        assert not gateway.unstopped
