"""Ids: made without collision, taken only when they may name something."""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolane import ids
from isolane.errors import InvalidContext
from isolane.ids import uuid7

STOPPED_NS = 1_700_000_000 * 10**9


def test_ids_over_eight_threads_are_unique_though_the_clock_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ids, "time_ns", lambda: STOPPED_NS)
    monkeypatch.setattr(ids, "uuid7", type(uuid7)())
    gate = threading.Barrier(8)

    def make(_: int) -> list[str]:
        gate.wait()  # all eight at once
        return [ids.new_request_id() for _ in range(25_000)]

    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(make, range(8)))
    made = [new for batch in batches for new in batch]
    assert len(set(made)) == 200_000
    assert len({new[:17] for new in made}) == 1  # the clock's part: it did stand still
    assert all(batch == sorted(batch) for batch in batches)


def test_an_id_holds_the_clock_version_7_and_the_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "time_ns", lambda: 0x017F22E279B0 * 1_000_000)  # RFC 9562, A.6
    made = type(uuid7)()()
    assert str(made).startswith("017f22e2-79b0-7")
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made == UUID(str(made))


def test_ids_go_on_growing_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    make = type(uuid7)()
    clock = [STOPPED_NS, STOPPED_NS - 3600 * 10**9, STOPPED_NS, STOPPED_NS + 10**6, 0]
    made = []
    for now_ns in clock:
        monkeypatch.setattr(ids, "time_ns", lambda now_ns=now_ns: now_ns)
        made.append(str(make()))
    assert made == sorted(set(made))
    assert {one[:13] for one in made[:3]} == {
        made[0][:13]
    }  # a step back costs no time of the clock


def test_nobody_can_tell_the_next_id_of_a_stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "time_ns", lambda: STOPPED_NS)
    made = [uuid7().int for _ in range(1000)]
    steps = {after - before for before, after in pairwise(made)}
    assert len(steps) > 990


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


def test_tickets_have_256_bits() -> None:
    tickets = {ids.new_ticket() for _ in range(1000)}
    assert len(tickets) == 1000
    assert all(len(ticket) >= 43 for ticket in tickets)  # 256 bits in base64


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
    assert len(ids.check_user_id("userId", "\u0958" * 512)) == 1024
    with pytest.raises(InvalidContext, match="at most 1024 characters"):
        ids.check_user_id("userId", "\u0958" * 513)


# ---- names that others give their users ----------------------------------------------------------

ESCAPED = {
    "alice": "alice",
    "mail@example.org": "mail@example.org",
    "issuer|subject": "issuer|subject",
    "李雷": "李雷",
    "abc/def==": "abc%2Fdef%3D%3D",
    "o'brien@example.com": "o%27brien@example.com",
    "CN=Ada,OU=R&D": "CN%3DAda%2COU%3DR%26D",
    " Ada  Lovelace ": "%20Ada%20%20Lovelace%20",
    "ada_corp.com#EXT#@x.onmicrosoft.com": "ada_corp.com%23EXT%23@x.onmicrosoft.com",
    "100%": "100%25",
    "a%2Fb": "a%252Fb",
    "~": "%7E",
    "a\0b\n": "a%00b%0A",
    "\u202ealice": "%E2%80%AEalice",
    "😀": "%F0%9F%98%80",
    "/\u0301": "%2F%CC%81",
    ",\u0301": "%2C%CC%81",
    "<\u0338": "%E2%89%AE",
}
"""Names that others give, and the user ids that are made of them."""


@pytest.mark.parametrize("name", ESCAPED)
def test_user_of_another_issuer_gets_an_id_from_which_the_name_is_found_again(name: str) -> None:
    user_id = ids.to_user_id("sub", name)
    assert user_id == ESCAPED[name]
    assert ids.check_user_id("userId", user_id) == user_id
    assert ids.get_subject(user_id) == unicodedata.normalize("NFC", name)
    assert ids.find_user_id("userId", user_id) == user_id


@pytest.mark.parametrize(
    "bad", ["%", "a%", "a%2", "a%2f", "a%41", "%zz", "%FF", "%2F\u0301", "%25%", "a b%20"]
)
def test_escape_that_nobody_wrote_is_no_user_id(bad: str) -> None:
    with pytest.raises(InvalidContext, match=r"^userId: "):
        ids.check_user_id("userId", bad)


def test_people_may_name_a_user_by_the_id_or_as_the_issuer_does() -> None:
    assert ids.find_user_id("name", "corp|o'brien") == "corp|o%27brien"
    assert ids.find_user_id("name", "corp|o%27brien") == "corp|o%27brien"


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_two_names_become_one_user(one: str, other: str) -> None:
    try:
        made = ids.to_user_id("sub", one), ids.to_user_id("sub", other)
    except InvalidContext:
        return
    is_same = unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
    assert (made[0] == made[1]) == is_same
    for user_id in made:
        assert ids.check_user_id("userId", f"corp|{user_id}") == f"corp|{user_id}"


def test_the_longest_subject_of_openid_connect_has_an_id() -> None:
    subject = "~" * 255
    assert len(ids.check_user_id("userId", f"{'p' * 32}|{ids.to_user_id('sub', subject)}")) == 798


@pytest.mark.parametrize("bad", ["", "   ", "x" * 1025, "/" * 342, "\ud800", "none", 7, None])
def test_what_is_no_name_is_refused(bad: object) -> None:
    with pytest.raises(InvalidContext, match=r"^sub: "):
        ids.to_user_id("sub", bad)


def test_a_hostile_name_costs_little() -> None:
    marks = "\u0301\u0327" * 2_000
    began = time.thread_time()
    with pytest.raises(InvalidContext):
        ids.to_user_id("sub", f"a{marks}")
    assert time.thread_time() - began < 0.1


def test_no_two_epochs_are_alike_and_none_says_anything() -> None:
    epochs = {ids.new_epoch() for _ in range(1000)}
    assert len(epochs) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{16}", epoch) for epoch in epochs)


def test_a_request_id_is_our_own() -> None:
    made = ids.new_request_id()
    assert ids.check_request_id("requestId", made) == made


@pytest.mark.parametrize(
    "bad",
    ["", "req_", "req_1", "x", f"req_{uuid4()}", str(uuid7()), f"req_{uuid7()}\n", None, 5],
    ids=count(),  # each process draws others, and all must call a test the same
)
def test_any_other_request_id_is_refused(bad: object) -> None:
    with pytest.raises(InvalidContext, match="requestId: must be an id of this gateway's own"):
        ids.check_request_id("requestId", bad)


def test_somebody_elses_request_id_is_kept_when_it_is_well_formed_and_else_dropped() -> None:
    assert ids.to_parent_id("trace-1:a.b_c") == "trace-1:a.b_c"
    for bad in ("", "a b", "x" * 129, "null", "a\r\nb", "é", None, 5):
        assert ids.to_parent_id(bad) is None
