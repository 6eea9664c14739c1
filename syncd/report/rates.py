"""How fast files are sent, and how long the rest takes: the one computation of both."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from syncd.units import counted, size as size_text, span

#: The rate is the average of so many seconds.
WINDOW_SECONDS = 20.0
#: From so many files in that time on, their number bounds how soon the rest is sent, too: small
#: files take requests, not bandwidth.
MANY_FILES = 5


class SentTotals(NamedTuple):
    """Transfers that ended and bytes that were sent, since some start."""

    files: int
    bytes: int


class Rate(NamedTuple):
    """Files and bytes a second."""

    files: float
    bytes: float


class Meter:
    """Derives the rate from totals that are noted about once a second."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._noted = deque[tuple[float, SentTotals]]()

    def note(self, total: SentTotals) -> Rate:
        """Note how much was sent by now; return the rate of the last seconds."""
        now = self._monotonic()
        if self._noted and total < self._noted[-1][1]:
            # A reload counts anew.
            self._noted.clear()
        self._noted.append((now, total))
        # A rest at the beginning is no part of what goes on now.
        while len(self._noted) > 2 and (
            self._noted[1][0] <= now - WINDOW_SECONDS or self._noted[1][1] == self._noted[0][1]
        ):
            self._noted.popleft()
        since, before = self._noted[0]
        seconds = now - since
        if seconds <= 0:
            return Rate(0.0, 0.0)
        files, sent = total.files - before.files, max(total.bytes - before.bytes, 0)
        return Rate(round(files / seconds, 2), round(sent / seconds))


def seconds_left(files: int, size: int, rate: Rate) -> float | None:
    """Return how long `files` with `size` bytes take at `rate`; None if that cannot be told."""
    if not files:
        return 0.0
    if not rate.bytes:
        return None
    by_size = size / rate.bytes
    if rate.files * WINDOW_SECONDS < MANY_FILES:
        return by_size
    return max(by_size, files / rate.files)


def sending(files: int, size: int, rate: Rate) -> dict[str, Any]:
    """Return the object of `status --json` that says how much is left, how fast, and how long."""
    left = seconds_left(files, size, rate)
    return {
        "files_left": files,
        "bytes_left": size,
        "files_per_second": rate.files,
        "bytes_per_second": rate.bytes,
        "seconds_left": None if left is None else round(left),
    }


def sending_text(known: dict[str, Any]) -> str:
    """Return `1,203 files, 4.5 GiB left, 12.3 MiB/s, about 6 min`; empty if nothing is left."""
    if not known["files_left"]:
        return ""
    parts = [f"{counted(known['files_left'], 'file')}, {size_text(known['bytes_left'])} left"]
    if known["bytes_per_second"]:
        parts.append(f"{size_text(known['bytes_per_second'])}/s")
    if known["seconds_left"] is not None:
        parts.append(f"about {span(known['seconds_left'])}")
    return ", ".join(parts)
