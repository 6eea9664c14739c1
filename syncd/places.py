"""The target of a path, found without waiting for a hanging disk."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from syncd import mounts

#: Seconds in which a working disk answers.
ANSWER_SECONDS = 2.0


class Place(NamedTuple):
    """The target of a path; the path itself if its disk does not answer."""

    #: without links
    real: str
    #: the device, and the path on that device; None if nothing is there
    on_disk: tuple[int, bytes] | None = None
    is_directory: bool = False
    #: whether the disk answered
    answers: bool = True

    @property
    def key_on_disk(self) -> bytes | None:
        """The device and the path on it as one path; None if nothing is there."""
        return b"%d%s" % self.on_disk if self.on_disk is not None else None

    def overlaps(self, other: "Place") -> bool:
        """Return whether one contains or equals the other, wherever they are mounted."""
        reals = [os.fsencode(self.real), os.fsencode(other.real)]
        return bool(nested(reals) or nested([self.key_on_disk, other.key_on_disk]))


def nested(directories: Sequence[bytes | None]) -> dict[int, list[int]]:
    """Return, by index, which earlier directories contain, equal or lie in each directory.

    None stands for an unknown directory. Comparing hundreds is fast.
    """
    paths = [(path.rstrip(b"/") + b"/", n) for n, path in enumerate(directories) if path]
    found: dict[int, list[int]] = {}
    above: list[tuple[bytes, int]] = []
    # Sorted, a directory is directly followed by everything in it.
    for path, number in sorted(paths):
        while above and not path.startswith(above[-1][0]):
            above.pop()
        for _, other in above:
            found.setdefault(max(number, other), []).append(min(number, other))
        above.append((path, number))
    return {number: sorted(others) for number, others in found.items()}


def look(path: Path | str) -> Place:
    """Return what is at `path`, if its disk answers within `ANSWER_SECONDS`."""
    found: list[Place] = []
    thread = threading.Thread(target=lambda: found.append(_look(path)), daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        # No thread can be started, so wait.
        return _look(path)
    thread.join(ANSWER_SECONDS)
    return found[0] if found else Place(os.path.abspath(path), answers=False)  # noqa: PTH100


def _look(path: Path | str) -> Place:
    real = os.path.realpath(path)
    # Path.is_dir raises when a directory above may not be entered.
    return Place(real, mounts.place_of(os.fsencode(real)), os.path.isdir(real))  # noqa: PTH112
