"""What a run was asked, as input items of Responses."""

from __future__ import annotations

from typing import Any

import pytest

from isolane.errors import InvalidInput
from isolane.wire.openai.asking import read_response
from isolane.wire.openai.items import to_input_items, to_page

PICTURE = "data:image/png;base64,aGk="
ITEMS: list[dict[str, Any]] = [
    {"id": "mcpr_q", "type": "mcp_approval_response", "approval_request_id": "q",
     "approve": False, "reason": "No."},
    {"id": "m-1", "type": "function_call_output", "call_id": "c", "output": "42",
     "status": "completed"},
    {"id": "m-2", "type": "message", "role": "user", "status": "completed", "content": [
        {"type": "input_text", "text": "Look."},
        {"type": "input_image", "detail": "auto", "image_url": PICTURE},
        {"type": "input_image", "detail": "auto", "image_url": "https://example.org/x.png"},
        {"type": "input_file", "file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"},
        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
    ]},
    {"id": "m-3", "type": "message", "role": "user", "status": "completed", "content": [
        {"type": "input_text", "text": "Well?"},
    ]},
    {"id": "m-4", "type": "function_call_output", "call_id": "d", "status": "completed", "output": [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "detail": "auto", "image_url": PICTURE},
    ]},
]  # fmt: skip


def test_what_was_asked_is_told_as_it_was_asked() -> None:
    asked = read_response({"model": "a", "input": ITEMS}, lambda place: f"m-{place}")
    assert to_input_items(asked.added, asked.resume) == ITEMS


@pytest.mark.parametrize(
    "entry, is_approved",
    [
        ({"status": "resolved", "payload": {"approved": True}}, True),
        ({"status": "resolved", "payload": {"approved": False}}, False),
        ({"status": "resolved", "payload": "yes"}, True),
        ({"status": "resolved"}, True),
        ({"status": "cancelled"}, False),
    ],
)
def test_answers_of_other_doors_are_approvals(entry: dict[str, Any], *, is_approved: bool) -> None:
    (item,) = to_input_items([], [{"interruptId": "q", **entry}])
    assert (item["approve"], "reason" in item) == (is_approved, False)


def test_parts_of_other_doors_are_files() -> None:
    source = {"type": "data", "value": "aGk=", "mimeType": "video/mp4"}
    spoken = {"type": "url", "value": "https://example.org/a.mp3", "mimeType": "audio/mpeg"}
    parts = [{"type": "video", "source": source}, {"type": "audio", "source": spoken}]
    (item,) = to_input_items([{"id": "m", "role": "user", "content": parts}])
    assert item["content"] == [
        {"type": "input_file", "file_data": "data:video/mp4;base64,aGk="},
        {"type": "input_file", "file_url": "https://example.org/a.mp3"},
    ]


def test_pages_go_both_ways() -> None:
    items = [{"id": one} for one in "abcde"]

    def turn(after: str | None, *, is_newest_first: bool) -> tuple[str, str, str, bool]:
        page = to_page(items, after=after, limit=2, is_newest_first=is_newest_first)
        ids = "".join(one["id"] for one in page["data"])
        return ids, page["first_id"], page["last_id"], page["has_more"]

    assert turn(None, is_newest_first=False) == ("ab", "a", "b", True)
    assert turn("b", is_newest_first=False) == ("cd", "c", "d", True)
    assert turn("d", is_newest_first=False) == ("e", "e", "e", False)
    assert turn("c", is_newest_first=False) == ("de", "d", "e", False)
    assert turn(None, is_newest_first=True) == ("ed", "e", "d", True)
    assert turn("b", is_newest_first=True) == ("a", "a", "a", False)
    empty = to_page([], after=None, limit=2, is_newest_first=True)
    assert (empty["data"], empty["first_id"], empty["has_more"]) == ([], None, False)
    with pytest.raises(InvalidInput, match="after"):
        to_page(items, after="x", limit=2, is_newest_first=True)
