"""The progress of `run` and `once`: one line at the bottom of a terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from contextlib import suppress

import pytest
from rich.cells import cell_len

from syncd.cli import progress
from syncd.cli.lines import can_redraw
from syncd.emulator import Emulator
from syncd.heartbeat import TransferReport

CLIP = TransferReport("drop", "映像/日本語の長い名前ファイル.mp4", 3 << 20, 4 << 20, 0.0)
MANY = "1,203 files, 4.5 GiB left, 12.3 MiB/s, about 6 min"


def screen(written):
    """Return the lines that a terminal shows."""
    lines = [""]
    for part in written.replace("\r\n", "\n").split("\n"):
        lines[-1] = part.rsplit("\r\x1b[K", 1)[-1]
        lines.append("")
    return lines[:-1]


@pytest.fixture
def terminal():
    return io.StringIO()


def test_what_is_logged_appears_above_the_line_and_leaves_nothing_of_it(terminal):
    line = progress.BottomLine(terminal)
    line.show("42 files, 3.6 MiB left")
    line.write("a: live\n")
    line.write("half ")
    line.write("a line\n")
    assert screen(terminal.getvalue()) == ["a: live", "half a line", "42 files, 3.6 MiB left"]
    line.show("1 file left")
    assert screen(terminal.getvalue())[-1] == "1 file left"
    line.show("")
    assert screen(terminal.getvalue()) == ["a: live", "half a line", ""]


@pytest.mark.parametrize("columns", [30, 79, 139])
def test_the_line_fits_whatever_the_name(monkeypatch, columns):
    monkeypatch.setattr(progress, "columns", lambda: columns)
    line = progress.fitted(MANY, [CLIP])
    assert cell_len(line) <= columns
    if columns == 79:
        assert line == f"{MANY}  映像/日本… 75 % of 4.0 MiB"
    if columns == 139:
        assert line.endswith("映像/日本語の長い名前ファイル.mp4 75 % of 4.0 MiB")


def test_a_file_that_is_only_read_is_not_shown_as_sent(monkeypatch):
    monkeypatch.setattr(progress, "columns", lambda: 139)
    assert progress.fitted(MANY, [TransferReport("d", "a", 1, 2, 0.0, is_read=True)]) == MANY


@pytest.mark.parametrize(
    ("is_terminal", "term", "can"),
    [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False), (True, None, False)],
)
def test_a_line_is_drawn_only_where_it_can_be_drawn_anew(monkeypatch, is_terminal, term, can):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.delenv("TERM", raising=False)
    if term:
        monkeypatch.setenv("TERM", term)
    assert can_redraw(stream) is can


@pytest.fixture
def in_terminal(tmp_path):
    """Run a command in a pseudo-terminal; return what it wrote, and its exit code."""

    def run(*words, columns, **environ):
        child, master = pty.fork()
        if child == 0:
            os.chdir(tmp_path)
            # A variable of ours that is not known would be warned of, in colour.
            kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "AYMARA_"))}
            environment = {**kept, "TERM": "xterm", **environ}
            os.execve(sys.executable, [sys.executable, "-m", "syncd", *words], environment)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        written = b""
        # The terminal of a process that has ended cannot be read.
        with suppress(OSError):
            while some := os.read(master, 65536):
                written += some
        os.close(master)
        return written.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.mark.long
@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_pass_shows_files_bytes_and_rate_in_one_line_of_a_terminal(
    tmp_path, in_terminal, columns, term
):
    drop = tmp_path / "drop"
    drop.mkdir()
    for number in range(30):
        (drop / f"日本語の名前-{number}.bin").write_bytes(os.urandom(50_000))
    with Emulator(data=tmp_path / "emulator", api_key="key") as emulator:
        settings = {
            "SYNCD_API__BASE_URL": emulator.url,
            "AYMARA_AI_API_KEY": "key",
            "SYNCD_STATE__DIRECTORY": str(tmp_path / "state"),
        }
        written, code = in_terminal("once", "drop", columns=columns, TERM=term, **settings)
    assert code == 0
    assert "30 synced, 0 waiting, 0 failed" in screen(written)[-3:]
    drawn = [line for line in re.split(r"\r\x1b\[K|\r\n", written) if " left" in line]
    assert bool(drawn) is (term == "xterm")
    assert all(cell_len(line) < columns for line in drawn)
    # No colour, and in particular no bar.
    assert term == "dumb" or "\x1b[3" not in written
