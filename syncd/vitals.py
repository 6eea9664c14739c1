"""What only a running daemon knows, left beside the database for those who ask.

A small JSON file, replaced as a whole: every second while something changes, every ten at rest. It
dies with its process: what must last is in the state table, which the commands read themselves.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from syncd import disk
from syncd.exceptions import SyncdError
from syncd.state.lock import lock_holder
from syncd.state.owner import refuse_to_read

FILE_NAME = "daemon.json"
#: Seconds without a new beat after which a daemon that holds the lock no longer counts as working.
STALE_SECONDS = 60.0
#: No beat is longer.
MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """An upload in flight."""

    folder: str
    path: str
    bytes: int
    size: int
    since: float
    #: when it moved last
    moved_at: float | None = None
    #: it is read to know its content, and not sent yet
    is_read: bool = False


@dataclass(frozen=True, slots=True)
class FolderVitals:
    """How well a folder is seen; times in seconds since the epoch."""

    #: native or polling
    watch: str
    watch_reason: str = ""
    watched_directories: int = 0
    directories: int = 0
    last_event_at: float | None = None
    #: what keeps it from being seen, for a person; empty when all is well
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One beat of a daemon."""

    version: str
    pid: int
    since: float
    beat_at: float
    folders: dict[str, FolderVitals] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)
    #: ok, unreachable, refused, or unknown until the first answer
    api_state: str = "unknown"
    last_success_at: float | None = None
    #: what keeps the service from being reached, and when it is tried again, for a person
    api_cause: str = ""
    #: until when the service asked to wait
    asked_until: float | None = None
    #: when what is held is tried again by itself, by the hold's scope
    tries: dict[str, float] = field(default_factory=dict)
    #: when something was sent, or got an outcome, last
    progress_at: float | None = None
    #: from when ages count: not while the daemon starts, sleeps or waits as it was asked to
    undisturbed_since: float = 0.0
    #: how long things take by the configuration (`state.ages.Pace`)
    pace: dict[str, Any] = field(default_factory=dict)
    #: steps that hang, or fail again and again, for a person
    troubles: list[str] = field(default_factory=list)
    #: what must not hang does: only a restart helps
    hung: bool = False


def write(directory: Path, vitals: Vitals) -> None:
    """Leave `vitals` in the state directory.

    When there is no room for them, only the beat is written, over the last ones: a daemon that
    waits for a full disk is alive.
    """
    path = directory / FILE_NAME
    try:
        disk.write_private(path, json.dumps(asdict(vitals)))
    except OSError:
        bare = replace(vitals, folders={}, transfers=[], troubles=[])
        with suppress(OSError):
            disk.overwrite(path, json.dumps(asdict(bare)).encode())


def read(directory: Path) -> Vitals | None:
    """Return the last beat of the daemon that holds `directory`; None where none runs."""
    if (holder := lock_holder(directory)) is None:
        return None
    try:
        refuse_to_read(directory)
        facts: dict[str, Any] = json.loads(_content(directory))
        facts["folders"] = {k: FolderVitals(**v) for k, v in facts["folders"].items()}
        facts["transfers"] = [Transfer(**transfer) for transfer in facts["transfers"]]
        beat = Vitals(**facts)
    except (OSError, SyncdError, ValueError, TypeError, KeyError, AttributeError):
        # No beat that this version can read: it is starting, another version, or a stranger's.
        return None
    # One that was killed leaves its last beat behind: it says nothing of its successor.
    return beat if beat.pid == holder else None


def _content(directory: Path) -> bytes:
    """Return what the file of the beat holds; empty where there is none."""
    with disk.directory(os.fsencode(directory)) as descriptor:
        return disk.read_small(descriptor, FILE_NAME.encode(), MOST_BYTES) or b""


def is_alive(directory: Path, now: float) -> bool:
    """Say whether a daemon holds `directory`, its beat is fresh, and nothing hangs for good."""
    vitals = read(directory)
    if vitals is None or vitals.hung:
        return False
    return abs(now - vitals.beat_at) < STALE_SECONDS
