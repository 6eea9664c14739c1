"""What only a running daemon knows, left beside the database for those who ask.

A small JSON file, replaced as a whole, every second while something changes. It dies with its
process: what must last is in the state table, which the commands read themselves.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from syncd import disk, heartbeat
from syncd.heartbeat import FILE_NAME, STALE_SECONDS, is_alive

__all__ = [
    "FILE_NAME",
    "STALE_SECONDS",
    "FolderVitals",
    "Transfer",
    "Vitals",
    "is_alive",
    "read",
    "write",
]


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
    if (facts := heartbeat.read(directory)) is None:
        return None
    try:
        facts["folders"] = {k: FolderVitals(**v) for k, v in facts["folders"].items()}
        facts["transfers"] = [Transfer(**transfer) for transfer in facts["transfers"]]
        return Vitals(**facts)
    except (TypeError, KeyError, AttributeError):
        # The beat is another version's.
        return None
