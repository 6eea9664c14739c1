"""Asks where a path leads, without waiting for a disk that hangs."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from syncd import mounts

#: Seconds within which a disk that works has answered.
ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """The target of a path; the path as it is spelled where its disk does not answer."""

    #: without links
    real: str
    #: the device it is on, and where on that; None where nothing is there
    on_disk: tuple[int, bytes] | None = None
    is_directory: bool = False
    #: whether the disk answered
    answers: bool = True

    @property
    def key_on_disk(self) -> bytes | None:
        """The place on its disk, as one path for all disks; None where nothing is there."""
        return b"%d%s" % self.on_disk if self.on_disk is not None else None

    def overlaps(self, other: "Place") -> bool:
        """Say whether one holds the other, or is it, whatever paths they are mounted at."""
        reals = [os.fsencode(self.real), os.fsencode(other.real)]
        return bool(nested(reals) or nested([self.key_on_disk, other.key_on_disk]))


def nested(directories: Sequence[bytes | None]) -> dict[int, list[int]]:
    """Return, for each directory, which of those before it hold it, are it, or lie in it.

    By index; None stands for one of which nothing is known. Hundreds are compared at once.
    """
    paths = [(path.rstrip(b"/") + b"/", n) for n, path in enumerate(directories) if path]
    found: dict[int, list[int]] = {}
    above: list[tuple[bytes, int]] = []
    # In this order, what a directory holds follows it at once.
    for path, number in sorted(paths):
        while above and not path.startswith(above[-1][0]):
            above.pop()
        for _, other in above:
            found.setdefault(max(number, other), []).append(min(number, other))
        above.append((path, number))
    return {number: sorted(others) for number, others in found.items()}


def look(path: Path | str) -> Place:
    """Return what is at `path`, as far as its disk tells within `ANSWER_SECONDS`."""
    found: list[Place] = []
    thread = threading.Thread(target=lambda: found.append(_look(path)), daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        # No thread is to be had: then it is waited for.
        return _look(path)
    thread.join(ANSWER_SECONDS)
    return found[0] if found else Place(os.path.abspath(path), answers=False)  # noqa: PTH100


def _look(path: Path | str) -> Place:
    real = os.path.realpath(path)
    # Path.is_dir raises where a directory above may not be entered.
    return Place(real, mounts.place_of(os.fsencode(real)), os.path.isdir(real))  # noqa: PTH112
