"""Framing: what the socket makes of each frame that RFC 6455 allows, and of each that it doesn't.

The cases of the Autobahn suite that concern a server, by its numbers, said anew in this protocol's
words; `docs/framing.md` is the table for people. Cases named with an `i` are our own.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from string import ascii_letters
from time import monotonic
from typing import Final

import pytest
from tests.live.framing import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    RSV1,
    TEXT,
    Chopped,
    Complaint,
    Deflate,
    HalfClose,
    Heard,
    Perhaps,
    RawSocket,
    Step,
    closing,
    fragments,
    frame,
    hear_close,
    pieces,
    play,
    raw_socket,
)
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server

from isolane.serving.endings import LINGER_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUIET: Final = {"ISOLANE_HEARTBEAT_S": "60"}
"""No ping of the server's comes between."""
server = shared_server(SCRIPT, env=QUIET)
zipping_server = shared_server(SCRIPT, env={**QUIET, "ISOLANE_COMPRESSION": "true"})

PAGE: Final = Path(__file__).parents[2] / "docs" / "framing.md"
KIB: Final = 1 << 10
FRAME_BYTES: Final = 1 << 20
FRAGMENTS: Final = 1024
PINGS: Final = 100
GROWTH_MAX_KIB: Final = 16 * KIB
"""Of the server's memory: a few times `frameBytes`, where a bomb would take 1 GiB."""

LIVES: Final = "lives"
ECHO: Final = "echo"
GONE: Final = "gone"
DUST: Final = "1009 too many fragments"
FLOOD: Final = "1008 too many pings"


@dataclass(frozen=True)
class Case:
    """One row: what is said and heard, and how that ends.

    `ends` is `lives` for a connection that answers on, `echo` for one that ends with the client's
    own close, `gone` for one that is dropped without a close frame, or the close code, with the
    reason where that is ours.
    """

    number: str
    ends: str
    make: Callable[[], Iterable[Step]]
    """Makes the steps when they are played: some are large."""
    offer: str | None = None
    """The extension that is asked for, in the groups of compression."""


CASES: Final[list[Case]] = []


def case(number: str, ends: str | int, *steps: Step, offer: str | None = None) -> None:
    """Add a row."""
    CASES.append(Case(number, str(ends), lambda: steps, offer))


def late(
    number: str,
    ends: str | int,
    make: Callable[..., Iterable[Step]],
    *arguments: object,
    offer: str | None = None,
) -> None:
    """Add a row whose steps are large: they are made when they are played."""
    CASES.append(Case(number, str(ends), partial(make, *arguments), offer))


def said(text: str) -> bytes:
    """Return a ping with that text, escaped only where JSON must."""
    return f'{{"type":"ping","t":{json.dumps(text, ensure_ascii=False)}}}'.encode()


def sized(size: int, letter: str = "x") -> bytes:
    """Return a ping of so many bytes; of very few, without a text."""
    room = size - len(said(""))
    return said(letter * room) if room >= 0 else b'{"type":"ping"}'.ljust(size)


def answer(message: bytes) -> Heard:
    """Return the pong that a ping is answered with, byte for byte."""
    return Heard(TEXT, message.rstrip().replace(b'"ping"', b'"pong"', 1))


def echoed(message: bytes) -> tuple[Step, Step]:
    """Say a message in one frame, and hear its echo."""
    return frame(TEXT, message), answer(message)


def message_of(opcode: int, size: int) -> bytes:
    """Return a message of so many bytes, as text or binary."""
    return sized(size) if opcode == TEXT else b"\xfe" * size


def in_one(opcode: int, size: int) -> Iterable[Step]:
    """Say a message of so many bytes in one frame."""
    yield frame(opcode, message_of(opcode, size))


def in_pieces(opcode: int, size: int, piece: int) -> Iterable[Step]:
    """Say it in fragments of `piece` bytes."""
    yield b"".join(fragments(pieces(message_of(opcode, size), piece), opcode=opcode))


def chopped(opcode: int, size: int, chop: int) -> Iterable[Step]:
    """Say it in one frame that goes out in writes of `chop` bytes."""
    yield Chopped(frame(opcode, message_of(opcode, size)), chop)


def answered(make: Callable[..., Iterable[Step]], size: int, *rest: int) -> Iterable[Step]:
    """Say it as text, and hear the echo."""
    yield from make(TEXT, size, *rest)
    yield answer(sized(size))


def ponged(payload: bytes = b"", *, chop: int = 0) -> tuple[Step, Step]:
    """Ping, and hear the pong."""
    ping = frame(PING, payload)
    return Chopped(ping, chop) if chop else ping, Heard(PONG, payload)


