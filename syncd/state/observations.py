"""Records observations of the disk in the `files` table; `watch` writes only through here."""

import enum
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from syncd.disk import Fingerprint
from syncd.log import fields
from syncd.state import after_upload, copies, files, folders, holds
from syncd.state.apply_plan import Policies, advance
from syncd.state.backoff import backoff_seconds
from syncd.state.database.connection import Database
from syncd.state.database.savepoint import is_of_the_disk, savepoint
from syncd.state.files import File
from syncd.state.lifecycle import FileStatus, Verdict
from syncd.state.texts import shown

log = logging.getLogger(__name__)

#: SQL for the copies of a missing file that are still to be deleted.
_STILL_THERE = "file_id = ? AND status NOT IN ('gone', 'released') LIMIT 1"
_NO_VERDICT: dict[str, Any] = {"verdict": None}
#: The columns that are cleared when a missing file is back.
_BACK = _NO_VERDICT | {"missing_since": None, "confirmed_at": None, "removal_seen": 0}


class Seen(enum.StrEnum):
    """The outcome of a look at a path."""

    #: a regular file that no rule excludes
    PRESENT = "present"
    #: proven absent (see `syncd.disk.Found.ABSENT`)
    MISSING = "missing"
    #: there, or possibly there, and not readable
    UNREADABLE = "unreadable"
    #: there, but excluded by a rule or not a regular file
    INELIGIBLE = "ineligible"


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of one look at one path of a folder."""

    path: bytes
    seen: Seen
    fingerprint: Fingerprint | None = None
    #: why it is unreadable or ineligible
    reason: str | None = None
    #: whether it is ineligible by the folder's rules, whatever is on the disk
    by_rule: bool = False
    #: whether an event reported the removal, as opposed to a scan that did not find the file
    removal_seen: bool = False
    #: whether events report that it is being written: created or modified, and not yet closed
    is_open: bool = False
    #: whether this machine's clock set the fingerprint's times; if not, quiet counts from now on
    own_clock: bool = True


@dataclass(frozen=True, slots=True)
class Settling:
    """A folder's waiting times in seconds, and how it treats files from before its first scan."""

    settle_seconds: float
    grace_seconds: float
    #: whether files found by the very first scan are left out until they change
    skip_existing: bool = False


#: Seconds until an open file is looked at again, in case no event reports its close.
OPEN_SECONDS = 10.0
#: Why a file found by the first scan has no copy.
SKIPPED = 'it was there before the first scan (existing = "skip"); it is sent once it changes'


def record(
    db: Database,
    folder: str,
    observations: Iterable[Observation],
    *,
    settling: Settling,
    policies: Policies,
    now: float,
) -> int:
    """Write observations of one folder; return how many rows they changed.

    An unchanged file costs a look-up and no write. If one observation cannot be recorded, only its
    own file becomes unreadable, with the reason.
    """
    skip_before = folders.skip_before(db, folder) if settling.skip_existing else None
    seen = list(observations)

    def write(observation: Observation) -> bool:
        return _record(db, folder, observation, settling, policies, now, skip_before)

    try:
        with savepoint(db):
            new, known = _new_and_known(db, folder, seen)
            rows = [_new_row(each, settling, now, skip_before) for each in new]
            return files.insert_all(db, folder, filter(None, rows)) + sum(map(write, known))
    except Exception as error:
        if is_of_the_disk(error):
            raise
    # A savepoint costs as much as a row, so only a failed batch pays for one per row.
    return sum(_alone(db, folder, observation, write) for observation in seen)


def _new_and_known(
    db: Database, folder: str, seen: Sequence[Observation]
) -> tuple[list[Observation], list[Observation]]:
    """Part the observations of paths that have no row, each seen once, from the others."""
    known = files.known_paths(db, folder, [each.path for each in seen])
    times = Counter(each.path for each in seen)
    is_new = {path for path, number in times.items() if number == 1} - known
    return (
        [each for each in seen if each.path in is_new],
        [each for each in seen if each.path not in is_new],
    )


