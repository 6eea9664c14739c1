"""The verbs of `after_upload`: before a file is taken away, and after.

| committed before                          | done           | committed after | cut in between |
|-------------------------------------------|----------------|-----------------|----------------|
| `begin`: file consumed, its copy released | move or delete | `done`          | done again     |

From `begin` on the absence of the file says nothing any more, and its copy is out of reach of all
that could delete it; a new file of that name is a new copy beside it.
"""

from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.state import copies, files, history, holds
from syncd.state.advance import Policies, advance
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus, FileStatus

#: Seconds until a file that was to be taken away, and of which nobody told more, is looked at.
UNTOLD_SECONDS = 60.0


def due(db: Database, folder: str, now: float, limit: int) -> list[File]:
    """Return files whose content is live and nothing else on its way, or that are half taken.

    None while the ledger has lost something: what it calls live need not be there any more.
    """
    if holds.is_lost(db):
        return []
    return files.where(
        db,
        # In two, each by its index: most of such a folder's files were taken away long ago.
        "id IN (SELECT id FROM (SELECT id FROM files AS ready "
        "WHERE status = 'ready' AND folder = :folder "
        "AND EXISTS (SELECT 1 FROM copies WHERE file_id = ready.id "
        "AND copies.status = 'live' AND copies.sha256 = ready.sha256) "
        "AND NOT EXISTS (SELECT 1 FROM copies WHERE file_id = ready.id "
        "AND (copies.status IN ('planned', 'sending', 'processing') "
        # Superseded, and not deleted yet: kept like the file's last copy, nobody would delete it.
        "OR (copies.status = 'retiring' AND delete_sent_at IS NULL AND live_at IS NOT NULL))) "
        "LIMIT :limit) "
        "UNION ALL SELECT id FROM files "
        "WHERE status = 'consumed' AND folder = :folder AND due_at <= :now) "
        "ORDER BY id LIMIT :limit",
        {"folder": folder, "now": now, "limit": limit},
    )


def live_copy(db: Database, file_id: int) -> Copy | None:
    """Return the live copy of a file, for which it may be taken away."""
    known = copies.of_file(db, file_id)
    return next((copy for copy in known if copy.status is CopyStatus.LIVE), None)


def begin(db: Database, file_id: int, fingerprint: Fingerprint, now: float) -> bool:
    """Commit the intent to take a file away that still has `fingerprint`; False where it must stay.

    Done again for one that is half taken, it says whether to go on.
    """
    file = files.get(db, file_id)
    if file is None or file.fingerprint != fingerprint:
        return False
    known = copies.of_file(db, file_id)
    if file.status is FileStatus.CONSUMED:
        files.update(db, file_id, due_at=now + UNTOLD_SECONDS)
        return _taken(file, known) is not None
    live = live_copy(db, file_id)
    if file.status is not FileStatus.READY or live is None or live.sha256 != file.sha256:
        return False
    if any(copy.in_flight for copy in known):
        return False
    copies.move(
        db, live, CopyStatus.RELEASED, due_at=None, consumed_at=now, reason="its file is taken away"
    )
    files.update(db, file_id, status=FileStatus.CONSUMED, due_at=now + UNTOLD_SECONDS, error=None)
    return True


def done(db: Database, file_id: int, now: float, *, how: str) -> None:
    """Record that a file was taken away; `how` says where to, in words."""
    file = files.get(db, file_id)
    if file is None:
        return
    if file.status is FileStatus.CONSUMED:
        files.update(db, file_id, due_at=None)
    history.add(
        db, file, "consumed", now, copy=_taken(file, copies.of_file(db, file_id)), detail=how
    )


def stays(db: Database, file_id: int, policies: Policies, now: float, *, reason: str) -> None:
    """Record that a file could not be taken away and is where it was: it is mirrored again."""
    file = files.get(db, file_id)
    if file is None or file.status is not FileStatus.CONSUMED:
        return
    if (copy := _taken(file, copies.of_file(db, file_id))) is not None:
        copies.move(db, copy, CopyStatus.LIVE, consumed_at=None, reason=reason)
    files.update(db, file_id, status=FileStatus.READY, due_at=None, error=reason)
    advance(db, file_id, policies, now)


def look_later(db: Database, file_id: int, at: float) -> None:
    """Put off what is to be done with a half taken file."""
    db.conn.execute(
        "UPDATE files SET due_at = ? WHERE id = ? AND status = 'consumed'", (at, file_id)
    )


def _taken(file: File, known: list[Copy]) -> Copy | None:
    """Return the copy of the content with which the file was taken away last."""
    mine = [c for c in known if c.consumed_at is not None and c.sha256 == file.sha256]
    return mine[-1] if mine else None
