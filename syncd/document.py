"""The document of `status --json`: what the table, the daemon's last beat and the lock say."""

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syncd import __version__, vitals
from syncd.state import ages, manifest, overview, views
from syncd.state.ages import Clocks, Pace, Waiting
from syncd.state.confirming import SIZES
from syncd.state.holds import EVERYWHERE, workspace_of
from syncd.state.store import Transaction, fact, lock_holder
from syncd.state.texts import timestamp
from syncd.units import counted, span
from syncd.vitals import FolderVitals, Vitals

JsonObject = dict[str, Any]

#: With less than that for its state, the daemon counts as standing still.
LEAST_FREE_BYTES = 1 << 20


def status(directory: Path, *, base_url: str) -> JsonObject:
    """Return the document of `status --json`, and three facts more.

    `failures` are the newest failures, `obstacles` the reasons for which syncd cannot do its job,
    `sizes` whether the service tells the sizes of what it holds.
    """
    now = time.time()
    pid = lock_holder(directory)
    beat = vitals.read(directory) if pid is not None else None
    try:
        known = views.read(directory, lambda db: _known(db, now, beat))
    except views.NoStateError:
        known = {"folders": [], "counts": {}, "holds": [], "failures": [], "echo": "unknown"}
        known |= {"no_state": True, "overdue": []}
    in_the_way = [
        *_obstacles(known, pid, beat, now),
        *_disk_reasons(directory, runs=pid is not None),
    ]
    reasons = [*in_the_way, *_reasons(known)]
    return {
        "version": __version__,
        "well": not reasons,
        "reasons": reasons,
        "obstacles": in_the_way,
        "daemon": {
            "running": pid is not None,
            "pid": pid or None,
            "since": timestamp(beat.since) if beat else None,
        },
        "folders": list(_folders(known["folders"], beat)),
        "counts": known["counts"],
        "transfers": _transfers(beat),
        "holds": known["holds"],
        "api": {
            "base_url": known.get("base_url") or base_url,
            "state": beat.api_state if beat else "unknown",
            "echo": known["echo"],
            "last_success_at": timestamp(beat.last_success_at) if beat else None,
        },
        "failures": known["failures"],
        "overdue": known["overdue"],
        "waits": _waits(beat, now),
        "sizes": known.get("sizes"),
    }


def _known(db: Transaction, now: float, beat: Vitals | None) -> JsonObject:
    """Return what the table knows; what is overdue only while a daemon should see to it."""
    facts = {"base_url": fact(db, "base_url"), "sizes": fact(db, SIZES)}
    if beat is None:
        return overview.overview(db, now) | facts | {"overdue": []}
    clocks = Clocks(beat.undisturbed_since, beat.progress_at)
    known = overview.overview(db, now, pace=Pace(**beat.pace), clocks=clocks) | facts
    known["overdue"] += _standing_transfers(beat, now)
    return known


def _standing_transfers(beat: Vitals, now: float) -> Iterator[JsonObject]:
    """Yield each transfer that has not moved a byte for too long, as `ages.overdue` does."""
    for transfer in beat.transfers:
        moved_at = max(transfer.moved_at or transfer.since, beat.undisturbed_since)
        if now - moved_at >= ages.TRANSFER_SECONDS:
            yield {
                "state": Waiting.UPLOADING,
                "folder": transfer.folder,
                "files": 1,
                "path": transfer.path,
                "since": timestamp(moved_at),
                "error": f"{transfer.bytes} of {transfer.size} bytes",
            }


def _waits(beat: Vitals | None, now: float) -> str:
    """Say for how long the service asked to wait; empty where it did not."""
    if beat is None or beat.asked_until is None or beat.asked_until <= now:
        return ""
    return f"it asked to wait for {span(beat.asked_until - now)} more"


def _folders(known: list[JsonObject], beat: Vitals | None) -> Iterator[JsonObject]:
    """Yield each folder's object: those that a running daemon watches, else all that are known."""
    for folder in known:
        if beat and folder["name"] not in beat.folders:
            continue
        seen = beat.folders[folder["name"]] if beat else FolderVitals(watch="")
        yield {
            "name": folder["name"],
            "path": folder["path"],
            "watch": seen.watch or None,
            "watch_reason": seen.watch_reason,
            "watched_directories": seen.watched_directories,
            "directories": seen.directories or folder["directories"],
            "last_event_at": timestamp(seen.last_event_at),
            "last_scan_at": folder["last_scan_at"],
            "counts": folder["counts"],
            "missing": folder["missing"],
            "oldest_queued_seconds": folder["oldest_queued_seconds"],
        }


