"""Each way to forget an await fails the test that forgot it, by name and place, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from tests.unit.testing.inner import Inner, run_pytest

HEAD: Final = """
import asyncio, gc, threading, warnings
import pytest

async def make():
    return 5

async def forever():
    await asyncio.get_running_loop().create_future()
"""
FORGETFUL: Final = """
def test_a_call_is_dropped():
    make()  # test_a_call_is_dropped

def test_a_method_is_dropped():
    class Thing:
        async def make(self): ...
    Thing().make()  # test_a_method_is_dropped

def test_a_cycle_keeps_it():
    kept = [make()]  # test_a_cycle_keeps_it
    kept.append(kept)

def test_it_is_taken_for_its_result():
    assert make() == 5  # test_it_is_taken_for_its_result

def test_a_failure_keeps_it():
    kept = make()  # test_a_failure_keeps_it
    raise ValueError from KeyError()

def test_a_helper_makes_it():
    def helper():
        return make()  # test_a_helper_makes_it
    helper()

def test_warnings_are_off():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make()  # test_warnings_are_off

def test_warnings_are_recorded(recwarn):
    make()  # test_warnings_are_recorded

@pytest.fixture
def careless():
    yield
    make()  # test_a_fixture_forgets

def test_a_fixture_forgets(careless): ...

@pytest.fixture
def broken():
    yield
    make()  # test_a_fixture_forgets_and_fails
    raise ValueError("as well")

def test_a_fixture_forgets_and_fails(broken): ...

def test_a_coroutine_forgets():
    async def main():
        make()  # test_a_coroutine_forgets
    asyncio.run(main())

def test_a_task_is_lost():
    async def main():
        asyncio.create_task(forever())  # test_a_task_is_lost
        await asyncio.sleep(0)
        gc.collect()
    asyncio.run(main())

def test_a_loop_is_closed_under_its_task():
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(forever())  # test_a_loop_is_closed_under_its_task
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

def test_a_fast_loop_is_closed_under_its_task():
    loop = pytest.importorskip("uvloop").new_event_loop()
    task = loop.create_task(forever())  # test_a_fast_loop_is_closed_under_its_task
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
"""
CAREFUL: Final = """
def test_a_neighbour_is_not_blamed(): ...

def test_it_awaits():
    assert asyncio.run(make()) == 5

def test_it_closes_what_it_does_not_want():
    make().close()

def test_it_cancels_its_task():
    async def main():
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    asyncio.run(main())

def test_it_leaves_its_task_to_the_runner():
    async def main():
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        return task
    asyncio.run(main())

@pytest.mark.leaves_unawaited("it is about the warning itself")
def test_it_may():
    with pytest.warns(RuntimeWarning, match="never awaited"):
        make()

@pytest.mark.leaves_unawaited(reason="what it leaves is not the next one's")
@pytest.mark.filterwarnings("ignore")
def test_it_may_leave_a_cycle():
    held = [make()]
    held.append(held)

def test_it_comes_after_one_that_may(): ...
"""
ASYNCHRONOUS: Final = """
@pytest.fixture
async def late():
    yield
    make()  # test_an_async_fixture_forgets

async def test_an_async_fixture_forgets(late): ...

async def test_an_async_test_forgets():
    make()  # test_an_async_test_forgets

async def test_an_async_test_loses_a_task():
    asyncio.create_task(forever())  # test_an_async_test_loses_a_task
    await asyncio.sleep(0)
    gc.collect()
"""
CAREFUL_TOO: Final = """
async def test_an_async_test_awaits():
    task = asyncio.create_task(forever())
    assert await make() == 5
    task.cancel()

async def test_an_async_test_leaves_its_task_to_the_loop(request):
    request.config.task = asyncio.create_task(forever())
    await asyncio.sleep(0)
"""
RUNS: Final = {
    "without asyncio": (FORGETFUL, CAREFUL, ("-p", "no:asyncio")),
    "with asyncio": (FORGETFUL + ASYNCHRONOUS, CAREFUL + CAREFUL_TOO, ("--asyncio-mode=auto",)),
}
IN_A_THREAD: Final = """
def test_a_thread_forgets():
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
"""


def names(source: str) -> set[str]:
    return set(re.findall(r"def (test_\w+)", source))


def run_source(folder: Path, source: str, *arguments: str) -> Inner:
    (folder / "test_it.py").write_text(HEAD + source)
    return run_pytest(folder, "-p", "isolane.testing.plugin", *arguments)


@pytest.mark.parametrize("forgetful, careful, arguments", RUNS.values(), ids=RUNS)
def test_who_forgets_an_await_fails_and_no_one_else(
    forgetful: str, careful: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    inner = run_source(tmp_path, forgetful + IN_A_THREAD + careful, *arguments)
    assert inner.failed.keys() == names(forgetful) | names(IN_A_THREAD), inner.output
    assert inner.passed == names(careful)
    for name in names(forgetful):
        why = inner.failed[name]
        assert re.search(r"(make|forever) was (never awaited|destroyed while pending)", why), why
        place = re.search(rf"test_it\.py\", line \d+, in .*\n.*# {name}$", why, re.MULTILINE)
        assert place is not None, why
    # What a thread makes has no origin, and what failed by itself is told beside what it left.
    assert "coroutine make was never awaited" in inner.failed["test_a_thread_forgets"]
    assert "in another thread" in inner.failed["test_a_thread_forgets"]
    assert "assert <coroutine object make" in inner.failed["test_it_is_taken_for_its_result"]
    assert 'ValueError("as well")' in inner.failed["test_a_fixture_forgets_and_fails"]


def test_a_marker_must_say_its_reason(tmp_path: Path) -> None:
    inner = run_source(tmp_path, "@pytest.mark.leaves_unawaited\ndef test_it(): ...")
    assert inner.code == pytest.ExitCode.USAGE_ERROR
    assert 'test_it.py::test_it: write leaves_unawaited("why it may")' in inner.output


UNTOUCHED: Final = """
def test_it_forgets():
    make()
    assert gc.get_freeze_count() == 0

def test_the_fixture_is_unknown(request):
    with pytest.raises(pytest.FixtureLookupError):
        request.getfixturevalue("isolane_server")
"""


def test_a_run_that_asks_for_no_plugin_is_as_without_isolane(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HEAD + UNTOUCHED)
    inner = run_pytest(tmp_path)
    assert inner.failed == {}, inner.output
    assert inner.passed == {"test_it_forgets", "test_the_fixture_is_unknown"}
    assert "isolane" not in inner.output.partition("collected")[0]


def test_a_conftest_asks_for_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["isolane.testing.plugin"]')
    (tmp_path / "test_it.py").write_text(HEAD + "def test_it_forgets(): make()")
    inner = run_pytest(tmp_path)
    assert "coroutine make was never awaited" in inner.failed["test_it_forgets"]
    assert run_pytest(tmp_path, "-p", "no:isolane.testing.plugin").passed == {"test_it_forgets"}
