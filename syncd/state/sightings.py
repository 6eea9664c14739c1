"""Records what was seen on the disk: the door through which `watch` writes to the table."""

import enum
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.log import fields
from syncd.state import consumption, copies, files, folders, holds, inventory
from syncd.state.advance import Policies, advance
from syncd.state.files import File
from syncd.state.lifecycle import FileStatus, Verdict
from syncd.state.retry import backoff_seconds
from syncd.state.savepoint import is_of_the_disk, savepoint
from syncd.state.texts import shown

log = logging.getLogger(__name__)

#: Nothing is put off for longer than this, so that a later time is one of another clock.
LONGEST_WAIT_SECONDS = 3600.0
#: When something was done of which nobody knows when, in seconds since the epoch.
LONG_AGO = 1.0
#: SQL for the copies of a missing file that are still to be deleted.
_STILL_THERE = "file_id = ? AND status NOT IN ('gone', 'released') LIMIT 1"
_NO_VERDICT: dict[str, Any] = {"verdict": None}
#: The columns that are cleared when a missing file is back.
_BACK = _NO_VERDICT | {"missing_since": None, "confirmed_at": None, "removal_seen": 0}


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
    #: whether it is ineligible by the folder's rules, whatever is on the disk
    by_rule: bool = False
    #: whether an event told of the removal, as against a scan that did not find the file
    removal_seen: bool = False
    #: whether events told that it is being written: created or modified, and not closed since
    is_open: bool = False
    #: whether the fingerprint's times are this machine's; else it is quiet from its first sight on
    own_clock: bool = True


@dataclass(frozen=True, slots=True)
class Settling:
    """A folder's patience, in seconds, and what it makes of files that were there before it."""

    settle_seconds: float
    grace_seconds: float
    #: whether what is there at the very first scan is left out until it changes
    skip_existing: bool = False


#: Seconds until a file that is open is looked at again, should its close not be told of.
OPEN_SECONDS = 10.0
#: Why a file of the first scan has no copy.
SKIPPED = 'it was there before the first scan (existing = "skip"); it is sent once it changes'


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

    An unchanged file costs a look-up and no write. A sighting that cannot be recorded makes its own
    file unreadable, with the reason, and no other.
    """
    skip_before = folders.skip_before(db, folder) if settling.skip_existing else None
    seen = list(sightings)

    def write(sighting: Sighting) -> bool:
        return _record(db, folder, sighting, settling, policies, now, skip_before)

    try:
        with savepoint(db):
            return sum(map(write, seen))
    except Exception as error:
        if is_of_the_disk(error):
            raise
    # A savepoint for each row costs as much as the row: only a batch that failed pays for them.
    return sum(_alone(db, folder, sighting, write) for sighting in seen)


def _alone(
    db: Database, folder: str, sighting: Sighting, write: Callable[[Sighting], bool]
) -> bool:
    """Write one sighting; where that fails, write that its file cannot be read, and why."""
    try:
        with savepoint(db):
            return write(sighting)
    except Exception as error:
        if is_of_the_disk(error):
            raise
        log.warning(
            "%s: %s cannot be recorded: %s",
            folder,
            shown(sighting.path),
            error,
            exc_info=error,
            extra=fields("unrecorded", folder=folder, cause=f"{type(error).__name__}: {error}"),
        )
        reason = f"it cannot be recorded: {error}"
    try:
        with savepoint(db):
            return write(Sighting(sighting.path, Seen.UNREADABLE, reason=reason))
    except Exception as error:
        if is_of_the_disk(error):
            raise
        return False


def _record(
    db: Database,
    folder: str,
    sighting: Sighting,
    settling: Settling,
    policies: Policies,
    now: float,
    skip_before: float | None,
) -> bool:
    file = files.find(db, folder, sighting.path)
    if file is None:
        return _first_sight(db, folder, sighting, settling, now, skip_before)
    match sighting.seen:
        case Seen.PRESENT:
            values = _present(file, sighting, settling, now)
            same = file.status is FileStatus.CONSUMED and sighting.fingerprint == file.fingerprint
            if same and policies[folder].empties:
                # It was to be taken away: a cut came in between, or this is an old look.
                consumption.look_now(db, file, now)
                values = None
        case Seen.MISSING:
            mirrored = policies[folder].mirrors and folders.is_mirrored(db, folder, file.path)
            if file.status is FileStatus.MISSING:
                values = _missing_again(db, file, sighting, settling, now)
            else:
                values = _missing(db, file, sighting, settling, now, mirrored=mirrored)
        case Seen.UNREADABLE:
            values = _unreadable(file, sighting, now)
        case Seen.INELIGIBLE:
            values = _ineligible(file, sighting)
    if not values:
        return False
    files.update(db, file.id, **values)
    if not file.present and sighting.seen is not Seen.MISSING:
        _want_again(db, file)
    if sighting.seen is Seen.MISSING and not copies.where(db, "file_id = ? LIMIT 1", (file.id,)):
        db.conn.execute("DELETE FROM files WHERE id = ?", (file.id,))
        return True
    advance(db, file.id, policies, now)
    return True


def doubt_absence(db: Database, file_id: int, policies: Policies, now: float) -> None:
    """Have a missing file that may be back be looked at anew, and judged by the folder's rules."""
    file = files.get(db, file_id)
    if file is None or file.status is not FileStatus.MISSING:
        return
    files.update(db, file.id, status=FileStatus.SETTLING, due_at=now, **_BACK)
    _want_again(db, file)
    advance(db, file.id, policies, now)


