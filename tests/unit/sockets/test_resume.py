"""A gap is told with its messages where a frame can hold them, and else without."""

from __future__ import annotations

import pytest
from tests.house import Socket, append_to, connect, context_of, draft_of, key_of, open_ground

from isolane.contracts import RunEnd
from isolane.engines.memory.bell import LocalBell
from isolane.log.feed import Feed
from isolane.sockets.resume import Resumer

KEY = key_of()
QUESTIONS = ("a" * 300, "b" * 300, "c" * 300)
FITS = 512 + len('{"id":"","role":"user","content":""},') + 600
"""Bytes of a frame that holds the first question; the others are still told by the log."""


@pytest.mark.parametrize("frame_max_bytes", [FITS, FITS - 1])
async def test_gap_that_comes_unasked_fits_into_a_frame(frame_max_bytes: int) -> None:
    async with open_ground(max_events=2) as ground:
        for number, question in enumerate(QUESTIONS):
            context = context_of(f"r-{number}")
            await ground.begin_run(context, draft_of(question))
            end = RunEnd(f"r-{number}", "success", None, [], ground.clock())
            await append_to(ground.log, KEY, f"r-{number}", [b"{}"], end=end)
        resumer = Resumer(
            Feed(ground.log, LocalBell()), ground.store, frame_max_bytes=frame_max_bytes
        )
        socket = Socket()
        connection = connect(socket, ground.tasks)
        connection.get_interest(KEY.thread_id).want_all()
        start = await resumer.on_gap(KEY, connection)
        await connection.close()
        (told,) = socket.frames
        assert told["recovered"] is False
        assert len(socket.texts[0]) <= frame_max_bytes
        if frame_max_bytes == FITS:
            assert [one["id"] for one in told["messages"]] == [QUESTIONS[0]]
            assert start is not None
            assert start.seq == 1
            assert connection.wants(KEY.thread_id)
        else:
            assert "messages" not in told
            assert start is None
            assert not connection.wants(KEY.thread_id)
