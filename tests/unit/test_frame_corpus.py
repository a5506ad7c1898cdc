"""Frames that are kept as bytes, all that the schema lets one get wrong, and mutants of both.

A file's folder says what becomes of it. In `taken` its name begins with the command, in
`wrong-field` with the field that is blamed. `no-text` is no UTF-8: a WebSocket refuses that before
anybody reads it, the body of a request may hold it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from time import process_time
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from isolane.doors.schema import ClientControlFrame, RunInput, ServerControlFrame, frame_schema
from isolane.errors import InvalidCursor, InvalidFrame, InvalidInput, IsolaneError
from isolane.settings import Settings
from isolane.wire.dialogue import Command, Dialogue, Refuse, Welcome
from isolane.wire.frames import (
    DEPTH_MAX,
    VALUES_MAX,
    Abort,
    Ping,
    Run,
    decode_object,
    encode_frame,
    error_frame,
    to_run_input,
)

CORPUS: Final = Path(__file__).parent / "corpus/frames"
HELLO: Final = '{"type":"hello","v":1}'
FRAME_BYTES: Final = Settings().limit_frame_bytes
CPU_MAX_S: Final = 5.0
"""For a frame of the largest size, on a machine that does other things; half a second is usual."""
BLAMED_MAX: Final = 10
"""Whoever lists all that is wrong with half a million values holds up everybody meanwhile."""


# --- what becomes of a frame ---------------------------------------------------------------------


def receive(text: str, *, has_greeted: bool) -> Command | IsolaneError:
    """Return the command that a frame is, or the error that answers it; no other may be raised."""
    (command,) = Dialogue().receive(text, now_ms=0, has_greeted=has_greeted)
    if isinstance(command, Refuse):
        return command.error
    if isinstance(command, Run):
        try:
            to_run_input(command)
        except InvalidInput as error:
            return error
    return command


def blamed(error: object) -> str | None:
    """Return the field that an error blames."""
    if isinstance(error, InvalidCursor):
        return "after"
    return error.field.partition(".")[0] if isinstance(error, InvalidInput) else None


def judge(text: str) -> Command | IsolaneError:
    """Return what becomes of a frame after hello; fails when it breaks what holds for any frame."""
    before, after = (receive(text, has_greeted=greeted) for greeted in (False, True))
    if isinstance(after, IsolaneError):
        judge_error(after)
        assert type(before) is type(after)
        return after
    if isinstance(after, Welcome | Run | Abort):
        assert before == after
    else:
        assert isinstance(before, InvalidFrame)
        assert "hello" in str(before)
    judge_writing(text, after)
    return after


def judge_error(error: IsolaneError) -> None:
    """Fail unless an error is one of the three that a frame may get, and can be told."""
    assert isinstance(error, InvalidFrame | InvalidInput | InvalidCursor)
    told = json.loads(encode_frame(error_frame(error, "err_1")))
    assert told["code"] in {"invalid_frame", "invalid_input", "invalid_cursor"}
    assert 0 < len(told["message"]) < 500
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        assert cause.error_count() <= BLAMED_MAX


def judge_writing(text: str, command: Command) -> None:
    """Fail unless what was read can be written, and is then read as the same."""
    body = decode_object(text)
    written = encode_frame(body)
    assert decode_object(written) == body == json.loads(written)
    assert receive(written, has_greeted=True) == command
    if isinstance(command, Ping):
        pong = encode_frame({"type": "pong", "t": command.t})
        assert json.loads(pong)["t"] == command.t
        msgspec.json.decode(pong, type=ServerControlFrame)


def assert_known(place: str, found: Command | IsolaneError) -> None:
    """Fail unless a frame fared as its folder and its name say."""
    folder, _, name = place.partition("/")
    wanted = name.partition(".")[0]
    match folder:
        case "taken":
            assert type(found).__name__ == wanted, found
        case "malformed":
            assert isinstance(found, InvalidFrame), found
        case "wrong-field":
            assert blamed(found) == wanted, found
        case _:
            pytest.fail(f"{folder}: what becomes of the frames in there?")


@contextmanager
def kept_when_it_fails(data: bytes) -> Iterator[None]:
    """Tell with a failure how to keep the input, so that it is tried ever after."""
    try:
        yield
    except Exception as error:
        file = CORPUS / "FOLDER" / f"NAME.{blake2b(data, digest_size=4).hexdigest()}.frame"
        error.add_note(
            "To keep it: mend the cause, then run this with the folder and the name that say "
            f"what is to become of it:\npathlib.Path('{file}').write_bytes({data!r})"
        )
        raise


# --- what is kept --------------------------------------------------------------------------------


def kept(*folders: str) -> list[Path]:
    """Return the kept inputs."""
    return [file for folder in folders for file in sorted((CORPUS / folder).iterdir())]


def place_of(file: Path) -> str:
    """Return what a kept input is called: its folder and its name."""
    return f"{file.parent.name}/{file.stem}"


@pytest.mark.parametrize("file", kept("taken", "malformed", "wrong-field"), ids=place_of)
def test_a_kept_frame_fares_as_its_place_says(file: Path) -> None:
    assert_known(place_of(file), judge(file.read_bytes().decode()))


@pytest.mark.parametrize("file", kept("no-text"), ids=place_of)
def test_what_is_no_text_is_malformed(file: Path) -> None:
    with pytest.raises(UnicodeDecodeError):
        file.read_bytes().decode()
    with pytest.raises(InvalidFrame):
        decode_object(file.read_bytes())


def test_every_folder_is_judged() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == {
        *("taken", "malformed", "wrong-field", "no-text")
    }


def test_the_corpus_is_kept_to_the_last_byte() -> None:
    data = (CORPUS / "taken/Welcome.blanks-and-line-ends.frame").read_bytes()
    assert data.count(b"\r\n") == 3


# --- what is too large to keep -------------------------------------------------------------------


def filled(head: str, item: str, tail: str) -> str:
    """Return a frame as large as may be: an item again and again, between head and tail."""
    room = FRAME_BYTES - len(head) - len(tail)
    marks = sum(map(item.count, ",[{")) + 1
    count = min(room // (len(item) + 1), (VALUES_MAX - 20) // marks)
    return head + ",".join([item] * count) + tail


def _run_filled(field: str, item: str) -> str:
    ids = '{"threadId":"t","runId":"r",'
    start = ids if field == "messages" else f'{ids}"messages":[],'
    return filled(f'{start}"{field}":[', item, "]}")


PING: Final = '{"type":"ping","t":['
PARTS: Final = (
    '{"threadId":"t","runId":"r","messages":[{"id":"m","role":"user","content":[',
    "]}]}",
)
GROWN: Final[dict[str, Callable[[], str]]] = {
    "malformed/depth 200,000": lambda: "[" * 200_000 + "]" * 200_000,
    "malformed/depth 200,000, objects": lambda: '{"a":' * 200_000 + "0" + "}" * 200_000,
    "malformed/depth 200,000, never closed": lambda: PING + "[" * 200_000,
    "malformed/5,000 digits": lambda: f"{PING}{'9' * 5000}]}}",
    "malformed/a number of the largest size": lambda: f"{PING}{'9' * FRAME_BYTES}]}}",
    "malformed/an exponent of the largest size": lambda: f"{PING}1e{'9' * FRAME_BYTES}]}}",
    "malformed/one key again and again": lambda: filled('{"type":"ping","t":{', '"a":0', "}}"),
    "malformed/blanks": lambda: " " * FRAME_BYTES,
    "malformed/more values than a frame may hold": lambda: f"{PING}{'0,' * VALUES_MAX}0]}}",
    "taken/Ping.objects": lambda: filled(PING, "{}", "]}"),
    "taken/Ping.numbers": lambda: filled(PING, "0", "]}"),
    "taken/Ping.numbers of 100 digits": lambda: filled(PING, "9" * 100, "]}"),
    "taken/Ping.letters": lambda: f'{PING}"{"é" * (FRAME_BYTES // 2 - 20)}"]}}',
    "taken/Ping.as deep as may be": lambda: filled(
        PING, "[" * (DEPTH_MAX - 2) + "]" * (DEPTH_MAX - 2), "]}"
    ),
    "taken/Run.messages of others": lambda: _run_filled("messages", "{}"),
    "taken/Run.questions": lambda: _run_filled("messages", '{"id":"m","role":"user","content":""}'),
    "wrong-field/messages.numbers": lambda: _run_filled("messages", "0"),
    "wrong-field/messages.users alone": lambda: _run_filled("messages", '{"role":"user"}'),
    "wrong-field/messages.parts that are none": lambda: filled(PARTS[0], "0", PARTS[1]),
    "wrong-field/tools.numbers": lambda: _run_filled("tools", "0"),
    "wrong-field/context.objects": lambda: _run_filled("context", "{}"),
    "wrong-field/resume.objects": lambda: _run_filled("resume", "{}"),
}


@pytest.mark.parametrize("place", GROWN)
def test_the_largest_frames_cost_little(place: str) -> None:
    text = GROWN[place]()
    began = process_time()
    found = receive(text, has_greeted=True)
    assert process_time() - began < CPU_MAX_S
    assert_known(place, found)
    if isinstance(found, IsolaneError):
        judge_error(found)


# --- what the schema lets one get wrong ----------------------------------------------------------

FITS: Final[dict[str, object]] = {
    "v": 1,
    "threadId": "t",
    "runId": "r",
    "after": "e0-1",
    "token": "x.y.z",
    "t": {"a": [1]},
    "messages": [{"id": "m", "role": "user", "content": "hi"}],
    "state": {"a": 1},
    "tools": [{"name": "look", "description": "", "parameters": {}}],
    "context": [{"description": "d", "value": "v"}],
    "forwardedProps": {},
    "resume": [{"interruptId": "i", "status": "cancelled"}],
    "parentRunId": "p",
}
"""A value for each field that a client's frame may have."""
ODD: Final[list[object]] = [None, True, False, 0, -7, 1.5, "", " ", "text", [], {}, {"a": 1}]
LOOSER: Final = {("after", "null")}
"""What is read though the schema doesn't offer it: clients write null for what they don't have."""