def _alone(
    db: Database, folder: str, observation: Observation, write: Callable[[Observation], bool]
) -> bool:
    """Write one observation; if that fails, mark its file unreadable with the reason."""
    try:
        with savepoint(db):
            return write(observation)
    except Exception as error:
        if is_of_the_disk(error):
            raise
        log.warning(
            "%s: %s cannot be recorded: %s",
            folder,
            shown(observation.path),
            error,
            exc_info=error,
            extra=fields("unrecorded", folder=folder, cause=f"{type(error).__name__}: {error}"),
        )
        reason = f"it cannot be recorded: {error}"
    try:
        with savepoint(db):
            return write(Observation(observation.path, Seen.UNREADABLE, reason=reason))
    except Exception as error:
        if is_of_the_disk(error):
            raise
        return False


def _record(
    db: Database,
    folder: str,
    observation: Observation,
    settling: Settling,
    policies: Policies,
    now: float,
    skip_before: float | None,
) -> bool:
    file = files.find(db, folder, observation.path)
    if file is None:
        row = _new_row(observation, settling, now, skip_before)
        return row is not None and files.insert(db, folder=folder, **row) > 0
    match observation.seen:
        case Seen.PRESENT:
            values = _present(file, observation, settling, now)
            same = (
                file.status is FileStatus.CONSUMED and observation.fingerprint == file.fingerprint
            )
            if same and policies[folder].empties:
                # `after_upload` was taking it away when it was interrupted, or the look is old.
                after_upload.look_now(db, file, now)
                values = None
        case Seen.MISSING:
            mirrors = policies[folder].mirrors and folders.is_absence_believed(
                db, folder, file.path
            )
            if file.status is FileStatus.MISSING:
                values = _missing_again(db, file, observation, settling, now)
            else:
                values = _missing(db, file, observation, settling, now, mirrors=mirrors)
        case Seen.UNREADABLE:
            values = _unreadable(file, observation, now)
        case Seen.INELIGIBLE:
            values = _ineligible(file, observation)
    if not values:
        return False
    files.update(db, file.id, **values)
    if not file.present and observation.seen is not Seen.MISSING:
        _want_again(db, file)
    if observation.seen is Seen.MISSING and not copies.where(db, "file_id = ? LIMIT 1", (file.id,)):
        db.conn.execute("DELETE FROM files WHERE id = ?", (file.id,))
        return True
    advance(db, file.id, policies, now)
    return True


def doubt_absence(db: Database, file_id: int, policies: Policies, now: float) -> None:
    """Have a missing file that may be back looked at again, and judged by the folder's rules."""
    file = files.get(db, file_id)
    if file is None or file.status is not FileStatus.MISSING:
        return
    files.update(db, file.id, status=FileStatus.SETTLING, due_at=now, **_BACK)
    _want_again(db, file)
    advance(db, file.id, policies, now)


def _want_again(db: Database, file: File) -> None:
    """Want the copies of a file that is back, and drop the evidence of its absence."""
    db.conn.execute(
        "UPDATE copies SET wanted = 1, evidence = iif(delete_sent_at, evidence, NULL) "
        "WHERE file_id = ?",
        (file.id,),
    )


def _new_row(
    observation: Observation, settling: Settling, now: float, skip_before: float | None
) -> dict[str, Any] | None:
    """Return the columns of a path never seen before; None if it needs no row."""
    mark = observation.fingerprint
    if observation.seen is Seen.PRESENT and mark:
        values = _quiet(observation, mark, settling, now)
        if skip_before is not None and not observation.is_open and _changed_at(mark) < skip_before:
            values |= {"status": FileStatus.INELIGIBLE, "due_at": None, "settling_since": None}
            values |= {"is_skipped": True, "error": SKIPPED}
    elif observation.seen is Seen.UNREADABLE:
        values = {"status": FileStatus.UNREADABLE, "changed_at": now, "error": observation.reason}
        values["due_at"] = now + backoff_seconds(1)
    else:
        # A missing or excluded file that was never synced needs no row.
        return None
    return values | {"path": observation.path, "fingerprint": mark}


def _changed_at(fingerprint: Fingerprint) -> float:
    """Return when the file last changed, according to its filesystem."""
    return (fingerprint.ctime_ns or fingerprint.mtime_ns) / 1e9


