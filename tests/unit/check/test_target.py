"""Where a URL leads, and that no part of a secret is shown."""

from __future__ import annotations

import pytest

from isolane.check.command import read_request
from isolane.check.finding import Misuse
from isolane.check.target import find_secret, hide_secrets, parse_target

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLW9mLWl0"


@pytest.mark.parametrize(
    "url,http,websocket",
    [
        ("http://localhost:8000", "http://localhost:8000", "ws://localhost:8000"),
        ("ws://localhost:8000/ws", "http://localhost:8000", "ws://localhost:8000"),
        ("https://example.org", "https://example.org:443", "wss://example.org:443"),
        ("wss://example.org/", "https://example.org:443", "wss://example.org:443"),
        ("http://example.org/agent/", "http://example.org:80/agent", "ws://example.org:80/agent"),
        ("http://[::1]:8000", "http://[::1]:8000", "ws://[::1]:8000"),
    ],
)
def test_a_url_leads_to_both_doors(url: str, http: str, websocket: str) -> None:
    target = parse_target(url)
    assert (target.http_url, target.websocket_url) == (http, websocket)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a?b=c"],
)
def test_what_names_no_deployment_is_misuse(url: str) -> None:
    with pytest.raises(Misuse):
        parse_target(url)


@pytest.mark.parametrize("tokens", [[TOKEN] * 3, [""], ["a b"], ["a\n"], ["é"]])
def test_what_can_be_no_token_is_misuse(tokens: list[str]) -> None:
    with pytest.raises(Misuse):
        read_request("http://localhost", tokens, None)


@pytest.mark.parametrize(
    "shown", [TOKEN, TOKEN[:12], TOKEN[-12:], TOKEN.split(".")[1], f"{TOKEN}{TOKEN}"]
)
def test_no_part_of_a_secret_is_shown(shown: str) -> None:
    hidden = hide_secrets(f"before {shown} after", [TOKEN])
    assert hidden == "before … after"
    assert find_secret(f"before {shown} after", [TOKEN])


def test_what_is_no_secret_is_shown() -> None:
    text = "close 4401 missing, as it should be"
    assert hide_secrets(text, [TOKEN, ""]) == text
    assert not find_secret(text, [TOKEN, ""])


def test_a_short_secret_is_hidden_whole() -> None:
    assert hide_secrets("the key is s3cret", ["s3cret"]) == "the key is …"


def test_a_request_shows_no_secret() -> None:
    request = read_request("http://localhost", [TOKEN], "s3cret")
    assert not find_secret(repr(request), [TOKEN, "s3cret"])
