"""The verbs of `after_upload`: before a file is taken away, and after.

| committed before                           | done                 | committed after      |
|--------------------------------------------|----------------------|----------------------|
| `begin`: file taken, its copy released,    | set aside, judged,   | `done` or `returned` |
| `aside`                                    | moved or deleted     |                      |

From `begin` on, the file's absence means nothing, and nothing can delete its copy; a new file of
that name gets a new copy beside it. `aside` is the name of the private directory that holds the
file meanwhile. A cut in between leaves the copy due.
"""

from collections.abc import Collection

from syncd.disk import Fingerprint
from syncd.state import copies, files, history, holds
from syncd.state.apply_plan import Policies, advance
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.holds import pauses
from syncd.state.lifecycle import CopyStatus, FileStatus

#: Seconds until a file is looked at that was to be taken away, if no outcome is recorded.
UNTOLD_SECONDS = 60.0
#: The history's words for a file that was moved, before its new path, and for one that was taken
#: away by a syncd that ended before it recorded where to.
MOVED, TAKEN_AWAY = "moved to ", "taken away after its upload"


def due(
    db: Database,
    folder: str,
    limit: int,
    *,
    without: Collection[int] = (),
    parents: Collection[bytes] = (),
) -> list[tuple[File, Copy]]:
    """Return files whose content is live and nothing else on its way, each with that copy.

    Leave out the files `without` and the directories `parents`. Return none while the folder is
    paused, or while the ledger has lost something: what it calls live may be gone.
    """
    if holds.is_ledger_incomplete(db) or pauses.is_paused(db, folder):
        return []
    found = files.where(
        db,
        # At rest: what waits to be hashed or sent has a time, and is not even looked at.
        "status = 'ready' AND folder = ? AND due_at IS NULL "
        "AND EXISTS (SELECT 1 FROM copies WHERE file_id = files.id "
        "AND copies.status = 'live' AND copies.sha256 = files.sha256) "
        "AND NOT EXISTS (SELECT 1 FROM copies WHERE file_id = files.id "
        "AND (copies.status IN ('planned', 'sending', 'processing') "
        # Superseded before the folder was emptied: kept like the file's last copy, it would never
        # be deleted.
        "OR (copies.status = 'retiring' AND delete_sent_at IS NULL AND live_at IS NOT NULL))) "
        f"AND id NOT IN ({_marks(without)}) AND parent NOT IN ({_marks(parents)}) LIMIT ?",
        (folder, *without, *parents, limit),
    )
    with_copies = ((file, live_copy(db, file.id)) for file in found)
    return [(file, copy) for file, copy in with_copies if copy is not None]


def half_taken(db: Database, folder: str, now: float, limit: int) -> list[tuple[File, Copy]]:
    """Return the files, with their copies, that a crash left half taken away."""
    if pauses.is_paused(db, folder):
        return []
    found = copies.where(
        db,
        "status = 'released' AND due_at <= ? AND consumed_at IS NOT NULL "
        "AND (SELECT folder FROM files WHERE files.id = file_id) = ? ORDER BY due_at LIMIT ?",
        (now, folder, limit),
    )
    return [(files.existing(db, copy.file_id), copy) for copy in found]


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def live_copy(db: Database, file_id: int) -> Copy | None:
    """Return the live copy of a file, for which it may be taken away."""
    known = copies.of_file(db, file_id)
    return next((copy for copy in known if copy.status is CopyStatus.LIVE), None)


def begin(
    db: Database, file_id: int, fingerprint: Fingerprint, aside: str, now: float
) -> Copy | None:
    """Commit the intent to take away a file with this `fingerprint`; None if it must stay.

    Return its copy, which is released.
    """
    file = files.get(db, file_id)
    if file is None or file.fingerprint != fingerprint or pauses.is_paused(db, file.folder):
        return None
    known = copies.of_file(db, file_id)
    live = live_copy(db, file_id)
    if file.status is not FileStatus.READY or live is None or live.sha256 != file.sha256:
        return None
    if any(copy.in_flight for copy in known):
        return None
    copies.move(
        db,
        live,
        CopyStatus.RELEASED,
        due_at=now + UNTOLD_SECONDS,
        consumed_at=now,
        aside=aside,
        reason="its file is taken away",
    )
    files.update(db, file_id, status=FileStatus.CONSUMED, due_at=None, error=None)
    return copies.existing(db, live.id)


def done(db: Database, copy_id: int, now: float, *, how: str) -> None:
    """Record that a file was taken away; `how` says where to, in words."""
    copy = copies.existing(db, copy_id)
    copies.update(db, copy.id, due_at=None, aside=None)
    history.add(db, files.existing(db, copy.file_id), "consumed", now, copy=copy, detail=how)


def returned(db: Database, copy_id: int, policies: Policies, now: float, *, reason: str) -> None:
    """Record that a file stays, or is back, where it was: it is mirrored again.

    Where a new file has its name by now, its copy stays released.
    """
    copy = copies.existing(db, copy_id)
    copies.update(db, copy.id, due_at=None, aside=None)
    file = files.existing(db, copy.file_id)
    if file.status is not FileStatus.CONSUMED:
        return
    copies.move(db, copy, CopyStatus.LIVE, consumed_at=None, reason=reason)
    files.update(db, file.id, status=FileStatus.READY, due_at=None, error=reason)
    advance(db, file.id, policies, now)


def look_later(db: Database, copy_id: int, at: float) -> None:
    """Postpone the next look at a file that is half taken away."""
    copies.update(db, copy_id, due_at=at)


def look_now(db: Database, file: File, now: float) -> None:
    """Make a file due that was seen after it was taken away."""
    mine = [c for c in copies.of_file(db, file.id) if c.consumed_at is not None]
    taken = [copy for copy in mine if copy.sha256 == file.sha256]
    if taken and taken[-1].due_at is None:
        copies.update(db, taken[-1].id, due_at=now)