def _quiet(
    observation: Observation, fingerprint: Fingerprint, settling: Settling, now: float
) -> dict[str, Any]:
    """Return the columns that say whether a new or changed file is quiet, and when it is due.

    Quiet counts from ctime, which no program can set back. A ctime in the future, or from another
    machine's clock, proves nothing.
    """
    changed_at = min(fingerprint.ctime_ns / 1e9, now) if observation.own_clock else now
    quiet_at = changed_at + settling.settle_seconds
    values = {"changed_at": changed_at, "is_open": observation.is_open, "settling_since": None}
    if observation.is_open:
        due_at = max(quiet_at, now + OPEN_SECONDS)
        return values | {"status": FileStatus.SETTLING, "due_at": due_at, "settling_since": now}
    if quiet_at <= now:
        return values | {"status": FileStatus.READY, "due_at": now}
    return values | {"status": FileStatus.SETTLING, "due_at": quiet_at, "settling_since": now}


def _present(
    file: File, observation: Observation, settling: Settling, now: float
) -> dict[str, Any] | None:
    if observation.fingerprint is None:
        raise AssertionError(observation)
    if observation.fingerprint != file.fingerprint:
        values = _BACK | _quiet(observation, observation.fingerprint, settling, now)
        if values["settling_since"] is not None and file.settling_since is not None:
            values["settling_since"] = file.settling_since
        return values | {
            "fingerprint": observation.fingerprint,
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
            return _still(file, observation, settling, now)
        case FileStatus.UNREADABLE:
            # The unreadable file has not changed, so its time to try again stands.
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


def _still(
    file: File, observation: Observation, settling: Settling, now: float
) -> dict[str, Any] | None:
    """Return the changes to a settling file that is the same as at the last look."""
    if observation.is_open:
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
    db: Database,
    file: File,
    observation: Observation,
    settling: Settling,
    now: float,
    *,
    mirrors: bool,
) -> dict[str, Any] | None:
    if not file.present:
        return None
    values: dict[str, Any] = {
        "status": FileStatus.MISSING,
        "missing_since": now,
        "confirmed_at": None,
        "removal_seen": int(observation.removal_seen),
        "error": None,
    }
    due_at = now + settling.grace_seconds
    if mirrors and _is_deletion_held(db, file):
        # A hold already names the file: nothing is due until a person decides.
        return values | {"due_at": _put_off(db, file, due_at)}
    # A file that goes missing while deletions are not mirrored is never deleted later.
    return values | {"due_at": due_at, "verdict": None if mirrors else Verdict.KEPT}


def _is_deletion_held(db: Database, file: File) -> bool:
    if file.verdict is not Verdict.HELD:
        return False
    return holds.existing(db, file.hold_id).stops == "deletions"


def _put_off(db: Database, file: File, due_at: float) -> float | None:
    """Return when the second look at a missing file is due; None if a hold must end first."""
    if file.verdict is not Verdict.HELD:
        return due_at
    db.conn.execute("UPDATE decisions SET due_at = ? WHERE file_id = ?", (due_at, file.id))
    return None


def _missing_again(
    db: Database, file: File, observation: Observation, settling: Settling, now: float
) -> dict[str, Any] | None:
    """Begin the grace period of a missing file if this is the first look, or another removal.

    After an event, the file was back for a moment, or a scan found the removal before its event.
    """
    if not observation.removal_seen and file.missing_since is not None:
        return None
    if file.confirmed_at is not None and not copies.where(db, _STILL_THERE, (file.id,)):
        return None
    due_at = _put_off(db, file, now + settling.grace_seconds)
    values = {"removal_seen": int(observation.removal_seen), "missing_since": now}
    return values | {"confirmed_at": None, "due_at": due_at}


def _unreadable(file: File, observation: Observation, now: float) -> dict[str, Any] | None:
    waiting = file.due_at is not None and file.due_at > now
    if file.status is FileStatus.UNREADABLE and waiting:
        # A look is not an attempt, so the time of the next attempt stands.
        return None
    attempts = file.attempts + 1
    return {
        "status": FileStatus.UNREADABLE,
        "attempts": attempts,
        "due_at": now + backoff_seconds(attempts),
        "error": observation.reason,
        # An unreadable file is not missing, so any evidence of absence is void.
        "missing_since": None,
        "confirmed_at": None,
        **({} if file.present else _NO_VERDICT),
    }


def _ineligible(file: File, observation: Observation) -> dict[str, Any] | None:
    if file.status in (FileStatus.INELIGIBLE, FileStatus.CONSUMED):
        return None
    return {
        "status": FileStatus.INELIGIBLE,
        "due_at": None,
        "error": observation.reason,
        "missing_since": None,
        "confirmed_at": None,
        **({} if file.present else _NO_VERDICT),
    }
