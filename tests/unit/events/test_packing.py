"""Large attachments are cut out of JSON and put back to the byte, and no text is a reference."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.house import count_lines

from isolane.events.packing import (
    LEAST_BYTES,
    bare,
    is_packed,
    pack,
    references_of,
    size_of,
    unpack,
)

LARGE: Final = base64.b64encode(bytes(range(256)) * 60).decode()
OTHER: Final = "data:image/png;base64," + "A" * LEAST_BYTES


def part(value: str, kind: str = "data") -> dict[str, Any]:
    """Return a content part, as AG-UI's models write it."""
    source = {"type": kind, "value": value, "mimeType": "image/png"}
    return {"type": "image", "source": source}


def written(*parts: object) -> bytes:
    return msgspec.json.encode({"id": "m", "role": "user", "content": list(parts)})


def test_what_is_large_is_cut_out_and_put_back() -> None:
    payload = written({"type": "text", "text": "see?"}, part(LARGE), part(OTHER, "url"))
    packed, cut = pack(payload)
    assert set(cut.values()) == {LARGE.encode(), OTHER.encode()}
    assert all(sha256(data).digest() == digest for digest, data in cut.items())
    assert is_packed(packed)
    assert not is_packed(payload)
    assert len(packed) < 500
    assert size_of(packed) == len(payload)
    assert unpack(packed, cut) == payload
    left = json.loads(bare(packed))
    assert [one["source"]["value"] for one in left["content"][1:]] == ["", ""]


def test_what_stands_twice_is_cut_out_once() -> None:
    payload = written(part(LARGE), part(LARGE))
    packed, cut = pack(payload)
    assert len(cut) == 1
    assert len(references_of(packed)) == 2
    assert unpack(packed, cut) == payload


@pytest.mark.parametrize("size", [LEAST_BYTES - 1, LEAST_BYTES])
def test_small_attachments_stay(size: int) -> None:
    packed, cut = pack(written({"type": "text", "text": "x" * LEAST_BYTES}, part("A" * size)))
    assert is_packed(packed) == bool(cut) == (size >= LEAST_BYTES)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "text", "text": "A" * 2 * LEAST_BYTES},
        {"type": "text", "value": "A" * 2 * LEAST_BYTES},
        {"value": "A" * 2 * LEAST_BYTES},
        {"type": "data", "value": "A" * 2 * LEAST_BYTES + '"'},
        {"type": "data", "value": "A" * 2 * LEAST_BYTES + "\\"},
        {"numbers": [1] * LEAST_BYTES},
        {"type": "file", "value": "A" * 2 * LEAST_BYTES},
        '"type":"data","value":"' + "A" * 2 * LEAST_BYTES,
    ],
)
def test_other_words_stay_where_they_are(value: object) -> None:
    payload = written(value)
    assert pack(payload) == (payload, {})
    assert (bare(payload), size_of(payload), references_of(payload)) == (payload, len(payload), [])


def test_text_that_looks_packed_is_text() -> None:
    """NUL begins what is packed. In JSON it is written with an escape, and never as it is."""
    forged, cut = pack(written(part(LARGE)))
    for text in (forged.decode("latin-1"), "\0\0\0\0\1", next(iter(cut)).hex()):
        payload = written({"type": "text", "text": text})
        assert not is_packed(payload)
        packed, cut_here = pack(payload)
        assert unpack(packed, cut_here) == payload
        assert json.loads(unpack(packed, cut_here))["content"][0]["text"] == text


def test_missing_attachment_is_an_error() -> None:
    packed, _ = pack(written(part(LARGE)))
    with pytest.raises(KeyError):
        unpack(packed, {})


WORDS: Final = (
    *("A" * LEAST_BYTES, "A" * (LEAST_BYTES - 1), LARGE, OTHER),
    *('"' * LEAST_BYTES, "\\" * LEAST_BYTES, '"type":"data","value":"'),
)
words = st.text(max_size=30) | st.integers(0, len(WORDS) - 1).map(WORDS.__getitem__)
sources = st.builds(part, words, st.sampled_from(["data", "url", "file"]))
values = st.recursive(
    words | sources | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)


@given(values)
def test_any_json_comes_back_to_the_byte(value: object) -> None:
    dense = {"ensure_ascii": False, "separators": (",", ":")}
    for payload in (msgspec.json.encode([value]), json.dumps([value], **dense).encode()):  # type: ignore[arg-type]
        packed, cut = pack(payload)
        assert unpack(packed, cut) == payload
        assert size_of(packed) == len(payload)
        json.loads(bare(packed))
        assert all(len(data) >= LEAST_BYTES for data in cut.values())


@given(st.lists(st.integers(0, 3 * LEAST_BYTES), max_size=8), st.integers(0, 2 * LEAST_BYTES))
def test_every_large_one_is_found_wherever_it_stands(sizes: list[int], before: int) -> None:
    payload = written("x" * before, *(part("A" * size) for size in sizes))
    packed, _ = pack(payload)
    found = [reference.size for reference in references_of(packed)]
    assert found == [size for size in sizes if size >= LEAST_BYTES]


def test_look_is_short_however_many_values_there_are() -> None:
    many_quotes = written(*["a", "b"] * 30_000)
    assert count_lines(lambda: pack(many_quotes)) < 400


@pytest.mark.parametrize("cut", [b"\0", b"\0\0\0\0", b"\0\xff\xff\xff\xff{}"])
def test_what_is_cut_short_refers_to_nothing(cut: bytes) -> None:
    assert not is_packed(cut)
    assert (references_of(cut), size_of(cut), bare(cut)) == ([], len(cut), cut)
