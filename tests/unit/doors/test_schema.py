"""The schema says what the server reads and makes, and the TypeScript client says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import which
from typing import Any, Final

import msgspec
import pytest

from isolane.context import EventId
from isolane.doors.schema import (
    ClientControlFrame,
    EnvelopeFrame,
    RunInput,
    ServerControlFrame,
    frame_schema,
)
from isolane.errors import (
    Forbidden,
    InvalidInput,
    IsolaneError,
    LimitExceeded,
    NotFound,
    Unauthenticated,
)
from isolane.events.event import envelope
from isolane.settings import Settings
from isolane.sockets.resume import Resume
from isolane.wire.frames import (
    PING,
    decode_frame,
    encode_frame,
    error_frame,
    run_error,
    thread_frame,
    welcome,
)

ROOT: Final = Path(__file__).parents[3]
CLIENT: Final = ROOT / "clients/typescript"
NODE: Final = which("node") or "node"
RUN: Final = {"threadId": "t", "runId": "r", "messages": []}


def check(text: str, shape: Any) -> None:  # noqa: ANN401 - a union is no type
    msgspec.json.decode(text, type=shape)


def check_server(frame: Mapping[str, object]) -> None:
    check(encode_frame(frame), ServerControlFrame)


def schema_errors() -> list[IsolaneError]:
    leaves: list[IsolaneError] = [
        Unauthenticated("expired"),
        InvalidInput("v", "must be 1"),
        LimitExceeded("runsPerUser", 5),
    ]
    return [*leaves, Forbidden(), NotFound()]


def test_welcome_keeps_the_schema() -> None:
    run = {"threadId": "t", "runId": "r", "head": "e-0"}
    check_server(
        welcome(
            connection_id="c",
            user_id="u",
            heartbeat_ms=20_000,
            limits=Settings().published_limits,
            token_expires_at=None,
            active_runs=[run],
            nodes=1,
        )
    )


@pytest.mark.parametrize("error", schema_errors(), ids=lambda error: error.code)
def test_errors_keep_the_schema(error: IsolaneError) -> None:
    check_server(error_frame(error, "e1"))
    check_server(error_frame(error, "e1", threadId="t", runId="r"))
    check_server(run_error(error, "e1", run_id="r"))
    check_server(run_error(error, "e1", run_id=None))


def test_answers_to_subscribe_keep_the_schema() -> None:
    head = EventId("e", 3)
    check_server(Resume(head, head).to_frame("t"))
    said = [{"id": "m", "role": "user", "content": "hi"}]
    for messages in (None, said):
        gap = Resume(head, head, is_recovered=False, messages=messages)
        check_server(gap.to_frame("t"))


@pytest.mark.parametrize("active_run_id", ["r", None])
def test_news_of_a_thread_keep_the_schema(active_run_id: str | None) -> None:
    check_server(
        thread_frame(
            thread_id="t", title="", updated_at=1, active_run_id=active_run_id, is_deleted=False
        )
    )


def test_data_frames_keep_the_schema() -> None:
    check(PING, ServerControlFrame)
    chunk = b'{"type":"CUSTOM","name":"n","value":1}'
    check(envelope(EventId("e", 1), chunk, thread_id="t", run_id="r"), EnvelopeFrame)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "hello", "v": 1},
        {"type": "subscribe", "threadId": "t"},
        {"type": "subscribe", "threadId": "t", "after": "e-12"},
        {"type": "unsubscribe", "threadId": "t"},
        {"type": "auth", "token": "a.b.c"},
        {"type": "ping"},
        {"type": "ping", "t": [1]},
        {"type": "abort", "runId": "r"},
    ],
    ids=str,
)
def test_what_the_schema_takes_the_server_reads(frame: dict[str, object]) -> None:
    text = json.dumps(frame)
    check(text, ClientControlFrame)
    decode_frame(text)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "hello", "v": 2},
        {"type": "hello"},
        {"type": "subscribe", "threadId": "a b"},
        {"type": "subscribe", "threadId": "t", "after": "e-01"},
        {"type": "unsubscribe"},
        {"type": "auth", "token": ""},
        {"type": "abort", "runId": 1},
        {"type": "abort", "runId": "x" * 129},
        {"type": "unheard of"},
    ],
    ids=str,
)
def test_what_the_schema_refuses_the_server_refuses(frame: dict[str, object]) -> None:
    text = json.dumps(frame)
    with pytest.raises(msgspec.ValidationError):
        check(text, ClientControlFrame)
    with pytest.raises(IsolaneError):
        decode_frame(text)


@pytest.mark.parametrize("missing", ["threadId", "runId", "messages"])
def test_a_run_needs_what_the_schema_requires(missing: str) -> None:
    whole = json.dumps(RUN)
    check(whole, RunInput)
    decode_frame(whole)
    text = json.dumps({name: value for name, value in RUN.items() if name != missing})
    with pytest.raises(msgspec.ValidationError):
        check(text, RunInput)
    with pytest.raises(IsolaneError):
        decode_frame(text)


def test_every_reference_leads_somewhere() -> None:
    schema = frame_schema()
    references = {part.split('"')[0] for part in json.dumps(schema).split('"#/$defs/')[1:]}
    assert references <= schema["$defs"].keys()
    assert {"ClientFrame", "ServerFrame"} <= schema["$defs"].keys()


def test_the_client_was_generated_from_this_schema() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "isolane.doors.schema"], check=True, capture_output=True
    )
    checked = subprocess.run(
        [NODE, "scripts/generate.js", "--check"],
        cwd=CLIENT,
        input=printed.stdout,
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr.decode()
