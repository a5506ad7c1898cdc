"""The one tree of errors: each leaf says once what every transport needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from isolane import errors
from isolane.errors import IsolaneError

SECRET = "s3cret-detail"

# As the protocol's table of codes has them: code, close, HTTP status, retryable.
PUBLISHED: dict[type[IsolaneError], tuple[str, int | None, int, bool]] = {
    errors.Unauthenticated: ("unauthenticated", 4401, 401, False),
    errors.Forbidden: ("forbidden", 4403, 403, False),
    errors.NotFound: ("not_found", None, 404, False),
    errors.Fenced: ("not_found", None, 404, False),
    errors.UnknownResponse: ("previous_response_not_found", None, 404, False),
    errors.UnknownAgent: ("not_found", 1008, 404, False),
    errors.InvalidFrame: ("invalid_frame", None, 400, False),
    errors.InvalidInput: ("invalid_input", None, 422, False),
    errors.InvalidContext: ("invalid_input", None, 422, False),
    errors.InvalidCursor: ("invalid_cursor", None, 422, False),
    errors.CursorExpired: ("resume_expired", None, 410, False),
    errors.MissingScope: ("forbidden", 4403, 403, False),
    errors.IdentityMismatch: ("identity_mismatch", None, 403, False),
    errors.TooLarge: ("too_large", 1009, 413, False),
    errors.LimitExceeded: ("limit_exceeded", 4429, 429, True),
    errors.QuotaExceeded: ("limit_exceeded", 4429, 429, False),
    errors.RunConflict: ("run_conflict", None, 409, False),
    errors.SlowConsumer: ("slow_consumer", 4409, 408, True),
    errors.Unavailable: ("unavailable", 1013, 503, True),
    errors.DatabaseFailed: ("internal", 1011, 500, True),
    errors.GoingAway: ("going_away", 1001, 503, True),
    errors.HandedOver: ("going_away", 1001, 503, True),
    errors.AgentError: ("agent_error", None, 500, True),
    errors.AgentFailed: ("agent_error", None, 500, True),
    errors.AgentTimeout: ("agent_timeout", None, 500, True),
    errors.AgentProtocolError: ("agent_protocol", None, 500, True),
    errors.RunTooLarge: ("agent_protocol", None, 500, True),
    errors.EventTooLarge: ("agent_protocol", None, 500, True),
    errors.AgentLost: ("agent_lost", None, 500, True),
    errors.ContractError: ("internal", 1011, 500, True),
    errors.ConnectionFailed: ("internal", 1011, 500, True),
    errors.ManagerClosed: ("internal", 1011, 500, True),
    errors.NoActiveRun: ("internal", 1011, 500, True),
    errors.DatabaseInUse: ("internal", 1011, 500, True),
    errors.NameTaken: ("internal", 1011, 500, True),
    errors.KeyDiffers: ("internal", 1011, 500, True),
    errors.AgentRefused: ("internal", 1011, 500, True),
}


def _leaves(root: type[IsolaneError]) -> Iterator[type[IsolaneError]]:
    for leaf in root.__subclasses__():
        yield leaf
        yield from _leaves(leaf)


@pytest.mark.parametrize("leaf", list(PUBLISHED))
def test_a_leaf_says_what_the_protocol_says(leaf: type[IsolaneError]) -> None:
    found = (leaf.code, leaf.close_code, leaf.http_status, leaf.retryable)
    assert found == PUBLISHED[leaf]


def test_every_leaf_is_in_the_table() -> None:
    assert set(_leaves(IsolaneError)) == set(PUBLISHED)


@pytest.mark.parametrize(
    "leaf",
    [leaf for leaf in PUBLISHED if not leaf.says_more and leaf is not errors.Unauthenticated],
)
def test_the_text_of_an_error_stays_in_the_process(leaf: type[IsolaneError]) -> None:
    assert SECRET not in leaf(SECRET).message
    assert leaf(SECRET).message == leaf.public_message


def test_a_refused_credential_says_why_but_not_what() -> None:
    error = errors.Unauthenticated("expired", f"token {SECRET} is expired")
    assert error.reason == "expired"
    assert SECRET not in error.message
    assert SECRET in str(error)


def test_what_was_written_for_the_client_reaches_it() -> None:
    limit = errors.LimitExceeded("runsPerUser", 5, retry_after_ms=70)
    assert limit.message == "runsPerUser is limited to 5"
    assert limit.retry_after_ms == 70
    field = errors.InvalidInput("messages.0.id", "must be text")
    assert (field.field, field.message) == ("messages.0.id", "messages.0.id: must be text")


def test_only_a_busy_thread_makes_a_conflict_worth_another_try() -> None:
    assert errors.RunConflict("busy", retryable=True).retryable
    assert not errors.RunConflict("other content").retryable
    assert not errors.RunConflict.retryable


@pytest.mark.parametrize("kind", [TypeError, RuntimeError, IsolaneError])
def test_a_broken_contract_is_caught_as_python_would_raise_it(kind: type[Exception]) -> None:
    assert issubclass(errors.ContractError, kind)


def test_the_four_kinds_of_failure_are_told_apart_by_type() -> None:
    kinds = [
        errors.InvalidContext, errors.LimitExceeded, errors.Unavailable, errors.ContractError,
    ]  # fmt: skip
    for one in kinds:
        assert not any(issubclass(one, other) for other in kinds if other is not one)


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


def raising(error: BaseException, cause: Callable[[], object] | None = None) -> None:
    """Raise `error`, while what `cause` raises is handled."""
    if cause is None:
        raise error
    try:
        cause()
    except Exception:  # noqa: BLE001 - what is handled when the next one comes
        raise error  # noqa: B904 - its context is what is asked for


def test_a_chain_goes_from_the_surface_to_the_root() -> None:
    surface, middle = errors.ConnectionFailed("surface"), errors.ContractError("middle")
    surface.__cause__ = middle
    middle.__cause__ = Mute()
    assert errors.chain_of(surface) == [
        "ConnectionFailed: surface",
        "ContractError: middle",
        "Mute: (its text can't be had)",
    ]


def test_a_chain_names_what_was_handled_when_it_happened() -> None:
    with pytest.raises(ValueError, match="second") as caught:
        raising(ValueError("second"), lambda: raising(KeyError("first")))
    assert errors.chain_of(caught.value) == ["ValueError: second", "KeyError: 'first'"]
    caught.value.__suppress_context__ = True  # as `from None` has it
    assert errors.chain_of(caught.value) == ["ValueError: second"]


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert len(errors.chain_of(one)) == errors.CHAIN_MAX


def test_a_refused_value_is_named_with_its_type_and_shown_when_it_is_short() -> None:
    number = errors.InvalidContext("threadId", "must be text (str)", 5)
    assert str(number) == "threadId: must be text (str), and this is of type int"
    assert (number.field, number.type_name, number.rule) == (
        "threadId", "int", "must be text (str)",
    )  # fmt: skip
    assert "text (str), 'a b'" in str(errors.InvalidContext("runId", "rule", "a b"))
    long = str(errors.InvalidContext("runId", "rule", "x" * 10_000))
    assert "10000 characters long" in long
    assert len(long) < 200