def _transfers(beat: Vitals | None) -> list[JsonObject]:
    return [
        {
            "path": transfer.path,
            "bytes": transfer.bytes,
            "size": transfer.size,
            "since": timestamp(transfer.since),
        }
        for transfer in (beat.transfers if beat else ())
    ]


def contract(facts: JsonObject) -> JsonObject:
    """Return what the contract of `status --json` names of the document, and no more."""
    inside = ("failures", "obstacles", "overdue", "waits", "sizes")
    return {key: fact for key, fact in facts.items() if key not in inside}


def _obstacles(
    known: JsonObject, pid: int | None, beat: Vitals | None, now: float
) -> Iterator[str]:
    """Yield, in words, each thing that keeps syncd from doing its job."""
    if known.get("no_state"):
        yield "syncd has not run with this state directory yet"
    if pid is None:
        yield "no daemon is running (syncd run)"
    elif beat is None:
        yield (
            f"process {pid} does not report: it is a `syncd once`, or a daemon that is of another "
            "version, or just starting"
        )
    else:
        yield from _beat_reasons(beat, now)
    yield from _holds(known, "sending")
    yield from _holds(known, "folder")
    yield from (_overdue(late) for late in known["overdue"] if late["state"] in _IN_THE_WAY)


def _reasons(known: JsonObject) -> Iterator[str]:
    """Yield, in words, what is not well beside that: it waits for a person."""
    yield from _holds(known, "deletions")
    late = known.get("overdue", ())
    yield from (_overdue(entry) for entry in late if entry["state"] not in _IN_THE_WAY)
    for name, why in known.get("obstacles", {}).items():
        yield f"{name}: files are not taken away after their upload: {why}"
    if failed := known["counts"].get(manifest.Word.FAILED):
        yield f"{counted(failed, 'file')} failed (syncd ls --status failed)"


#: What stands still here keeps syncd from its job; of the rest only those files suffer.
_IN_THE_WAY = (Waiting.SETTLING, Waiting.QUEUED, Waiting.FAILING, Waiting.UPLOADING)
_STANDING = {
    Waiting.SETTLING: "should have settled",
    Waiting.QUEUED: "wait to be sent, and nothing moves",
    Waiting.FAILING: "could not be sent so far",
    Waiting.UPLOADING: "is being sent, and no byte moves",
    Waiting.IN_DOUBT: "got no answer, and cannot be looked up",
    Waiting.PROCESSING: "still processed by the service",
    Waiting.DELETING: "not deleted remotely so far",
}


def _overdue(entry: JsonObject) -> str:
    """Return an overdue entry in words: which file, since when, why, and what to type."""
    path = f"{entry['folder']}/{entry['path']}"
    since = f", since {entry['since']}" if entry["since"] else ""
    error = f": {entry['error']}" if entry["error"] else ""
    files = counted(entry["files"], "file")
    command = f"syncd why {shlex.quote(path)}"
    return f"{files} {_STANDING[entry['state']]}: {path}{since}{error} ({command})"


def _holds(known: JsonObject, stops: str) -> Iterator[str]:
    for hold in known["holds"]:
        if hold["stops"] == stops:
            yield f"{stopped(hold)} held: {hold['reason']}"


def stopped(hold: JsonObject) -> str:
    """Return what a hold stops, in words: `sending to workspace W`."""
    stops, scope = hold["stops"], hold["scope"]
    if scope == EVERYWHERE:
        return f"{stops}"
    if stops == "deletions":
        return f"deletions of {scope}"
    if stops == "folder":
        return f"everything in {scope}"
    kind, _, which = scope.partition(" ")
    if kind in ("copy", "folder") and which:
        return f"sending of {which}" if kind == "folder" else "sending of one file"
    workspace = workspace_of(scope)
    return f"sending to workspace {workspace}" if workspace else "sending to the default workspace"


def _disk_reasons(directory: Path, *, runs: bool) -> Iterator[str]:
    """Tell of a disk on which the daemon cannot write its beats, and so not tell itself."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_FREE_BYTES:
        then = "it goes on by itself" if runs else "start syncd again"
        yield (
            f"the disk of {directory} has {free >> 10} KiB left: nothing is sent or deleted that "
            f"cannot be recorded; free some space, and {then}"
        )


def _beat_reasons(beat: Vitals, now: float) -> Iterator[str]:
    age = now - beat.beat_at
    if age > vitals.STALE_SECONDS:
        yield f"the daemon (process {beat.pid}) has not reported for {age:.0f} s; it may hang"
    if beat.api_state == "refused":
        yield "the service refuses the key"
    elif beat.api_state == "unreachable":
        yield f"the service cannot be reached{f': {beat.api_cause}' if beat.api_cause else ''}"
    for name, folder in beat.folders.items():
        if folder.trouble:
            yield f"{name}: {folder.trouble}"
    yield from beat.troubles
