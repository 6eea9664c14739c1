"""The progress of `run` and `once` on a terminal: one line below the log, drawn anew."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from syncd import heartbeat
from syncd.exceptions import SyncdError
from syncd.heartbeat import TransferReport
from syncd.log import printable
from syncd.once import PassProgress
from syncd.report.rates import Meter, SentTotals, sending, sending_text
from syncd.report.status import status
from syncd.state import views
from syncd.state.overview import backlog
from syncd.units import size

#: Seconds between two drawings; and how much of the time they may take, with a million files.
DRAW_SECONDS, DRAW_SHARE = 1.0, 20.0
_CLEAR = "\r\x1b[K"


class BottomLine(io.TextIOBase):
    """A terminal whose last line is ours: what is written to it appears above that line."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._lock = threading.Lock()
        self._line = ""
        #: whether the cursor is where a line begins
        self._at_start = True

    def write(self, text: str) -> int:
        """Write text above the line."""
        with self._lock:
            self._erase()
            self._terminal.write(text)
            self._at_start = text.endswith("\n") if text else self._at_start
            self._draw()
        return len(text)

    def show(self, line: str) -> None:
        """Replace the line; an empty one takes no room."""
        with self._lock, suppress(OSError, ValueError):
            if line != self._line:
                self._erase()
                self._line = line
                self._draw()
                self._terminal.flush()

    def _erase(self) -> None:
        if self._line and self._at_start:
            self._terminal.write(_CLEAR)

    def _draw(self) -> None:
        if self._line and self._at_start:
            self._terminal.write(self._line)

    def flush(self) -> None:
        self._terminal.flush()

    def fileno(self) -> int:
        return self._terminal.fileno()

    def isatty(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._terminal.encoding


@contextmanager
def bottom_line() -> Iterator[BottomLine]:
    """Within the block, standard error has a line of its own at the bottom."""
    terminal = sys.stderr
    line = BottomLine(terminal)
    sys.stderr = line
    try:
        yield line
    finally:
        line.show("")
        sys.stderr = terminal


@contextmanager
def followed(line: BottomLine, directory: Path) -> Iterator[None]:
    """Within the block, show how the daemon in this process gets on."""
    ended = threading.Event()

    def follow() -> None:
        wait = DRAW_SECONDS
        while not ended.wait(wait):
            began = time.monotonic()
            with suppress(SyncdError):
                line.show(_seen(directory))
            wait = max(DRAW_SECONDS, DRAW_SHARE * (time.monotonic() - began))

    thread = threading.Thread(target=follow, name="syncd-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(DRAW_SECONDS)


def of_a_pass(line: BottomLine, directory: Path) -> Callable[[PassProgress], None]:
    """Return what shows each tally of a pass."""
    meter, told, next_at = Meter(), 0, 0.0

    def show(tally: PassProgress) -> None:
        nonlocal told, next_at
        for found in tally.first_found[told:]:
            # Above the progress, where it stays.
            line.write(printable(found) + "\n")
        told = len(tally.first_found)
        if (began := time.monotonic()) < next_at:
            return
        files = tally.waiting - tally.settling - tally.processing
        with suppress(SyncdError):
            waiting = sum(views.read(directory, backlog).values()) if files else 0
            size_left = max(waiting - sum(one.bytes for one in _sent(tally.sending)), 0)
            moving = sending_text(sending(files, size_left, meter.note(SentTotals(*tally.sent))))
            line.show(fitted(moving or str(tally), tally.sending))
        # Counting the bytes of a million files takes a while.
        next_at = began + DRAW_SHARE * (time.monotonic() - began)

    return show


def _seen(directory: Path) -> str:
    beat = heartbeat.read(directory)
    known = status(directory, base_url="")
    moving = sending_text(known["sending"])
    if moving and known["api"]["cause"]:
        moving = f"{printable(known['api']['cause'])}; {moving}"
    return fitted(moving, beat.transfers if beat else ())


def _sent(transfers: Sequence[TransferReport]) -> list[TransferReport]:
    return [one for one in transfers if not one.is_read and one.size]


def fitted(words: str, transfers: Sequence[TransferReport]) -> str:
    """Return these words, and how far the largest transfer is, as one line of the terminal."""
    line = cut(words, columns())
    if not words or not (under_way := _sent(transfers)):
        return line
    largest = max(under_way, key=lambda one: one.size)
    done = f" {min(largest.bytes, largest.size) * 100 // largest.size} % of {size(largest.size)}"
    room = columns() - _cells(words) - len(done) - 2
    name = cut(printable(largest.path), room)
    return f"{words}  {name}{done}" if room >= _LEAST_NAME else line


#: In fewer columns, a name says nothing.
_LEAST_NAME = 8


def columns() -> int:
    """Return the columns of the terminal, less the last: it may break the line after that."""
    with suppress(OSError, ValueError):
        return max(os.get_terminal_size(sys.__stderr__.fileno()).columns - 1, 20)  # type: ignore[union-attr]
    return 79


def _cells(text: str) -> int:
    from rich.cells import cell_len  # noqa: PLC0415 - passes without a terminal do without

    return cell_len(text)


def cut(text: str, room: int) -> str:
    """Return `text` in at most `room` columns, its end cut off; wide characters take two."""
    from rich.cells import set_cell_size  # noqa: PLC0415 - as above

    if _cells(text) <= room:
        return text
    return set_cell_size(text, max(room - 1, 0)).rstrip() + "…" if room > 0 else ""
