"""The daemon's beat, as a health check reads it: a leaf, quick to import.

`syncd.heartbeat` defines its content. It is written when something is new; at rest, when the disk
may sleep, the daemon tells on its socket when it beat last.
"""

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from syncd.exceptions import SyncdError
from syncd.state.database.lock import lock_holder
from syncd.state.database.owner import refuse_to_read

FILE_NAME = "daemon.json"
#: Seconds without a new beat after which a daemon that holds the lock no longer counts as working.
STALE_SECONDS = 60.0
#: Seconds for which a beat is believed without asking for a newer one, and for which an answer is
#: waited for.
FRESH_SECONDS, ANSWER_SECONDS = 20.0, 2.0
SOCKET_NAME = "control.sock"
_REQUEST = b"GET /beat HTTP/1.1\r\nhost: syncd\r\nconnection: close\r\n\r\n"
#: No beat is longer.
MOST_BYTES = 16 << 20


def read(directory: Path) -> dict[str, Any] | None:
    """Return the last beat of the daemon that holds `directory`; None when there is none."""
    if (holder := lock_holder(directory)) is None:
        return None
    try:
        refuse_to_read(directory)
        beat: dict[str, Any] = json.loads(_content(directory))
        # A daemon that was killed leaves its last beat behind, which says nothing of its successor.
        if beat["pid"] != holder:
            return None
        if time.time() - beat["beat_at"] > FRESH_SECONDS:
            beat |= asked(directory)
        return beat
    except (OSError, SyncdError, ValueError, TypeError, KeyError):
        # The daemon is starting, or the beat is a stranger's.
        return None


def is_alive(directory: Path, now: float) -> bool:
    """Return whether a daemon holds `directory`, its beat is fresh, and nothing hangs for good."""
    beat = read(directory)
    if beat is None or beat.get("hung"):
        return False
    beat_at = beat.get("beat_at")
    return isinstance(beat_at, int | float) and abs(now - beat_at) < STALE_SECONDS


def asked(directory: Path) -> dict[str, Any]:
    """Return when the daemon beat last, as it says itself; nothing if it does not answer."""
    import socket  # noqa: PLC0415 - a third of a health check's start, for daemons at rest only

    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            # By way of the descriptor: a socket's path may have 107 bytes and no more.
            connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET_NAME}")
            connection.sendall(_REQUEST)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        beat_at = json.loads(answer.partition(b"\r\n\r\n")[2])["beat_at"]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    finally:
        os.close(descriptor)
    return {"beat_at": beat_at}


def _content(directory: Path) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(directory / FILE_NAME, flags)
    try:
        status = os.fstat(descriptor)
        is_sane = stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES
        return os.read(descriptor, MOST_BYTES) if is_sane else b""
    finally:
        os.close(descriptor)
