"""A flag that several tasks may wait for."""

from __future__ import annotations

import asyncio
import sys

from isolane.flag import Flag
from isolane.serving.inbox import Inbox


async def waiting(flag: Flag) -> asyncio.Task[None]:
    task = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_everybody_goes_on_who_waits_although_it_is_cleared_at_once() -> None:
    flag = Flag()
    first, second = await waiting(flag), await waiting(flag)
    flag.set()
    flag.clear()
    await asyncio.gather(first, second)
    assert not flag.is_set()
    (await waiting(flag)).cancel()


async def test_nobody_waits_while_it_is_set() -> None:
    flag = Flag()
    flag.set()
    flag.set()
    assert flag.is_set()
    await flag.wait()


async def test_who_is_cancelled_takes_nobody_along() -> None:
    flag = Flag()
    first, second = await waiting(flag), await waiting(flag)
    first.cancel()
    await asyncio.wait({first})
    flag.set()
    await second
    assert not flag._waiters


async def test_it_is_small() -> None:
    flag = Flag()
    assert sys.getsizeof(flag) + sys.getsizeof(flag._waiters) < 200


async def test_an_inbox_hands_out_in_order_and_a_cancelled_reader_takes_nothing() -> None:
    inbox = Inbox()
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait(1)
    reader.cancel()
    await asyncio.wait({reader})
    inbox.put_nowait(2)
    assert [await inbox.get(), await inbox.get(), inbox.empty()] == [1, 2, True]


async def test_an_inbox_serves_all_who_wait() -> None:
    inbox = Inbox()
    readers = [asyncio.create_task(inbox.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for message in range(3):
        inbox.put_nowait(message)
    assert sorted(await asyncio.gather(*readers)) == [0, 1, 2]
