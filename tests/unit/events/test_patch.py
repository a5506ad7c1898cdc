"""JSON Patch: what the RFC says, and what the published client makes of the rest."""

from __future__ import annotations

import pytest

from isolane.events.event import Event
from isolane.events.patch import PatchError, patched


@pytest.mark.parametrize(
    "step",
    [
        {"op": "remove", "path": "/gone"},
        {"op": "replace", "path": "/gone", "value": 1},
        {"op": "replace", "path": "/l/-", "value": 1},
        {"op": "add", "path": "/gone/deep", "value": 1},
        {"op": "add", "path": "/n/under", "value": 1},
        {"op": "add", "path": "/l/3", "value": 1},
        {"op": "add", "path": "/l/x", "value": 1},
        {"op": "add", "path": f"/l/{'9' * 5000}", "value": 1},
        {"op": "remove", "path": "/l/-1"},
        {"op": "move", "from": "/gone", "path": "/n"},
        {"op": "move", "from": "/d", "path": "/d/into/itself"},
        {"op": "copy", "from": "/l/2", "path": "/n"},
        {"op": "test", "path": "/n", "value": True},
        {"op": "test", "path": "/l", "value": [1]},
        {"op": "add", "path": "/d/__proto__/x", "value": 1},
    ],
    ids=lambda step: f"{step['op']} {step['path'][:12]}",
)
def test_patch_that_does_not_fit_changes_nothing(step: Event) -> None:
    document = {"n": 1, "l": [1, 2], "d": {}}
    fitting: list[Event] = [
        {"op": "add", "path": "/l/0", "value": 0},
        {"op": "remove", "path": "/l/0"},
    ]
    with pytest.raises(PatchError):
        patched(document, [*fitting, step])
    assert document == {"n": 1, "l": [1, 2], "d": {}}


PATCHES: dict[str, tuple[Event, object]] = {
    "insert": ({"op": "add", "path": "/l/1", "value": 9}, {"n": 1, "l": [1, 9, 2]}),
    "append": ({"op": "add", "path": "/l/-", "value": 9}, {"n": 1, "l": [1, 2, 9]}),
    "escaped": ({"op": "add", "path": "/a~1b~01", "value": 9}, {"n": 1, "l": [1, 2], "a/b~1": 9}),
    "replace": ({"op": "replace", "path": "/l/1", "value": 9}, {"n": 1, "l": [1, 9]}),
    "remove": ({"op": "remove", "path": "/l/0"}, {"n": 1, "l": [2]}),
    "move": ({"op": "move", "from": "/l/0", "path": "/l/1"}, {"n": 1, "l": [2, 1]}),
    "copy": ({"op": "copy", "from": "/l", "path": "/m"}, {"n": 1, "l": [1, 2], "m": [1, 2]}),
    "test": ({"op": "test", "path": "/l", "value": [1.0, 2]}, {"n": 1, "l": [1, 2]}),
    "replace all": ({"op": "replace", "path": "", "value": {}}, {}),
    "remove all": ({"op": "remove", "path": ""}, None),
}


@pytest.mark.parametrize("step,after", PATCHES.values(), ids=PATCHES)
def test_patch_does_what_the_rfc_says(step: Event, after: object) -> None:
    assert patched({"n": 1, "l": [1, 2]}, [step]) == after


def test_what_a_patch_puts_twice_is_not_one_thing() -> None:
    document = {"a": [1], "b": None}
    steps: list[Event] = [
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "add", "path": "/b/-", "value": 2},
    ]
    assert patched(document, steps) == {"a": [1], "b": [1, 2]}