HELLO: Final = said("Hello, world!")
GOOD: Final = (Perhaps(answer(HELLO)), Perhaps(Heard(PONG, b"")))
"""What may come for good frames around a broken one in one write."""


# --- 1: sizes and forms --------------------------------------------------------------------------

SIZES: Final = (125, 126, 127, 128, 65535, 65536)
COMPLAINED: Final = Complaint("invalid_frame")

case("1.1.1", LIVES, frame(TEXT), COMPLAINED)
case("1.2.1", 1003, frame(BINARY))
for at, size in enumerate(SIZES, start=2):
    late(f"1.1.{at}", LIVES, answered, in_one, size)
    late(f"1.2.{at}", 1003, in_one, BINARY, size)
late("1.1.8", LIVES, answered, chopped, 65536, 997)
late("1.2.8", 1003, chopped, BINARY, 65536, 997)
case("1.i.1", LIVES, frame(TEXT, HELLO, length_bits=16), answer(HELLO))
case("1.i.2", LIVES, frame(TEXT, HELLO, length_bits=64), answer(HELLO))
case("1.i.3", LIVES, frame(TEXT, HELLO, mask=bytes(4)), answer(HELLO))
case("1.i.4", LIVES, frame(TEXT, b"Hello, world!"), COMPLAINED)
case("1.i.5", LIVES, frame(TEXT, HELLO) + frame(TEXT, said("2")), answer(HELLO), answer(said("2")))
case("1.i.6", LIVES, *(step for cut in range(1, 30) for step in (
    # The pong shows that the server has read the part that came in the same write.
    frame(PING) + frame(TEXT, HELLO)[:cut], Heard(PONG, b""),
    frame(TEXT, HELLO)[cut:], answer(HELLO),
)))  # fmt: skip
case("1.i.7", 1002, frame(TEXT, HELLO, mask=None))
case("1.i.8", 1002, frame(PING, mask=None))
case("1.i.9", 1002, frame(CLOSE, closing(1000), mask=None))
case("1.i.10", 1002, frame(TEXT, HELLO[:9], fin=False) + frame(CONT, HELLO[9:], mask=None))
case("1.i.11", 1003, *fragments([b"\xfe", b"\xff"], opcode=BINARY))

# --- 2: pings and pongs --------------------------------------------------------------------------

