"""The daemon's beat, as a health check reads it: a leaf, quick to import.

`syncd.vitals` says what is in it.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from syncd.exceptions import SyncdError
from syncd.state.lock import lock_holder
from syncd.state.owner import refuse_to_read

FILE_NAME = "daemon.json"
#: Seconds without a new beat after which a daemon that holds the lock no longer counts as working.
STALE_SECONDS = 60.0
#: No beat is longer.
MOST_BYTES = 16 << 20


def read(directory: Path) -> dict[str, Any] | None:
    """Return the last beat of the daemon that holds `directory`; None where there is none."""
    if (holder := lock_holder(directory)) is None:
        return None
    try:
        refuse_to_read(directory)
        beat: dict[str, Any] = json.loads(_content(directory))
        # One that was killed leaves its last beat behind: it says nothing of its successor.
        return beat if beat["pid"] == holder else None
    except (OSError, SyncdError, ValueError, TypeError, KeyError):
        # The daemon is starting, or the beat is a stranger's.
        return None


def is_alive(directory: Path, now: float) -> bool:
    """Say whether a daemon holds `directory`, its beat is fresh, and nothing hangs for good."""
    beat = read(directory)
    if beat is None or beat.get("hung"):
        return False
    beat_at = beat.get("beat_at")
    return isinstance(beat_at, int | float) and abs(now - beat_at) < STALE_SECONDS


def _content(directory: Path) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(directory / FILE_NAME, flags)
    try:
        status = os.fstat(descriptor)
        is_sane = stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES
        return os.read(descriptor, MOST_BYTES) if is_sane else b""
    finally:
        os.close(descriptor)
