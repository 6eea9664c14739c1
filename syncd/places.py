"""Asks where a path leads, without waiting for a disk that hangs."""

import os
import threading
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

    def overlaps(self, other: "Place") -> bool:
        """Say whether one holds the other, or is it, whatever paths they are mounted at."""
        return self.overlaps_by_path(other) or self.overlaps_on_disk(other)

    def overlaps_by_path(self, other: "Place") -> bool:
        """Say whether one path leads through the other."""
        return _is_within(os.fsencode(self.real), os.fsencode(other.real))

    def overlaps_on_disk(self, other: "Place") -> bool:
        """Say whether one directory holds the other on their disk."""
        if self.on_disk is None or other.on_disk is None or self.on_disk[0] != other.on_disk[0]:
            return False
        return _is_within(self.on_disk[1], other.on_disk[1])


def _is_within(one: bytes, other: bytes) -> bool:
    # Hundreds of folders are compared in pairs.
    one, other = one.rstrip(b"/") + b"/", other.rstrip(b"/") + b"/"
    return one.startswith(other) or other.startswith(one)


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