case("2.1", LIVES, *ponged())
case("2.2", LIVES, *ponged(b"Hello, world!"))
case("2.3", LIVES, *ponged(b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"))
case("2.4", LIVES, *ponged(b"\xfe" * 125))
case("2.5", 1002, frame(PING, b"\xfe" * 126))
case("2.6", LIVES, *ponged(b"\xfe" * 125, chop=1))
case("2.7", LIVES, frame(PONG))
case("2.8", LIVES, frame(PONG, b"unasked"))
case("2.9", LIVES, frame(PONG, b"unasked"), *ponged(b"asked"))
TEN: Final = [b"ping %d" % n for n in range(10)]
case("2.10", LIVES, b"".join(frame(PING, n) for n in TEN), *(Heard(PONG, n) for n in TEN))
case("2.11", LIVES, *(Chopped(frame(PING, n)) for n in TEN), *(Heard(PONG, n) for n in TEN))
case("2.i.1", 1002, frame(PONG, b"\xfe" * 126))
case("2.i.2", LIVES, *echoed(HELLO), *ponged(b"between"), *echoed(HELLO))
case("2.i.3", LIVES, frame(PING) * PINGS, *[Heard(PONG, b"")] * PINGS)
case("2.i.4", FLOOD, frame(PING) * (PINGS + 1), *[Perhaps(Heard(PONG, b""))] * (PINGS + 1))
case("2.i.5", FLOOD, frame(PONG) * (PINGS + 1))

# --- 3: reserved bits ----------------------------------------------------------------------------

case("3.1", 1002, frame(TEXT, HELLO, rsv=1))
case("3.2", 1002, *echoed(HELLO), frame(TEXT, HELLO, rsv=2) + frame(PING))
case("3.3", 1002, *echoed(HELLO), frame(TEXT, HELLO, rsv=3), frame(PING))
case("3.4", 1002, Chopped(frame(TEXT, HELLO)), answer(HELLO),
     Chopped(frame(TEXT, HELLO, rsv=4)), Chopped(frame(PING)))  # fmt: skip
case("3.5", 1002, frame(BINARY, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", rsv=5))
case("3.6", 1002, frame(PING, b"Hello, world!", rsv=6))
case("3.7", 1002, frame(CLOSE, closing(1000), rsv=7))
for rsv in range(1, 8):
    case(f"3.i.{rsv}", 1002, frame(TEXT, HELLO, rsv=rsv))
    case(f"3.i.{rsv + 7}", 1002, frame(PING, rsv=rsv))
    case(f"3.i.{rsv + 14}", 1002, frame(TEXT, HELLO[:9], fin=False),
         frame(CONT, HELLO[9:], rsv=rsv))  # fmt: skip
    case(f"3.i.{rsv + 21}", 1002, frame(TEXT, HELLO) + frame(TEXT, HELLO, rsv=rsv), *GOOD[:1])

# --- 4: reserved opcodes -------------------------------------------------------------------------

for group, first in (("4.1", 3), ("4.2", 11)):
    case(f"{group}.1", 1002, frame(first))
    case(f"{group}.2", 1002, frame(first + 1, b"reserved opcode payload"))
    case(f"{group}.3", 1002, *echoed(HELLO), frame(first + 2) + frame(PING))
    case(f"{group}.4", 1002, *echoed(HELLO), frame(first + 3, b"reserved") + frame(PING))
    case(f"{group}.5", 1002, Chopped(frame(TEXT, HELLO)), answer(HELLO),
         Chopped(frame(first + 4, b"reserved")), Chopped(frame(PING)))  # fmt: skip
for at, opcode in enumerate((3, 4, 5, 6, 7, 11, 12, 13, 14, 15), start=1):
    case(f"4.i.{at}", 1002, *GOOD, b"".join([
        frame(TEXT, HELLO), frame(PING), frame(opcode, b"x"), frame(PING, b"unanswered"),
    ]))  # fmt: skip
    case(f"4.i.{at + 10}", 1002, frame(TEXT, HELLO[:9], fin=False),
         frame(opcode), frame(CONT, HELLO[9:]))  # fmt: skip

# --- 5: fragments --------------------------------------------------------------------------------

PARTS: Final = [HELLO[:9], HELLO[9:20], HELLO[20:23], HELLO[23:27], HELLO[27:]]
HALVES: Final = fragments([HELLO[:20], HELLO[20:]])
AMID: Final = [HALVES[0], *ponged(b"amid"), HALVES[1], answer(HELLO)]
LONELY: Final = b"non-continuation payload"

case("5.1", 1002, frame(PING, b"fragment1", fin=False) + frame(CONT, b"fragment2"))
case("5.2", 1002, frame(PONG, b"fragment1", fin=False) + frame(CONT, b"fragment2"))
case("5.3", LIVES, b"".join(HALVES), answer(HELLO))
case("5.4", LIVES, *HALVES, answer(HELLO))
case("5.5", LIVES, *map(Chopped, HALVES), answer(HELLO))
case("5.6", LIVES, HALVES[0] + frame(PING, b"amid") + HALVES[1], Heard(PONG, b"amid"),
     answer(HELLO))  # fmt: skip
case("5.7", LIVES, *AMID)
case("5.8", LIVES, *(Chopped(step) if isinstance(step, bytes) else step for step in AMID))
for first, fin in ((9, True), (12, False)):
    lonely = [frame(CONT, LONELY, fin=fin), frame(TEXT, HELLO)]
    case(f"5.{first}", 1002, b"".join(lonely))
    case(f"5.{first + 1}", 1002, *lonely)
    case(f"5.{first + 2}", 1002, *map(Chopped, lonely))
case("5.15", 1002, *HALVES, answer(HELLO), frame(CONT, LONELY, fin=False) + frame(TEXT, HELLO))
case("5.16", 1002, b"".join([frame(CONT, LONELY, fin=False), *HALVES]) * 2)
case("5.17", 1002, b"".join([frame(CONT, LONELY), *HALVES]) * 2)
case("5.18", 1002, frame(TEXT, HELLO[:9], fin=False) + frame(TEXT, HELLO[9:]))
FIVE: Final = fragments(PARTS)
case("5.19", LIVES, *FIVE[:2], *ponged(b"pongme 1!"), *FIVE[2:4], *ponged(b"pongme 2!"), FIVE[4],
     answer(HELLO))  # fmt: skip
case("5.20", LIVES, b"".join(FIVE[:2]), *ponged(b"pongme 1!"),
     b"".join([*FIVE[2:4], frame(PING, b"pongme 2!"), FIVE[4]]), Heard(PONG, b"pongme 2!"),
     answer(HELLO))  # fmt: skip
case("5.i.1", 1002, HALVES[0] + frame(BINARY, b"\xfe"))
case("5.i.2", 1002, HALVES[0] + frame(PING, b"amid", fin=False))
case("5.i.3", 1002, HALVES[0] + frame(PONG, b"amid", fin=False) + HALVES[1])
EMPTY: Final = frame(CONT, fin=False)
MOST: Final = HALVES[0] + EMPTY * (FRAGMENTS - 2) + HALVES[1]
case("5.i.4", LIVES, MOST, answer(HELLO), MOST, answer(HELLO))
case("5.i.5", DUST, HALVES[0] + EMPTY * (FRAGMENTS - 1) + HALVES[1])
case("5.i.6", DUST, frame(BINARY, fin=False) + EMPTY * FRAGMENTS)
case("5.i.7", 1002, frame(CLOSE, closing(1000), fin=False))

# --- 6: UTF-8 ------------------------------------------------------------------------------------

GREEK: Final = bytes.fromhex("cebae1bdb9cf83cebcceb5")
MIXED: Final = said("Hello-µ@ßöäüàá-UTF-8!!")
TOO_HIGH: Final = [GREEK, b"\xf4\x90\x80\x80", b"edited"]
TOO_HIGH_AT_ONCE: Final = [GREEK + b"\xf4", b"\x90", b"\x80\x80edited"]

case("6.1.1", LIVES, frame(TEXT), COMPLAINED)
case("6.1.2", LIVES, *fragments([b"", b"", b""]), COMPLAINED)
case("6.1.3", LIVES, *fragments([b"", MIXED, b""]), answer(MIXED))
case("6.2.1", LIVES, *echoed(MIXED))
case("6.2.2", LIVES, *fragments([MIXED[:31], MIXED[31:]]), answer(MIXED))
case("6.2.3", LIVES, *fragments(pieces(MIXED, 1)), answer(MIXED))
GREEK_SAID: Final = said(GREEK.decode())
case("6.2.4", LIVES, *fragments(pieces(GREEK_SAID, 1)), answer(GREEK_SAID))
case("6.3.1", 1007, frame(TEXT, GREEK + b"\xed\xa0\x80edited"))
case("6.3.2", 1007, *fragments(pieces(GREEK + b"\xed\xa0\x80edited", 1)))
case("6.4.1", 1007, *fragments(TOO_HIGH))
case("6.4.2", 1007, *fragments(TOO_HIGH_AT_ONCE))
WHOLE: Final = frame(TEXT, b"".join(TOO_HIGH))
case("6.4.3", 1007, WHOLE[:17], WHOLE[17:21], WHOLE[21:])
case("6.4.4", 1007, WHOLE[:18], WHOLE[18:19], WHOLE[19:])

VALID: Final = {
    "6.5": "68656c6c6f24776f726c64 68656c6c6fc2a2776f726c64 68656c6c6fe282ac776f726c64"
    " 68656c6c6ff0a4ada2776f726c64 cebae1bdb9cf83cebcceb5",
    "6.7": "00 c280 e0a080 f0908080",
    "6.9": "7f dfbf efbfbf f48fbfbf",
    "6.22": "efbfbe efbfbf f09fbfbe f09fbfbf f0afbfbe f0afbfbf f0bfbfbe f0bfbfbf"
    " f18fbfbe f18fbfbf f19fbfbe f19fbfbf f1afbfbe f1afbfbf f1bfbfbe f1bfbfbf"
    " f28fbfbe f28fbfbf f29fbfbe f29fbfbf f2afbfbe f2afbfbf f2bfbfbe f2bfbfbf"
    " f38fbfbe f38fbfbf f39fbfbe f39fbfbf f3afbfbe f3afbfbf f3bfbfbe f3bfbfbf"
    " f48fbfbe f48fbfbf",
    "6.23": "efbfb9 efbfba efbfbb efbfbc efbfbd efbfbe efbfbf",
}
SEVERED: Final = "c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf"
INVALID: Final = {
    "6.8": "f888808080 fc8480808080",
    "6.10": "f7bfbfbf fbbfbfbfbf fdbfbfbfbfbf",
    "6.12": f"80 bf 80bf 80bf80 80bf80bf 80bf80bf80 80bf80bf80bf {bytes(range(128, 191)).hex()}",
    "6.13": " ".join(
        bytes(range(first, last)).hex(" ").replace(" ", "20") + "20"
        for first, last in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD))
    ),
    "6.14": SEVERED,
    "6.15": SEVERED.replace(" ", ""),
    "6.16": "fe ff fefeffff",
    "6.17": "c0af e080af f08080af f8808080af fc80808080af",
    "6.18": "c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf",
    "6.19": "c080 e08080 f0808080 f880808080 fc8080808080",
    "6.20": "eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf",
    "6.21": "eda080edb080 eda080edbfbf edadbfedb080 edadbfedbfbf"
    " edae80edb080 edae80edbfbf edafbfedb080 edafbfedbfbf",
}


def spoken(number: str, octets: bytes) -> None:
    """Add a row for a text that is valid; it is echoed, whatever it is."""
    message = said(octets.decode())
    case(number, LIVES, *echoed(message), *fragments(pieces(message, 1)), answer(message))


def misspoken(number: str, octets: bytes) -> None:
    """Add a row for a text that isn't valid."""
    case(number, 1007, frame(TEXT, octets))


def listed(texts: str) -> Iterator[tuple[int, bytes]]:
    """Return what is listed in hexadecimal, numbered."""
    return enumerate(map(bytes.fromhex, texts.split()), start=1)


for group, texts in VALID.items():
    for at, octets in listed(texts):
        spoken(f"{group}.{at}", octets)
for group, texts in INVALID.items():
    for at, octets in listed(texts):
        misspoken(f"{group}.{at}", octets)
for size in range(1, len(GREEK) + 1):
    (spoken if size in {2, 5, 7, 9, 11} else misspoken)(f"6.6.{size}", GREEK[:size])
for at, octets in listed("ed9fbf ee8080 efbfbd f48fbfbf"):
    spoken(f"6.11.{at}", octets)
misspoken("6.11.5", b"\xf4\x90\x80\x80")
case("6.i.1", LIVES, frame(TEXT, b"\x00"), COMPLAINED)
case("6.i.2", 1007, frame(TEXT, HELLO.replace(b"Hello", b"\xed\xa0\x80")))
case("6.i.3", 1007, *fragments([said("κ")[:21], said("κ")[22:]]))

# --- 7: closing ----------------------------------------------------------------------------------


def bye(number: str, payload: bytes, *, behind: bytes = b"") -> None:
    """Add a row for a close that is answered with the same, and nothing behind it."""
    case(number, ECHO, frame(CLOSE, payload) + behind, Heard(CLOSE, payload))


def both_before_the_close() -> Iterable[Step]:
    """Say a long message, a short one and a close at once: the close may overtake the answers."""
    long = sized(256 * KIB)
    yield from (Perhaps(answer(long)), Perhaps(answer(HELLO)))
    yield b"".join([frame(TEXT, long), frame(TEXT, HELLO), frame(CLOSE, BYE), frame(PING)])
    yield Heard(CLOSE, BYE)


BYE: Final = closing(1000)
case("7.1.1", ECHO, *echoed(HELLO), frame(CLOSE, BYE), Heard(CLOSE, BYE))
bye("7.1.2", BYE, behind=frame(CLOSE, BYE))
bye("7.1.3", BYE, behind=frame(PING))
bye("7.1.4", BYE, behind=frame(TEXT, HELLO))
case("7.1.5", 1002, HALVES[0] + frame(CLOSE, BYE) + HALVES[1])
late("7.1.6", ECHO, both_before_the_close)
bye("7.3.1", b"")
case("7.3.2", 1002, frame(CLOSE, b"a"))
bye("7.3.3", BYE)
bye("7.3.4", BYE + b"Hello World!")
bye("7.3.5", BYE + b"*" * 123)
case("7.3.6", 1002, frame(CLOSE, BYE + b"*" * 124))
case("7.5.1", 1007, frame(CLOSE, BYE + GREEK + b"\xed\xa0\x80edited"))
CODES: Final = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
for at, code in enumerate(CODES, start=1):
    bye(f"7.7.{at}", closing(code))
for at, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), start=1):
    case(f"7.9.{at}", 1002, frame(CLOSE, closing(code)))