def client_frames() -> dict[str, dict[str, Any]]:
    """Return one frame of each kind that the schema knows, with all that it may hold."""
    shapes = frame_schema()["$defs"]
    kinds = [each["$ref"].rpartition("/")[2] for each in shapes["ClientFrame"]["anyOf"]]
    return {
        kind: {
            field: rule["enum"][0] if field == "type" else FITS[field]
            for field, rule in shapes[kind]["properties"].items()
        }
        for kind in kinds
    }


def offered(frame: dict[str, Any]) -> bool:
    """Say whether the schema offers a frame."""
    try:
        msgspec.convert(frame, ClientControlFrame if "type" in frame else RunInput)
    except msgspec.ValidationError:
        return False
    return True


FIELDS: Final = [(kind, field) for kind, frame in client_frames().items() for field in frame]


@pytest.mark.parametrize("kind", client_frames())
def test_every_kind_of_frame_is_taken(kind: str) -> None:
    frame = client_frames()[kind]
    assert offered(frame)
    assert not isinstance(judge(json.dumps(frame)), IsolaneError)


@pytest.mark.parametrize("kind, field", FIELDS)
def test_every_field_may_be_absent_or_odd(kind: str, field: str) -> None:
    whole = client_frames()[kind]
    absent = {name: value for name, value in whole.items() if name != field}
    for frame in (absent, *({**whole, field: odd} for odd in ODD)):
        text = json.dumps(frame)
        with kept_when_it_fails(text.encode()):
            found = judge(text)
            if field == "type":
                assert isinstance(found, IsolaneError)
                continue
            is_looser = (field, json.dumps(frame.get(field, ...), default=str)) in LOOSER
            is_refused = isinstance(found, IsolaneError)
            assert is_refused is not (offered(frame) or is_looser)
            assert not is_refused or blamed(found) == field


