"""The proxy that the live tests cut lines with: a tool that fails silently proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.live.proxy import LOOPBACK, CutPlan, Proxy, proxy_to

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(eq=False)
class Ends:
    """A proxy, with both ends of every line through it in the test's hands."""

    proxy: Proxy
    accepted: asyncio.Queue[Line] = field(default_factory=asyncio.Queue)

    @asynccontextmanager
    async def line(self) -> AsyncIterator[tuple[Line, Line]]:
        """Open a line and give the client's end and the server's."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.proxy.port)
        server = await self.accepted.get()
        try:
            yield (reader, writer), server
        finally:
            for end in (writer, server[1]):
                end.close()
                await asyncio.gather(end.wait_closed(), return_exceptions=True)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Give a proxy to a server that leaves its lines to the test."""
    ends = Ends(Proxy(0))
    server = await asyncio.start_server(lambda *line: ends.accepted.put_nowait(line), LOOPBACK, 0)
    async with server, proxy_to(server.sockets[0].getsockname()[1]) as ends.proxy:
        yield ends


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_needle_is_found_however_the_bytes_are_cut_into_pieces(size: int) -> None:
    text = b"..abab.ab..abx"
    plan = CutPlan(b"ab", 4)
    passed = 0
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        here = plan.find(piece)
        passed += len(piece) if here is None else here
        if here is not None:
            break
    assert text[:passed] == b"..abab.ab..ab"


def test_needles_do_not_overlap() -> None:
    plan = CutPlan(b"aa", 2)
    assert [plan.find(b"a"), plan.find(b"aa"), plan.find(b"a")] == [None, None, 1]


async def test_bytes_and_a_close_pass_both_ways(ends: Ends) -> None:
    async with ends.line() as ((reader, writer), (server_reader, server_writer)):
        writer.write(b"question")
        writer.write_eof()
        assert await server_reader.read() == b"question"
        server_writer.write(b"answer")
        server_writer.write_eof()
        assert await reader.read() == b"answer"


async def test_cut_passes_what_came_before_and_resets_both_ends(ends: Ends) -> None:
    ends.proxy.cut_after(b"x", 2)
    async with ends.line() as ((reader, _), (server_reader, server_writer)):
        server_writer.write(b"1x2x3")
        assert await reader.readexactly(4) == b"1x2x"
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionResetError):
            await server_reader.read()
    assert ends.proxy.cuts == 1


async def test_plans_strike_one_after_the_other(ends: Ends) -> None:
    ends.proxy.cut_after(b"x", 1, 2)
    for text in (b"1x", b"2x3x"):
        async with ends.line() as ((reader, _), (_, server_writer)):
            server_writer.write(text)
            assert await reader.readexactly(len(text)) == text
            with pytest.raises(ConnectionResetError):
                await reader.read()
    assert ends.proxy.cuts == 2


async def test_paused_proxy_makes_the_server_wait(ends: Ends) -> None:
    ends.proxy.pause()
    size = 64 * 1024 * 1024
    async with ends.line() as ((reader, _), (_, server_writer)):
        server_writer.write(bytes(size))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server_writer.drain(), 0.2)
        ends.proxy.resume()
        assert len(await reader.readexactly(size)) == size


async def test_refused_newcomer_is_reset_and_others_stay(ends: Ends) -> None:
    async with ends.line() as ((reader, _), (_, server_writer)):
        ends.proxy.refuse()
        newcomer, writer = await asyncio.open_connection(LOOPBACK, ends.proxy.port)
        with pytest.raises(ConnectionResetError):
            await newcomer.read()
        writer.close()
        server_writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"


async def test_nothing_is_left_after_the_close(ends: Ends) -> None:
    before = asyncio.all_tasks()
    async with proxy_to(ends.proxy.target_port) as proxy:
        proxy.pause()
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        _, server_writer = await ends.accepted.get()
        server_writer.write(b"never read")
    assert proxy.open_links == 0
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionResetError):
        await reader.read()
    for end in (writer, server_writer):
        end.close()