case("7.13.1", 1002, frame(CLOSE, closing(5000)))
case("7.13.2", 1002, frame(CLOSE, closing(65535)))
for at, code in enumerate((1012, 1013, 1014), start=1):
    bye(f"7.i.{at}", closing(code))
case("7.i.4", 1002, frame(CLOSE, closing(1015)))
case("7.i.5", ECHO, Chopped(frame(CLOSE, BYE + b"octets")), Heard(CLOSE, BYE + b"octets"))
case("7.i.6", 1007, frame(CLOSE, BYE + GREEK[:1]))

# --- 9, 10: sizes, pieces, many ------------------------------------------------------------------


def many(size: int) -> Iterable[Step]:
    """Say 100 messages of so many bytes, each when the one before is answered."""
    for _ in range(100):
        yield from echoed(sized(size))


def lying(number: str, *steps: Step) -> None:
    """Add a row for a client that leaves in the middle of what it announced."""
    case(number, GONE, *steps, HalfClose())


for at, size in enumerate((64 * KIB, 256 * KIB, FRAME_BYTES), start=1):
    late(f"9.1.{at}", LIVES, answered, in_one, size)
    late(f"9.2.{at}", 1003, in_one, BINARY, size)
for at, size in enumerate((4 * FRAME_BYTES, 8 * FRAME_BYTES, 16 * FRAME_BYTES), start=4):
    late(f"9.1.{at}", 1009, in_one, TEXT, size)
    late(f"9.2.{at}", 1009, in_one, BINARY, size)
