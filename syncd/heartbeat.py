"""The facts that only a running daemon knows, left beside the database for others to read.

A small JSON file, replaced as a whole, every second while something changes. It ends with its
process: facts that must last are in the tables, which the commands read themselves.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from syncd import disk, liveness
from syncd.liveness import FILE_NAME, STALE_SECONDS, is_alive

__all__ = [
    "FILE_NAME",
    "STALE_SECONDS",
    "FolderHealth",
    "Heartbeat",
    "TransferReport",
    "is_alive",
    "read",
    "write",
]


@dataclass(frozen=True, slots=True)
class TransferReport:
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
class FolderHealth:
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
class Heartbeat:
    """One beat of a daemon."""

    version: str
    pid: int
    since: float
    beat_at: float
    folders: dict[str, FolderHealth] = field(default_factory=dict)
    transfers: list[TransferReport] = field(default_factory=list)
    #: ok, unreachable, refused, or unknown until the first answer
    api_state: str = "unknown"
    last_success_at: float | None = None
    #: what keeps the service from being reached, for a person, and when it is tried again
    api_cause: str = ""
    api_next_try_at: float | None = None
    #: until when the service asked to wait
    asked_until: float | None = None
    #: when what is held is tried again by itself, by the hold's scope
    tries: dict[str, float] = field(default_factory=dict)
    #: when something was sent, or got an outcome, last
    progress_at: float | None = None
    #: from when ages count: not while the daemon starts, sleeps or waits as it was asked to
    undisturbed_since: float = 0.0
    #: the limit on the bandwidth, as `status` shows it
    bandwidth: dict[str, Any] | None = None
    #: how long things take by the configuration: `state.ages.Timing`, under an older name
    pace: dict[str, Any] = field(default_factory=dict)
    #: steps that hang, or fail again and again, for a person
    troubles: list[str] = field(default_factory=list)
    #: what must not hang does: only a restart helps
    hung: bool = False
    #: a digest of each section of the configuration that is in force
    configuration: dict[str, str] = field(default_factory=dict)
    #: how fast files are sent
    files_per_second: float = 0.0
    bytes_per_second: float = 0.0


def write(directory: Path, heartbeat: Heartbeat) -> None:
    """Leave `heartbeat` in the state directory.

    On a full disk, overwrite the last ones with the bare beat: a daemon that waits for room is
    alive.
    """
    path = directory / FILE_NAME
    try:
        disk.write_private(path, json.dumps(asdict(heartbeat)))
    except OSError:
        bare = replace(heartbeat, folders={}, transfers=[], troubles=[])
        with suppress(OSError):
            disk.overwrite(path, json.dumps(asdict(bare)).encode())


def read(directory: Path) -> Heartbeat | None:
    """Return the last beat of the daemon that holds `directory`; None when none runs."""
    if (facts := liveness.read(directory)) is None:
        return None
    try:
        facts["folders"] = {k: FolderHealth(**v) for k, v in facts["folders"].items()}
        facts["transfers"] = [TransferReport(**transfer) for transfer in facts["transfers"]]
        return Heartbeat(**facts)
    except (TypeError, KeyError, AttributeError):
        # The beat is another version's.
        return None
