"""The verbs of `after_upload`: before a file is taken away, and after.

| committed before                           | done                 | committed after      |
|--------------------------------------------|----------------------|----------------------|
| `begin`: file taken, its copy released,    | set aside, judged,   | `done` or `returned` |
| `aside`                                    | moved or deleted     |                      |

From `begin` on the absence of the file says nothing any more, and its copy is out of reach of all
that could delete it; a new file of that name is a new copy beside it. `aside` is the name of the
private directory that holds the file meanwhile. A cut in between leaves the copy due.
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

#: Seconds until a file that was to be taken away, and of which nobody told more, is looked at.
UNTOLD_SECONDS = 60.0
#: How the history says that a file was moved, before its new path; and that it was taken away by a
#: syncd that did not live to say where to.
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

    None of the files `without`, nor of the directories `parents`. None at all while the ledger has
    lost something, what it calls live need not be there any more; none while the folder is paused.
    """
    if holds.is_lost(db) or pauses.is_paused(db, folder):
        return []
    found = files.where(
        db,
        # At rest: what waits to be hashed or sent has a time, and is not even looked at.
        "status = 'ready' AND folder = ? AND due_at IS NULL "
        "AND EXISTS (SELECT 1 FROM copies WHERE file_id = files.id "
        "AND copies.status = 'live' AND copies.sha256 = files.sha256) "
        "AND NOT EXISTS (SELECT 1 FROM copies WHERE file_id = files.id "
        "AND (copies.status IN ('planned', 'sending', 'processing') "
        # Superseded before the folder was to be emptied: kept like the file's last copy, nobody
        # would delete it.
        "OR (copies.status = 'retiring' AND delete_sent_at IS NULL AND live_at IS NOT NULL))) "
        f"AND id NOT IN ({_marks(without)}) AND parent NOT IN ({_marks(parents)}) LIMIT ?",
        (folder, *without, *parents, limit),
    )
    with_copies = ((file, live_copy(db, file.id)) for file in found)
    return [(file, copy) for file, copy in with_copies if copy is not None]


def half_taken(db: Database, folder: str, now: float, limit: int) -> list[tuple[File, Copy]]:
    """Return the files of which a cut left open whether they were taken away, and their copies."""
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
    """Commit the intent to take a file away that still has `fingerprint`; None where it must stay.

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
    """Put off what is to be done with a half taken file."""
    copies.update(db, copy_id, due_at=at)


def look_now(db: Database, file: File, now: float) -> None:
    """Have a file looked at that was seen after it was taken away."""
    mine = [c for c in copies.of_file(db, file.id) if c.consumed_at is not None]
    taken = [copy for copy in mine if copy.sha256 == file.sha256]
    if taken and taken[-1].due_at is None:
        copies.update(db, taken[-1].id, due_at=now)