for at, power in enumerate((6, 8, 10, 12, 14, 16, 18, 20, 22), start=1):
    if FRAME_BYTES >> power > FRAGMENTS:
        late(f"9.3.{at}", DUST, in_pieces, TEXT, FRAME_BYTES, 1 << power)
        late(f"9.4.{at}", DUST, in_pieces, BINARY, FRAME_BYTES, 1 << power)
    else:
        late(f"9.3.{at}", LIVES, answered, in_pieces, FRAME_BYTES, 1 << power)
        late(f"9.4.{at}", 1003, in_pieces, BINARY, FRAME_BYTES, 1 << power)
for at, power in enumerate(range(6, 12), start=1):
    late(f"9.5.{at}", LIVES, answered, chopped, FRAME_BYTES, 1 << power)
    late(f"9.6.{at}", 1003, chopped, BINARY, FRAME_BYTES, 1 << power)
case("9.7.1", 1008, *[frame(TEXT)] * 20, *[COMPLAINED] * 20)
case("9.8.1", 1003, frame(BINARY))
for at, size in enumerate((16, 64, 256, 1024, 4096), start=2):
    late(f"9.7.{at}", LIVES, many, size)
    late(f"9.8.{at}", 1003, in_one, BINARY, size)
late("9.i.1", 1009, in_one, TEXT, FRAME_BYTES + 1)
for at, power in enumerate((11, 14, 16, 19), start=2):
    late(f"9.i.{at}", 1009, in_pieces, TEXT, FRAME_BYTES + 1, 1 << power)