def _want_again(db: Database, file: File) -> None:
    """Want what is on its way of a file that is back: its absence is no evidence any more."""
    db.conn.execute(
        "UPDATE copies SET wanted = 1, evidence = iif(delete_sent_at, evidence, NULL) "
        "WHERE file_id = ?",
        (file.id,),
    )


def _first_sight(
    db: Database,
    folder: str,
    sighting: Sighting,
    settling: Settling,
    now: float,
    skip_before: float | None,
) -> bool:
    mark = sighting.fingerprint
    if sighting.seen is Seen.PRESENT and mark:
        values = _quiet(sighting, mark, settling, now)
        if skip_before is not None and not sighting.is_open and _changed_at(mark) < skip_before:
            values |= {"status": FileStatus.INELIGIBLE, "due_at": None, "settling_since": None}
            values |= {"is_skipped": True, "error": SKIPPED}
    elif sighting.seen is Seen.UNREADABLE:
        values = {"status": FileStatus.UNREADABLE, "changed_at": now, "error": sighting.reason}
        values["due_at"] = now + backoff_seconds(1)
    else:
        # What is missing or excluded and was never ours needs no row.
        return False
    files.insert(db, folder=folder, path=sighting.path, fingerprint=mark, **values)
    return True


def _changed_at(fingerprint: Fingerprint) -> float:
    """Return when the file changed last, as far as its filesystem tells."""
    return (fingerprint.ctime_ns or fingerprint.mtime_ns) / 1e9


def _quiet(
    sighting: Sighting, fingerprint: Fingerprint, settling: Settling, now: float
) -> dict[str, Any]:
    """Return the columns that say whether a file just seen anew is quiet, and when it is due.

    Quiet counts from ctime, which no program can set back; one in the future proves nothing, nor
    does another machine's.
    """
    changed_at = min(fingerprint.ctime_ns / 1e9, now) if sighting.own_clock else now
    quiet_at = changed_at + settling.settle_seconds
    values = {"changed_at": changed_at, "is_open": sighting.is_open, "settling_since": None}
    if sighting.is_open:
        due_at = max(quiet_at, now + OPEN_SECONDS)
        return values | {"status": FileStatus.SETTLING, "due_at": due_at, "settling_since": now}
    if quiet_at <= now:
        return values | {"status": FileStatus.READY, "due_at": now}
    return values | {"status": FileStatus.SETTLING, "due_at": quiet_at, "settling_since": now}


def _present(
    file: File, sighting: Sighting, settling: Settling, now: float
) -> dict[str, Any] | None:
    if sighting.fingerprint is None:
        raise AssertionError(sighting)
    if sighting.fingerprint != file.fingerprint:
        values = _BACK | _quiet(sighting, sighting.fingerprint, settling, now)
        if values["settling_since"] is not None and file.settling_since is not None:
            values["settling_since"] = file.settling_since
        return values | {
            "fingerprint": sighting.fingerprint,
            "generation": file.generation + 1,
            "sha256": None,
            "attempts": 0,
            "error": None,
            "crashes": 0,
            "is_skipped": 0,
        }
    match file.status:
        case FileStatus.READY:
            return None
        case FileStatus.SETTLING:
            return _still(file, sighting, settling, now)
        case FileStatus.UNREADABLE:
            # The same file that could not be read: its own time to try again stands.
            if file.due_at is not None and file.due_at > now:
                return None
            if file.is_skipped and settling.skip_existing:
                return {"status": FileStatus.INELIGIBLE, "due_at": None, "error": SKIPPED}
            return {"status": FileStatus.READY, "due_at": now}
        case FileStatus.INELIGIBLE if file.is_skipped and settling.skip_existing:
            return None
        case _:
            values = {"status": FileStatus.READY, "due_at": now, "error": None, "is_skipped": 0}
            return _BACK | values


def _still(file: File, sighting: Sighting, settling: Settling, now: float) -> dict[str, Any] | None:
    """Judge a settling file that is the same as at the last look."""
    if sighting.is_open:
        return {"due_at": now + OPEN_SECONDS, "is_open": True}
    quiet_at = file.changed_at + settling.settle_seconds
    if file.changed_at > now + 1:
        # If the clock was set back, `changed_at` lies in the future; don't wait for it to catch up.
        again = {"changed_at": now, "due_at": now + settling.settle_seconds}
        return again | {"is_open": False}
    if quiet_at <= now:
        values = {"status": FileStatus.READY, "due_at": now}
        return values | {"is_open": False, "settling_since": None}
    if file.due_at == quiet_at and not file.is_open:
        return None
    return {"due_at": quiet_at, "is_open": False}


