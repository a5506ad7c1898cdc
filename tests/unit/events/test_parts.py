"""Parts of content: today's, yesterday's and tomorrow's."""

from __future__ import annotations

from typing import Any

import pytest

from isolane.events.left_out import Kind, LeftOut
from isolane.events.parts import known_parts, to_modern

TEXT = {"type": "text", "text": "hi"}


def media(kind: str, source: str, value: str = "v", mime_type: str = "image/png") -> dict[str, Any]:
    return {"type": kind, "source": {"type": source, "value": value, "mimeType": mime_type}}


def known(*parts: object) -> tuple[list[Any], dict[str, dict[str, int]]]:
    left_out = LeftOut()
    return list(known_parts(parts, left_out).values()), left_out.to_report()


def test_known_parts_stay_also_malformed_ones() -> None:
    parts = [TEXT, {"type": "text"}, media("image", "file"), {"type": "image"}, 5, None, {}, "x"]
    assert known(*parts) == (parts, {})


def test_unknown_parts_and_sources_are_left_out_and_named() -> None:
    parts = [{"type": "hologram"}, TEXT, media("image", "ipfs"), {"type": "hologram", "a": 1}]
    assert known(*parts) == ([TEXT], {"part": {"hologram": 2, "image from ipfs": 1}})


def test_parts_keep_their_places() -> None:
    assert list(known_parts([{"type": "odd"}, TEXT, {"type": "odd"}, TEXT], LeftOut())) == [1, 3]


@pytest.mark.parametrize(
    "mime_type, kind",
    [
        ("image/png", "image"), ("Image/PNG", "image"), ("audio/wav", "audio"),
        ("video/mp4", "video"), ("application/pdf", "document"), ("text/plain", "document"),
        ("", "document"), ("imagery/x", "document"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name, source", [("data", "data"), ("url", "url"), ("id", "file")])
def test_binary_parts_are_put_into_todays_words(
    mime_type: str, kind: str, name: str, source: str
) -> None:
    part = {"type": "binary", "mimeType": mime_type, name: "v"}
    assert to_modern(part) == media(kind, source, mime_type=mime_type)


def test_data_comes_before_an_address_and_that_before_an_id() -> None:
    part = {"type": "binary", "mimeType": "image/png", "id": "i", "url": "u", "data": "d"}
    assert to_modern(part)["source"]["value"] == "d"
    assert to_modern({**part, "data": ""})["source"]["value"] == "u"
    assert to_modern({**part, "data": None, "url": None})["source"]["value"] == "i"


def test_a_binary_parts_filename_is_kept() -> None:
    part = {"type": "binary", "mimeType": "image/png", "data": "d", "filename": "cat.png"}
    assert to_modern(part)["metadata"] == {"filename": "cat.png"}


@pytest.mark.parametrize(
    "part",
    [{"type": "binary"}, {"type": "binary", "mimeType": "a/b"}, {"type": "binary", "data": "d"},
     {"type": "binary", "mimeType": 5, "data": "d"}, {"type": "binary", "mimeType": "a", "url": 5}],
    ids=str,
)  # fmt: skip
def test_a_binary_part_that_lacks_something_stays_to_be_refused(part: dict[str, Any]) -> None:
    assert known(part) == ([part], {})


def test_a_part_that_a_client_sends_in_both_words_is_taken_once() -> None:
    old = {"type": "binary", "mimeType": "image/png", "data": "v"}
    new = media("image", "data")
    assert known(old, new, TEXT)[0] == [new, TEXT]
    assert known(new, old)[0] == [new]
    assert known({**old, "filename": "cat.png"}, new)[0] == [
        {**new, "metadata": {"filename": "cat.png"}},
        new,
    ]
    assert known(old, old)[0] == [new, new]


def test_names_are_bounded_and_counts_are_not() -> None:
    left_out = LeftOut()
    for number in range(1000):
        left_out.note(Kind.EVENT, f"{'x' * 200}{number}")
    (names,) = left_out.to_report().values()
    assert all(len(name) <= 129 for name in names)
    for number in range(1000):
        left_out.note(Kind.PART, str(number))
    assert sum(map(len, left_out.to_report().values())) <= 20
