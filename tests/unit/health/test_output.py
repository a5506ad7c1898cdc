"""What a process says while nobody reads it: it waits, the oldest goes, the last stays."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Final, TextIO

import pytest

from isolane.health.output import LINE_MAX_CHARACTERS, Output

PIPE_BYTES: Final = 1 << 16
PREAMBLE: Final = "import os, sys; from isolane.health.output import write_beside; write_beside()\n"


class Pipe:
    """A stream, and who reads it."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.reader: IO[bytes] = os.fdopen(reading, "rb")
        self.stream: TextIO = os.fdopen(writing, "w")

    def fill(self) -> None:
        os.write(self.stream.fileno(), b"." * (PIPE_BYTES - 1) + b"\n")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.reader.close()


def run(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_lines_come_out_in_order_and_whole(pipe: Pipe) -> None:
    output = Output(pipe.stream)
    print("one", 1, file=output)
    output.write("tw")
    output.write("o\nthree")
    output.flush()
    output.finish()
    pipe.stream.close()
    assert pipe.reader.read() == b"one 1\ntwo\nthree"


def test_writing_never_waits_and_the_oldest_lines_go(pipe: Pipe) -> None:
    output = Output(pipe.stream, most_bytes=1000)
    pipe.fill()
    output.write("first\n")
    for number in range(1000):
        output.write(f"line {number}\n")
    output.write("last\n")
    dropped = output.dropped
    assert dropped > 800
    reading = threading.Thread(target=output.finish)
    reading.start()
    assert pipe.reader.readline().startswith(b"...")
    lines = [pipe.reader.readline()]
    while lines[-1] != b"last\n":
        lines.append(pipe.reader.readline())
    reading.join()
    # One may have been taken for writing before there were too many.
    assert lines[-2] == b"line 999\n"
    assert len(lines) == 1002 - dropped


def test_line_without_an_end_is_bounded_too(pipe: Pipe) -> None:
    output = Output(pipe.stream, most_bytes=LINE_MAX_CHARACTERS * 4)
    pipe.fill()
    for _ in range(100):
        output.write("x" * LINE_MAX_CHARACTERS)
    assert output.dropped > 40


def test_reader_that_is_gone_holds_up_nobody(pipe: Pipe) -> None:
    output = Output(pipe.stream)
    pipe.reader.close()
    output.write("nobody hears it\n")
    output.finish()
    assert output.dropped == 1


def test_finish_gives_up_on_a_reader_that_reads_nothing(pipe: Pipe) -> None:
    output = Output(pipe.stream)
    pipe.fill()
    output.write("late\n")
    output.finish(stall_s=0.05)
    pipe.reader.readline()
    assert pipe.reader.readline() == b"late\n"


def test_last_lines_and_the_traceback_of_a_crash_come_out() -> None:
    program = "for n in range(40_000): print('line', n, file=sys.stderr)\nraise RuntimeError('end')"
    with run(program) as process:
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
    assert process.returncode == 1
    assert said[-1] == b"RuntimeError: end"
    assert [line for line in said if line.startswith(b"line")][-1] == b"line 39999"


def test_forked_child_speaks_too() -> None:
    program = "pid = os.fork()\nprint('child' if pid == 0 else 'parent')\n"
    program += "pid and os.waitpid(pid, 0)"
    with run(program) as process:
        assert process.stdout is not None
        assert sorted(process.stdout.read().split()) == [b"child", b"parent"]


def test_print_and_click_go_the_same_way() -> None:
    program = "import click\nclick.echo('one')\nclick.echo('two', err=True)\nprint('three')"
    with run(program) as process:
        out, err = process.communicate()
    assert (out, err) == (b"one\nthree\n", b"two\n")
