"""Records what was seen on the disk: the door through which `watch` writes to the table."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.state import copies, files, folders
from syncd.state.advance import Policies, advance
from syncd.state.files import File
from syncd.state.lifecycle import FileStatus, Verdict
from syncd.state.retry import backoff_seconds

#: Nothing is put off for longer than this, so that a later time is one of another clock.
LONGEST_WAIT_SECONDS = 3600.0
_NO_VERDICT: dict[str, object] = {"verdict": None, "hold_id": None}


class Seen(enum.StrEnum):
    """What was seen at a path."""

    #: a regular file that no rule excludes
    PRESENT = "present"
    #: proven absent (see `syncd.disk.Found.ABSENT`)
    MISSING = "missing"
    #: it is, or may be, there and cannot be read
    UNREADABLE = "unreadable"
    #: there, and excluded by a rule, or no regular file
    INELIGIBLE = "ineligible"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen at one path of a folder."""

    path: bytes
    seen: Seen
    fingerprint: Fingerprint | None = None
    #: why, where it is unreadable or ineligible
    reason: str | None = None
    #: whether an event told of the removal, as against a scan that did not find the file
    removal_seen: bool = False


@dataclass(frozen=True, slots=True)
class Settling:
    """A folder's patience, in seconds."""

    settle_seconds: float
    grace_seconds: float


def record(
    db: Database,
    folder: str,
    sightings: Iterable[Sighting],
    *,
    settling: Settling,
    policies: Policies,
    now: float,
) -> int:
    """Write what was seen at some paths of one folder; return how many rows it changed.

    An unchanged file costs a look-up and no write.
    """
    return sum(_record(db, folder, s, settling, policies, now) for s in sightings)


def _record(
    db: Database,
    folder: str,
    sighting: Sighting,
    settling: Settling,
    policies: Policies,
    now: float,
) -> bool:
    file = files.find(db, folder, sighting.path)
    if file is None:
        return _first_sight(db, folder, sighting, settling, now)
    match sighting.seen:
        case Seen.PRESENT:
            values = _present(file, sighting, settling, now)
            if file.status is FileStatus.CONSUMED and sighting.fingerprint == file.fingerprint:
                values = _not_consumed_yet(file, values, policies[folder].after_upload, now)
        case Seen.MISSING:
            mirrored = policies[folder].mirror_deletions and folders.is_mirrored(db, folder)
            values = _missing(file, sighting, settling, now, mirrored=mirrored)
        case Seen.UNREADABLE:
            values = _unreadable(file, sighting, now)
        case Seen.INELIGIBLE:
            values = _ineligible(file, sighting)
    if not values:
        return False
    files.update(db, file.id, **values)
    if not file.present and sighting.seen is not Seen.MISSING:
        # It is back: what is still on its way is wanted again.
        db.conn.execute("UPDATE copies SET wanted = 1 WHERE file_id = ?", (file.id,))
    if sighting.seen is Seen.MISSING and not copies.where(db, "file_id = ? LIMIT 1", (file.id,)):
        db.conn.execute("DELETE FROM files WHERE id = ?", (file.id,))
        return True
    advance(db, file.id, policies, now)
    return True


def _first_sight(
    db: Database, folder: str, sighting: Sighting, settling: Settling, now: float
) -> bool:
    if sighting.seen is Seen.PRESENT and sighting.fingerprint:
        status, changed_at, due_at = _quiet(sighting.fingerprint, settling, now)
    elif sighting.seen is Seen.UNREADABLE:
        status, changed_at, due_at = FileStatus.UNREADABLE, now, now + backoff_seconds(1)
    else:
        # What is missing or excluded and was never ours needs no row.
        return False
    files.insert(
        db,
        folder=folder,
        path=sighting.path,
        status=status,
        fingerprint=sighting.fingerprint,
        changed_at=changed_at,
        due_at=due_at,
        error=sighting.reason,
    )
    return True


def _quiet(
    fingerprint: Fingerprint, settling: Settling, now: float
) -> tuple[FileStatus, float, float]:
    """Say whether a file that was just seen anew is quiet, since when, and when it is due.

    Quiet counts from ctime, which no program can set back; one in the future proves nothing.
    """
    changed_at = fingerprint.ctime_ns / 1e9
    changed_at = min(changed_at, now)
    quiet_at = changed_at + settling.settle_seconds
    if quiet_at <= now:
        return FileStatus.READY, changed_at, now
    return FileStatus.SETTLING, changed_at, quiet_at


