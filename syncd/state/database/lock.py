"""The lock of a state directory: a leaf, quick to import, for health checks need no more."""

import fcntl
import os
from pathlib import Path

LOCK_NAME = "lock"


def lock_holder(directory: Path) -> int | None:
    """Return the process id of the instance that holds the state directory, or None."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(directory / LOCK_NAME, flags)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return written_pid(descriptor)
    finally:
        os.close(descriptor)
    return None


def written_pid(descriptor: int) -> int:
    """Return the process id that an open lock file holds; 0 where it holds none."""
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0