def _missing(
    db: Database, file: File, sighting: Sighting, settling: Settling, now: float, *, mirrored: bool
) -> dict[str, Any] | None:
    if not file.present:
        return None
    values: dict[str, Any] = {
        "status": FileStatus.MISSING,
        "missing_since": now,
        "confirmed_at": None,
        "removal_seen": int(sighting.removal_seen),
        "error": None,
    }
    due_at = now + settling.grace_seconds
    if mirrored and _is_deletion_held(db, file):
        # A hold named it before it was found missing: nothing is due before that is decided.
        return values | {"due_at": _put_off(db, file, due_at)}
    # What goes missing while deletions are not mirrored is not deleted later either.
    return values | {"due_at": due_at, "verdict": None if mirrored else Verdict.KEPT}


def _is_deletion_held(db: Database, file: File) -> bool:
    if file.verdict is not Verdict.HELD:
        return False
    return holds.existing(db, file.hold_id).stops == "deletions"


def _put_off(db: Database, file: File, due_at: float) -> float | None:
    """Return when the second look at a missing file is due; None where a hold is to end first."""
    if file.verdict is not Verdict.HELD:
        return due_at
    db.conn.execute("UPDATE decisions SET due_at = ? WHERE file_id = ?", (due_at, file.id))
    return None


def _missing_again(
    db: Database, file: File, sighting: Sighting, settling: Settling, now: float
) -> dict[str, Any] | None:
    """Let the grace of a missing file begin anew where an event told of a removal after all.

    It was back in between, however shortly; or a scan has found the removal before its event came.
    """
    if not sighting.removal_seen:
        return None
    if file.confirmed_at is not None and not copies.where(db, _STILL_THERE, (file.id,)):
        return None
    due_at = _put_off(db, file, now + settling.grace_seconds)
    return {"removal_seen": 1, "missing_since": now, "confirmed_at": None, "due_at": due_at}


def _unreadable(file: File, sighting: Sighting, now: float) -> dict[str, Any] | None:
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


def _ineligible(file: File, sighting: Sighting) -> dict[str, Any] | None:
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


def restart_grace(
    db: Database, now: float, grace: dict[str, float], *, set_back: float = 0.0
) -> None:
    """Let every grace begin anew, because the clock jumped; `grace` is seconds by folder.

    By as many seconds as it was `set_back`, all that waits would wait longer: it is due earlier.
    What is in doubt was sent at a time that is no longer known: it is looked for among all.
    """
    db.conn.execute(
        # The index of what is under way wants its own words.
        "UPDATE copies SET sent_at = :long_ago, doubted_at = :now "
        "WHERE status NOT IN ('live', 'gone') AND status = 'sending' "
        "AND (sent_at > :now OR :set_back > 0)",
        {"long_ago": LONG_AGO, "now": now, "set_back": set_back},
    )
    db.conn.execute(
        "UPDATE unanswered SET sent_at = :long_ago, look_at = min(look_at, :latest) "
        "WHERE sent_at > :now OR :set_back",
        {
            "long_ago": LONG_AGO,
            "now": now,
            "latest": now + LONGEST_WAIT_SECONDS,
            "set_back": set_back,
        },
    )
    for table in ("files", "copies"):
        db.conn.execute(
            f"UPDATE {table} SET due_at = max(due_at - :set_back, :now) WHERE due_at > :now",
            {"set_back": set_back, "now": now},
        )
        db.conn.execute(
            f"UPDATE {table} SET due_at = ? WHERE due_at > ?", (now, now + LONGEST_WAIT_SECONDS)
        )
    for folder, seconds in grace.items():
        restart_grace_beneath(db, folder, b"", now, seconds)


def restart_grace_beneath(
    db: Database, folder: str, part: bytes, now: float, seconds: float
) -> None:
    """Let the grace of what is missing beneath a `part` of a folder begin anew."""
    first, beyond = inventory.range_beneath(part)
    missing = (
        "folder = :folder AND status = 'missing' AND confirmed_at IS NULL "
        "AND path > :first AND path < :beyond"
    )
    known = {"now": now, "due_at": now + seconds, "folder": folder}
    known |= {"first": first, "beyond": beyond}
    db.conn.execute(
        "UPDATE files SET missing_since = :now, "
        f"due_at = CASE WHEN due_at IS NOT NULL THEN :due_at END WHERE {missing}",
        known,
    )
    db.conn.execute(
        "UPDATE decisions SET due_at = :due_at WHERE due_at IS NOT NULL "
        f"AND file_id IN (SELECT id FROM files WHERE {missing})",
        known,
    )


def due_looks(db: Database, now: float, folders: Sequence[str], limit: int) -> list[File]:
    """Return files whose next look at the disk is due: settling, or unreadable so far."""
    marks = ", ".join("?" * len(folders))
    return files.where(
        db,
        "status IN ('settling', 'unreadable') AND due_at <= ? "
        f"AND folder IN ({marks}) ORDER BY due_at LIMIT ?",
        (now, *folders, limit),
    )
