"""Where a path leads, asked without waiting for a disk that hangs."""

import os
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Seconds within which a disk that works has answered.
ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """What is at a path; as it is spelled where its disk does not answer."""

    #: without links
    real: str
    #: device and inode; None where nothing is there
    identity: tuple[int, int] | None = None
    is_directory: bool = False
    #: whether the disk answered
    answers: bool = True


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
    with suppress(OSError):
        # OSError also where a directory above may not be entered.
        status = os.stat(real)  # noqa: PTH116
        return Place(real, (status.st_dev, status.st_ino), stat.S_ISDIR(status.st_mode))
    return Place(real)