BELOW: Final = [
    (field, name) for field, items in FITS.items() if isinstance(items, list) for name in items[0]
]


@pytest.mark.parametrize("field, name", BELOW)
def test_every_field_of_what_a_run_lists_may_be_absent_or_odd(field: str, name: str) -> None:
    whole = client_frames()["RunInput"]
    item = whole[field][0]
    absent = {key: value for key, value in item.items() if key != name}
    for one in (absent, *({**item, name: odd} for odd in ODD)):
        text = json.dumps({**whole, field: [one]})
        with kept_when_it_fails(text.encode()):
            found = judge(text)
            assert not isinstance(found, IsolaneError) or blamed(found) == field


# --- mutants -------------------------------------------------------------------------------------

SEEDS: Final[list[bytes]] = [
    *(file.read_bytes() for file in sorted(CORPUS.glob("*/*"))),
    *(json.dumps(frame).encode() for frame in client_frames().values()),
]
WORDS: Final = [
    *(b"null", b"true", b"NaN", b"-Infinity", b"[]", b"{}", b'""', b'"\\ud800"', b"\\u0000"),
    *(b"0", b"-0", b"1e308", b"1e309", b"-1", b"01", b"9" * 19, b"9" * 101, b"0." + b"1" * 99),
    *(b"\0", b"\r\n", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"__proto__", b"],[", b'","'),
    *(b'"type"', b'"threadId"', b'"messages"', b'"role"', b'"user"', b'{"a":', b"[[", b"]]"),
]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Draw something that was a frame before it was cut, joined, repeated, nested or swapped."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        head, middle, tail = data[:start], data[start:end], data[end:]
        match draw(st.sampled_from(["flip", "cut", "splice", "repeat", "nest", "swap"])):
            case "flip":
                data = head + bytes([draw(st.integers(0, 255))]) + data[start + 1 :]
            case "cut":
                data = draw(st.sampled_from([head, middle, head + tail]))
            case "splice":
                other = draw(st.sampled_from(SEEDS))
                data = head + other[draw(st.integers(0, len(other))) :]
            case "repeat":
                data = head + middle * draw(st.sampled_from([2, 3, 70])) + tail
            case "nest":
                left, right = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))
                depth = draw(st.sampled_from([1, 61, 62, 63, 64, 2_000]))
                data = head + left * depth + middle + right * depth + tail
            case _:  # swap
                data = head + draw(st.sampled_from(WORDS)) + tail
    return data[:100_000]


@settings(max_examples=1_000)
@given(mutants())
def test_a_mutant_is_a_command_or_one_of_three_errors(data: bytes) -> None:
    with kept_when_it_fails(data):
        judge(data.decode(errors="replace"))
        judge(data.decode(errors="surrogateescape"))


@settings(max_examples=300)
@given(mutants())
def test_a_mutant_in_a_body_is_an_object_or_malformed(data: bytes) -> None:
    with kept_when_it_fails(data):
        try:
            body = decode_object(data)
        except InvalidFrame as error:
            assert error.message  # noqa: PT017 - a body that is an object is as fine
            return
        assert decode_object(encode_frame(body).encode()) == body


def test_a_failure_tells_how_to_keep_its_input() -> None:
    with pytest.raises(ZeroDivisionError) as caught, kept_when_it_fails(b'{"\xff":1}'):
        raise ZeroDivisionError
    (note,) = caught.value.__notes__
    assert str(CORPUS) in note
    assert """.write_bytes(b'{"\\xff":1}')""" in note