late("9.i.6", 1009, chopped, TEXT, FRAME_BYTES + 1, 4096)
case("9.i.7", 1009, frame(TEXT, length=1 << 63))
case("9.i.8", 1009, frame(TEXT, length=1 << 62))
case("9.i.9", 1009, frame(BINARY, length=(1 << 64) - 1))
case("9.i.10", 1009, HALVES[0] + frame(CONT, length=1 << 62))
case("9.i.11", 1002, Perhaps(answer(HELLO)),
     frame(TEXT, HELLO + b"xyz", length=len(HELLO), mask=bytes(4)))  # fmt: skip
lying("9.i.12", frame(TEXT, HELLO, length=len(HELLO) + 1))
lying("9.i.13", frame(TEXT, HELLO, length=FRAME_BYTES))
lying("9.i.14", frame(TEXT, HELLO)[:1])
lying("9.i.15", frame(TEXT, sized(200))[:3])
lying("9.i.16", HALVES[0])
lying("9.i.17")
late("10.1.1", LIVES, answered, in_pieces, 65536, 1300)

# --- 12, 13: compression -------------------------------------------------------------------------

ZIP: Final = "permessage-deflate"
NOISE: Final = "".join(Random(7).choices(ascii_letters, k=128 * KIB))  # noqa: S311 - no secret
"""What doesn't get much smaller."""
BOMB_BYTES: Final = 1 << 30


def zipped(message: bytes, piece: int = 0) -> bytes:
    """Return a message compressed by itself, in one frame or in fragments."""
    payload = Deflate()(message)
    return b"".join(fragments(pieces(payload, piece or len(payload)), rsv=RSV1))


def zipped_one(opcode: int, size: int, piece: int) -> Iterable[Step]:
    """Say a message that inflates to so many bytes."""
    yield zipped(message_of(opcode, size), piece)


def final(message: bytes) -> bytes:
    """Return a message whose stream of deflate ends with it."""
    deflate = zlib.compressobj(wbits=-12)
    return deflate.compress(message) + deflate.flush()


def zipped_ten(size: int, piece: int) -> Iterable[Step]:
    """Say ten compressed messages of so many bytes, each with the memory of those before."""
    room = size - len(said(""))
    deflate, message = Deflate(), said(NOISE[:room]) if room > 0 else sized(size)
    for _ in range(10):
        payload = deflate(message)
        yield b"".join(fragments(pieces(payload, piece or len(payload)), rsv=RSV1))
        yield answer(message)