def _present(
    file: File, sighting: Sighting, settling: Settling, now: float
) -> dict[str, object] | None:
    if sighting.fingerprint is None:
        raise AssertionError(sighting)
    back: dict[str, object] = {"missing_since": None, "confirmed_at": None, "removal_seen": 0}
    back |= _NO_VERDICT
    if sighting.fingerprint != file.fingerprint:
        status, changed_at, due_at = _quiet(sighting.fingerprint, settling, now)
        return back | {
            "fingerprint": sighting.fingerprint,
            "status": status,
            "changed_at": changed_at,
            "due_at": due_at,
            "generation": file.generation + 1,
            "sha256": None,
            "attempts": 0,
            "error": None,
        }
    match file.status:
        case FileStatus.READY:
            return None
        case FileStatus.SETTLING:
            quiet_at = file.changed_at + settling.settle_seconds
            # Set back, the clock would let a file settle for as long as it went.
            if quiet_at <= now or file.changed_at > now + 1:
                return {"status": FileStatus.READY, "due_at": now}
            return None if file.due_at == quiet_at else {"due_at": quiet_at}
        case FileStatus.UNREADABLE:
            # The same file that could not be read: its own time to try again stands.
            if file.due_at is not None and file.due_at > now:
                return None
            return {"status": FileStatus.READY, "due_at": now}
        case _:
            return back | {"status": FileStatus.READY, "due_at": now, "error": None}


def _not_consumed_yet(
    file: File, values: dict[str, object] | None, after_upload: str, now: float
) -> dict[str, object] | None:
    """What syncd set out to take away is still there: a cut came in between, or an old look."""
    if after_upload == "keep":
        return values
    return {"due_at": now} if file.due_at is None else None


def _missing(
    file: File, sighting: Sighting, settling: Settling, now: float, *, mirrored: bool
) -> dict[str, object] | None:
    if not file.present:
        # An event may tell of a removal that a scan has found before it.
        news = sighting.removal_seen and not file.removal_seen and file.confirmed_at is None
        return {"removal_seen": 1} if news else None
    return {
        "status": FileStatus.MISSING,
        "missing_since": now,
        "confirmed_at": None,
        "removal_seen": int(sighting.removal_seen),
        "due_at": now + settling.grace_seconds,
        "error": None,
        # What goes missing while deletions are not mirrored is not deleted later either.
        "verdict": None if mirrored else Verdict.KEPT,
        "hold_id": None,
    }


def _unreadable(file: File, sighting: Sighting, now: float) -> dict[str, object] | None:
    waiting = file.due_at is not None and file.due_at > now
    if file.status is FileStatus.UNREADABLE and waiting:
        # Its own time to try again stands: being looked at is no attempt.
        return None
    attempts = file.attempts + 1
    return {
        "status": FileStatus.UNREADABLE,
        "attempts": attempts,
        "due_at": now + backoff_seconds(attempts),
        "error": sighting.reason,
        # What cannot be read is not missing: the evidence, if there was some, is void.
        "missing_since": None,
        "confirmed_at": None,
        **({} if file.present else _NO_VERDICT),
    }


def _ineligible(file: File, sighting: Sighting) -> dict[str, object] | None:
    if file.status in (FileStatus.INELIGIBLE, FileStatus.CONSUMED):
        return None
    return {
        "status": FileStatus.INELIGIBLE,
        "due_at": None,
        "error": sighting.reason,
        "missing_since": None,
        "confirmed_at": None,
        **({} if file.present else _NO_VERDICT),
    }


def restart_grace(db: Database, now: float, grace: dict[str, float]) -> int:
    """Let every grace begin anew, because the clock jumped; `grace` is seconds by folder.

    Set back, it would let whatever is due wait for as long as it went: nothing waits that long.
    """
    changed = 0
    for table in ("files", "copies"):
        db.conn.execute(
            f"UPDATE {table} SET due_at = ? WHERE due_at > ?", (now, now + LONGEST_WAIT_SECONDS)
        )
    for folder, seconds in grace.items():
        changed += db.conn.execute(
            "UPDATE files SET missing_since = ?, due_at = ? "
            "WHERE folder = ? AND status = 'missing' AND confirmed_at IS NULL",
            (now, now + seconds, folder),
        ).rowcount
    return changed


def due_looks(db: Database, now: float, folders: Sequence[str], limit: int) -> list[File]:
    """Return files whose next look at the disk is due: settling, or unreadable so far."""
    marks = ", ".join("?" * len(folders))
    return files.where(
        db,
        "status IN ('settling', 'unreadable') AND due_at <= ? "
        f"AND folder IN ({marks}) ORDER BY due_at LIMIT ?",
        (now, *folders, limit),
    )
