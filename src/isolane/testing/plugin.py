"""The pytest plugin: it fails tests that leave coroutines behind, and has `isolane_server`.

A project uses it with `pytest -p isolane.testing.plugin`, or with `pytest_plugins =
["isolane.testing.plugin"]` in its topmost conftest.py. Otherwise it changes no run of pytest.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from isolane.testing.leftovers import Leftovers

if TYPE_CHECKING:
    from isolane.testing.servers import Servers

MARKER: Final = "leaves_unawaited"
_LEFTOVERS: Final = pytest.StashKey[Leftovers]()


@pytest.fixture
def isolane_server(tmp_path: Path) -> Servers:
    """Return a function that serves agents while an `async with` block lasts."""
    from isolane.testing.servers import Servers  # noqa: PLC0415 - the server needs the extra `testing`

    return Servers(tmp_path)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", f"{MARKER}(reason): the test may leave coroutines and tasks un-awaited, because"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a marker without a reason."""
    for item in items:
        for marker in item.iter_markers(MARKER):
            if not (marker.args or marker.kwargs.get("reason")):
                raise pytest.UsageError(f'{item.nodeid}: write {MARKER}("why it may")')


def pytest_collection_finish() -> None:
    """Drop findings from before the first test, so that no test is blamed for them."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the garbage collector collect everything again."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Watch the test with all its fixtures."""
    leftovers = item.stash[_LEFTOVERS] = Leftovers()
    try:
        if item.get_closest_marker(MARKER) is not None:
            return (yield)
        with leftovers.watch():
            return (yield)
    finally:
        # Each test ends with a garbage collection. Over the objects of all imports it takes 50 ms,
        # so objects that outlive a file of tests are not looked at any more.
        if nextitem is None or nextitem.path != item.path:
            gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that passed and left something behind; a failed one is judged at its end."""
    result = yield
    _fail_for(item.stash[_LEFTOVERS].take())
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose leftovers show only after its fixtures are gone."""
    try:
        result = yield
    except BaseException as error:
        _let_go()
        if found := item.stash[_LEFTOVERS].take():
            error.add_note(found)
        raise
    _let_go()
    _fail_for(item.stash[_LEFTOVERS].take())
    return result


def _fail_for(found: str) -> None:
    if found:
        pytest.fail(found, pytrace=False)


def _let_go() -> None:
    """Destroy objects without an owner, those in the frames of the last failure included."""
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)  # pytest does this before the next test, which is too late
    gc.collect()