def bomb() -> bytes:
    """Return about 1 MiB of deflate that would inflate to 1 GiB: one piece, again and again."""
    deflate = zlib.compressobj(level=9, wbits=-12)
    piece = deflate.compress(bytes(FRAME_BYTES)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return piece * (BOMB_BYTES // FRAME_BYTES)


def bomb_in_one() -> Iterable[Step]:
    """Say a bomb in one frame."""
    yield frame(TEXT, bomb()[:FRAME_BYTES], rsv=RSV1)


def bomb_in_pieces() -> Iterable[Step]:
    """Say a bomb in fragments, each of which inflates to less than the limit."""
    yield b"".join(fragments(pieces(bomb(), 512), rsv=RSV1))


def behind_the_end() -> Iterable[Step]:
    """Say a stream of deflate that ends, and 64 MiB behind its end, which inflate to nothing."""
    rest = [bytes(FRAME_BYTES // 2)] * 128
    yield b"".join(fragments([final(HELLO), *rest], rsv=RSV1))


ONCE: Final = zipped(HELLO)
HALF: Final = len(Deflate()(HELLO)) // 2
HALVED: Final = fragments(pieces(Deflate()(HELLO), HALF), rsv=RSV1)
RESERVED_BLOCK: Final = b"\x07"
"""A block of the one type that deflate doesn't have."""
OFFERS: Final = {
    "13.1": (ZIP, True),
    "13.2": (f"{ZIP}; server_no_context_takeover", True),
    "13.3": (f"{ZIP}; server_max_window_bits=8", False),
    "13.4": (f"{ZIP}; server_max_window_bits=15", True),
    "13.5": (f"{ZIP}; server_no_context_takeover; server_max_window_bits=8", False),
    "13.6": (f"{ZIP}; server_no_context_takeover; server_max_window_bits=15", True),
    "13.7": (f"{ZIP}; server_max_window_bits=8, {ZIP}; server_no_context_takeover, {ZIP}", True),
    "13.i.1": (f"{ZIP}; client_no_context_takeover; client_max_window_bits=9", True),
    "13.i.2": (f"{ZIP}; client_max_window_bits", True),
    "13.i.3": (f"{ZIP}; server_max_window_bits=7", False),
    "13.i.4": (f"{ZIP}; server_max_window_bits=9; server_max_window_bits=9", False),
    "13.i.5": (f"{ZIP}; window=large", False),
    "13.i.6": ("x-webkit-deflate-frame", False),
}

for at, (size, piece) in enumerate(
    [(size, 0) for size in (16, 64, 256, KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB)]
    + [(128 * KIB, 0)]
    + [(size * KIB, 256) for size in (8, 16, 32, 64, 128)]
    + [(128 * KIB, piece * KIB) for piece in (1, 4, 32)],
    start=1,
):
    late(f"12.1.{at}", LIVES, zipped_ten, size, piece, offer=ZIP)
case("12.i.1", LIVES, *echoed(HELLO), ONCE, answer(HELLO), *echoed(HELLO), offer=ZIP)
case("12.i.2", LIVES, frame(TEXT, Deflate()(b""), rsv=RSV1), COMPLAINED, offer=ZIP)
case("12.i.3", LIVES, HALVED[0], *ponged(b"amid"), HALVED[1], answer(HELLO), offer=ZIP)
case("12.i.4", 1002, frame(PING, b"ping", rsv=RSV1), offer=ZIP)
case("12.i.5", 1002, frame(PONG, rsv=RSV1), offer=ZIP)
case("12.i.6", 1002, frame(CLOSE, BYE, rsv=RSV1), offer=ZIP)
case("12.i.7", 1002, HALVED[0], frame(CONT, Deflate()(HELLO)[HALF:], rsv=RSV1), offer=ZIP)
case("12.i.8", 1002, HALVES[0], frame(CONT, HELLO[20:], rsv=RSV1), offer=ZIP)
case("12.i.9", 1002, frame(TEXT, Deflate()(HELLO), rsv=RSV1 | 2), offer=ZIP)
case("12.i.10", 1002, frame(TEXT, RESERVED_BLOCK, rsv=RSV1), offer=ZIP)
case("12.i.11", 1002, HALVED[0], frame(CONT, b"\xff" * 50), offer=ZIP)
case("12.i.12", 1003, frame(BINARY, Deflate()(b"\xfe"), rsv=RSV1), offer=ZIP)
case("12.i.13", 1007, frame(TEXT, Deflate()(b"\xed\xa0\x80"), rsv=RSV1), offer=ZIP)
FINAL: Final = frame(TEXT, final(HELLO), rsv=RSV1)
case("12.i.14", LIVES, FINAL, answer(HELLO), FINAL, answer(HELLO), ONCE, answer(HELLO), offer=ZIP)
late("12.i.15", LIVES, answered, zipped_one, FRAME_BYTES, 0, offer=ZIP)
late("12.i.16", 1009, zipped_one, TEXT, FRAME_BYTES + 1, 0, offer=ZIP)
late("12.i.17", 1009, zipped_one, TEXT, FRAME_BYTES + 1, 64, offer=ZIP)
late("12.i.18", 1009, bomb_in_one, offer=ZIP)
late("12.i.19", 1009, bomb_in_pieces, offer=ZIP)
late("12.i.20", 1002, behind_the_end, offer=ZIP)
for number, (offer, is_taken) in OFFERS.items():
    if is_taken:
        case(number, LIVES, *echoed(HELLO), ONCE, answer(HELLO), *echoed(HELLO), offer=offer)
    else:
        case(number, 1002, *echoed(HELLO), ONCE, offer=offer)


# --- the tests -----------------------------------------------------------------------------------

PLAIN: Final = [row for row in CASES if row.offer is None]
ZIPPED: Final = [row for row in CASES if row.offer is not None]
GREEDY: Final = {"12.i.18", "12.i.19", "12.i.20"}


async def check(own: RawSocket, row: Case) -> None:
    """Play a row, and see that it ends as it says."""
    allowed = await play(own, row.make())
    if row.ends == LIVES:
        await play(own, [*echoed(said("still here")), frame(CLOSE, BYE), Heard(CLOSE, BYE)])
    if row.ends in {LIVES, ECHO}:
        assert await own.recv() is None
        return
    ending = await hear_close(own, allowed)
    if row.ends == GONE:
        assert ending is None
    else:
        assert ending is not None, "no close frame came"
        assert ending.startswith(row.ends), ending


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.number)
async def test_each_frame_is_answered_or_refused_as_the_table_says(
    server: Server, row: Case
) -> None:
    lane = Lane(server)
    async with raw_socket(server.port, lane.token) as own:
        await check(own, row)


@pytest.mark.parametrize("row", ZIPPED, ids=lambda row: row.number)
async def test_compressed_frames_are_answered_or_refused_as_the_table_says(
    zipping_server: Server, row: Case
) -> None:
    lane = Lane(zipping_server)
    before_kib = forget_peak(zipping_server)
    async with raw_socket(zipping_server.port, lane.token, offer=row.offer) as own:
        await check(own, row)
    if row.number in GREEDY:
        assert peak_kib(zipping_server) - before_kib < GROWTH_MAX_KIB


def forget_peak(server: Server) -> int:
    """Measure the most memory that the process held from here on, and return what it holds now."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    return peak_kib(server)


def peak_kib(server: Server) -> int:
    """Return the most memory that the process held."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize("number", ["13.2", "13.6", "13.7"])
async def test_what_the_client_asks_of_the_server_is_agreed_to(
    zipping_server: Server, number: str
) -> None:
    lane = Lane(zipping_server)
    offer, _ = OFFERS[number]
    async with raw_socket(zipping_server.port, lane.token, offer=offer) as own:
        assert "server_no_context_takeover" in own.extensions


@pytest.mark.parametrize("offer", [ZIP, f"{ZIP}; client_max_window_bits"])
async def test_compression_is_off_unless_it_is_switched_on(server: Server, offer: str) -> None:
    lane = Lane(server)
    async with raw_socket(server.port, lane.token, offer=offer) as own:
        assert own.extensions == ""
        await check(own, Case("", "1002", lambda: [*echoed(HELLO), ONCE]))


async def test_what_comes_behind_a_broken_frame_is_read_and_dropped_for_a_moment(
    server: Server,
) -> None:
    token = Lane(server).token
    while True:
        async with raw_socket(server.port, token) as other, raw_socket(server.port, token) as own:
            began = monotonic()
            await own.send(frame(3))
            assert await hear_close(own, []) == "1002 invalid opcode"
            await play(other, ponged())  # the server has turned to others, and would have closed
            # A closed socket answers the first of these with a reset, which the next one meets.
            for _ in range(3):
                await own.send(frame(TEXT, HELLO))
            if monotonic() - began < LINGER_S:  # else this machine was too slow to see it
                assert not own.was_reset
                return


async def test_who_leaves_in_the_middle_of_a_frame_leaves_nothing_behind(server: Server) -> None:
    lane, baseline = Lane(server), await server.gauges()
    for row in PLAIN:
        if row.ends == GONE:
            async with raw_socket(server.port, lane.token) as own:
                await check(own, row)
    await server.wait_for_gauges(baseline)


def told(page: str) -> Iterator[tuple[str, str]]:
    """Return each case that the page names, with how it says that this ends."""
    for cells in re.findall(r"^\| (\d[^|]*) \| [^|]* \| `([^`|]*)`[^|]* \|", page, re.MULTILINE):
        for names in cells[0].split(", "):
            first, _, last = names.partition(" to ")
            group, _, start = first.rpartition(".")
            end = (last or first).removeprefix(f"{group}.")
            for number in range(int(start), int(end) + 1):
                yield f"{group}.{number}", cells[1]


async def test_the_page_names_each_case_and_how_it_ends() -> None:
    rows = list(told(PAGE.read_text(encoding="utf-8")))
    assert len(rows) == len(dict(rows)), "a case is named twice"
    assert len(CASES) == len({row.number for row in CASES})
    assert dict(rows) == {row.number: row.ends for row in CASES}
