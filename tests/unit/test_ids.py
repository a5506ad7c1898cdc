"""Ids: made without collision, taken only when they may name something."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils import uuid7

from isolane import ids
from isolane.errors import InvalidContext

STOPPED_NS = 1_700_000_000 * 10**9


def test_a_million_ids_over_eight_threads_are_unique_though_the_clock_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ids, "uuid7", partial(uuid7, nanoseconds=STOPPED_NS))
    gate = threading.Barrier(8)

    def make(_: int) -> list[str]:
        gate.wait()  # all eight at once
        return [ids.new_request_id() for _ in range(125_000)]

    with ThreadPoolExecutor(8) as pool:
        made = [new for batch in pool.map(make, range(8)) for new in batch]
    assert len(set(made)) == 1_000_000
    assert len({new[:15] for new in made}) == 1  # the clock's part: it did stand still


@pytest.mark.parametrize(
    "make, prefix",
    [
        (ids.new_request_id, "req_"),
        (ids.new_connection_id, "conn_"),
        (ids.new_error_id, "err_"),
        (ids.new_message_id, "msg_"),
    ],
)
def test_an_id_says_what_it_names_and_may_travel(make: Callable[[], str], prefix: str) -> None:
    made = make()
    assert made.startswith(prefix)
    assert ids.check_wire_id("id", made) == made


def test_tickets_and_seeds_have_256_bits() -> None:
    tickets = {ids.new_ticket() for _ in range(1000)}
    assert len(tickets) == 1000
    assert all(len(ticket) >= 43 for ticket in tickets)  # 256 bits in base64
    assert len(ids.new_seed()) == 32


@pytest.mark.parametrize("good", ["a", "A1", "a.b_c:d-e", "-", "x" * 128])
def test_a_wire_id_of_the_alphabet_is_taken_as_it_is(good: str) -> None:
    assert ids.check_wire_id("threadId", good) == good


@pytest.mark.parametrize(
    "bad",
    [
        "", " ", "x" * 129, "a b", "a\n", "\na", "a\0", "../x", "a/b", "*", "é", "а", "１",  # noqa: RUF001 - look-alikes
        "a%00", "none", "NULL", "Undefined", "placeholder", "\ud800", None, 5, b"a", ["a"],
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_the_name_of_its_field(bad: object) -> None:
    with pytest.raises(InvalidContext, match=r"^threadId: ") as caught:
        ids.check_wire_id("threadId", bad)
    assert caught.value.field == "threadId"


@pytest.mark.parametrize("good", ["alice", "mail@example.org", "issuer|subject", "李雷", "a+b"])
def test_users_may_be_named_in_any_language(good: str) -> None:
    assert ids.check_user_id("userId", good) == good


def test_two_ways_to_write_one_name_are_one_user() -> None:
    assert ids.check_user_id("userId", "e\u0301ve") == ids.check_user_id("userId", "\u00e9ve")


@pytest.mark.parametrize(
    "bad", ["", "  ", "a b", "a\0b", "a/b", "../x", "*", "\u202ealice", "\ud800", "none", 7, None]
)
def test_what_could_mislead_names_no_user(bad: object) -> None:
    with pytest.raises(InvalidContext, match=r"^userId: "):
        ids.check_user_id("userId", bad)


@given(st.text(max_size=200))
def test_a_user_id_that_was_taken_is_taken_again(text: str) -> None:
    try:
        once = ids.check_user_id("userId", text)
    except InvalidContext:
        return
    assert ids.check_user_id("userId", once) == once


def test_a_user_id_keeps_its_length_limit_in_its_normal_form() -> None:
    # NFC makes two characters of this one; what was taken at the door must not fail behind it.
    with pytest.raises(InvalidContext, match="at most 128 characters"):
        ids.check_user_id("userId", "\u0958" * 128)


def test_epochs_differ_by_every_part_and_say_nothing() -> None:
    seed = b"s" * 32
    one = ids.derive_epoch(seed, "a:b", "c", 0)
    others = [
        ids.derive_epoch(seed, "a", "b:c", 0),
        ids.derive_epoch(seed, "a:b", "c", 1),
        ids.derive_epoch(b"t" * 32, "a:b", "c", 0),
        ids.derive_epoch(seed, "c", "a:b", 0),
    ]
    assert one == ids.derive_epoch(seed, "a:b", "c", 0)
    assert one not in others
    assert len(set(others)) == len(others)


def test_a_request_id_is_our_own() -> None:
    made = ids.new_request_id()
    assert ids.check_request_id("requestId", made) == made


@pytest.mark.parametrize(
    "bad",
    ["", "req_", "req_1", "x", f"req_{uuid4()}", str(uuid7()), f"req_{uuid7()}\n", None, 5],
    ids=repr,
)
def test_any_other_request_id_is_refused(bad: object) -> None:
    with pytest.raises(InvalidContext, match="requestId: must be an id of this gateway's own"):
        ids.check_request_id("requestId", bad)


def test_somebody_elses_request_id_is_kept_when_it_is_well_formed_and_else_dropped() -> None:
    assert ids.to_parent_id("trace-1:a.b_c") == "trace-1:a.b_c"
    for bad in ("", "a b", "x" * 129, "null", "a\r\nb", "é", None, 5):
        assert ids.to_parent_id(bad) is None
