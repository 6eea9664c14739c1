"""Queries for the work that is due in each stage, and for when the next work will be.

Overdue work that could not be done (because of a hold or a missing slot) comes up in the next
round. `next_...` therefore only looks ahead, so that no step spins.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

from syncd.state import copies, files, holds
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.database.schema import LARGE_BYTES
from syncd.state.files import File
from syncd.state.holds import pauses, standstill
from syncd.state.lifecycle import CopyStatus, FileStatus


def uploads(
    db: Database,
    now: float,
    limit: int,
    *,
    only: Collection[str] | None = None,
    closed: Collection[str] = (),
    enough: Collection[tuple[str, bool]] = (),
    taken: Collection[int] = (),
) -> list[File]:
    """Return files to hash or send: the `limit` longest due per folder, small and large apart.

    Each folder has its own limit, so that a new file in one does not wait for a hundred thousand in
    another, and so has each size, so that a note does not wait for a hundred videos. Leave out the
    folders at a standstill, the folders `closed`, all but those in `only`, the small or large
    files of a folder that has `enough` of them, and the ids in `taken`.
    """
    if holds.is_held(db, "sending", holds.EVERYWHERE):
        return []
    left_out = {*closed, *standstill.scopes(db)}
    names = [
        name
        for (name,) in db.conn.execute("SELECT name FROM folders")
        if name not in left_out and (only is None or name in only)
    ]
    ids = [
        file_id
        for name in names
        for is_large in (False, True)
        if (name, is_large) not in enough
        for file_id in _uploads_of(db, name, now, limit, is_large=is_large)
        if file_id not in taken
    ]
    named = "id IN (SELECT value FROM json_each(?))"
    found = {file.id: file for file in files.where(db, named, (json.dumps(ids),))}
    return [found[file_id] for file_id in dict.fromkeys(ids)]


#: SQL that joins a file with the part that contains it, if that part is stopped.
_IN_STOPPED_PART = """
  parts.is_stopped AND parts.folder = files.folder AND (parts.path = x'' OR (
    files.path > CAST(parts.path || '/' AS BLOB) AND files.path < CAST(parts.path || '0' AS BLOB)))
"""
_AT_HOME = f"AND NOT EXISTS (SELECT 1 FROM parts WHERE {_IN_STOPPED_PART})"


def _uploads_of(db: Database, folder: str, now: float, limit: int, *, is_large: bool) -> list[int]:
    # Large files have an index of their own.
    size = f"files.size {'>' if is_large else '<='} {LARGE_BYTES}"
    # One row holds all ids, because SQLite lets other threads in after each row.
    found = db.value(
        "SELECT json_group_array(id) FROM (SELECT * FROM (SELECT id, due_at FROM files "
        f"WHERE status = 'ready' AND folder = :folder AND due_at <= :now AND {size} {_AT_HOME} "
        "ORDER BY due_at LIMIT :limit) "
        "UNION ALL SELECT files.id, copies.due_at FROM copies JOIN files ON files.id = file_id "
        "WHERE copies.status = 'planned' AND copies.due_at <= :now AND files.status = 'ready' "
        f"AND folder = :folder AND {size} {_AT_HOME} ORDER BY due_at LIMIT :limit)",
        {"folder": folder, "now": now, "limit": limit},
    )
    ids: list[int] = json.loads(found)
    return ids


def looks(db: Database, now: float, folder: str, limit: int) -> list[File]:
    """Return the settling and unreadable files of a folder whose next look is due."""
    return files.where(
        db,
        "status IN ('settling', 'unreadable') AND due_at <= ? "
        "AND folder = ? ORDER BY due_at LIMIT ?",
        (now, folder, limit),
    )


def is_settling(db: Database, until: float, only: Collection[str]) -> bool:
    """Return whether a file of the folders `only` will have settled by `until`.

    Files that are open for writing do not count, nor do those of folders at a standstill.
    """
    stopped = standstill.scopes(db)
    return any(
        db.value(
            "SELECT 1 FROM files WHERE status = 'settling' AND folder = ? AND due_at <= ? "
            "AND NOT is_open LIMIT 1",
            (name, until),
        )
        for name in only
        if not standstill.covers(stopped, name)
    )


def is_refused_due(db: Database, now: float) -> bool:
    """Return whether a copy that was refused for good is due for another try."""
    refused = "SELECT 1 FROM copies WHERE status = 'failed' AND due_at <= ? LIMIT 1"
    return db.value(refused, (now,)) is not None


def are_uploads_waiting(db: Database) -> bool:
    """Return whether anything waits to be sent, due or not."""
    waiting = (
        "SELECT 1 FROM copies WHERE status = 'planned' AND due_at IS NOT NULL UNION ALL "
        "SELECT 1 FROM folders CROSS JOIN files ON folder = name "
        "WHERE files.status = 'ready' AND due_at IS NOT NULL LIMIT 1"
    )
    return db.value(waiting) is not None


def is_in_use(db: Database, workspace: str | None) -> bool:
    """Return whether a folder sends to `workspace`, or a copy there is not yet finished."""
    used = db.value(
        "SELECT 1 FROM folders WHERE coalesce(workspace, '') = :scope UNION ALL "
        "SELECT 1 FROM copies WHERE status NOT IN ('live', 'gone') AND status <> 'released' "
        "AND workspace_uuid IS :workspace LIMIT 1",
        {"scope": workspace or "", "workspace": workspace},
    )
    return used is not None


def next_upload(db: Database, now: float) -> float | None:
    """Return when the next upload becomes due, in seconds since the epoch."""
    return _earliest(db, now, files_status="ready", copies_status="planned")


def missing(db: Database, now: float, folder: str, limit: int) -> list[File]:
    """Return a folder's missing files whose grace period is over; none if deletions are held.

    A file that a hold names is not due until a person decides.
    """
    if holds.stops_deletions(db, folder):
        return []
    return files.where(
        db,
        "status = 'missing' AND confirmed_at IS NULL AND due_at <= ? AND folder = ? "
        "ORDER BY due_at LIMIT ?",
        (now, folder, limit),
    )


def deletions(db: Database, now: float, limit: int, *, missing: bool) -> list[Copy]:
    """Return the copies to be deleted, the longest due first: of missing files, or of others.

    Leave out those of paused folders.
    """
    paused = pauses.scopes(db)
    if holds.EVERYWHERE in paused:
        return []
    is_paused = f"(SELECT {holds.paused('folder')} FROM files WHERE id = file_id)"
    return copies.where(
        db,
        "status = 'retiring' AND due_at <= ? AND "
        "((SELECT status FROM files WHERE id = file_id) = 'missing') = ? "
        f"{f'AND NOT {is_paused}' if paused else ''} ORDER BY due_at LIMIT ?",
        (now, missing, limit),
    )


def next_deletion(db: Database, now: float) -> float | None:
    """Return when the next look at a missing file or the next deletion is due."""
    return _earliest(db, now, files_status="missing", copies_status="retiring")


def doubts(db: Database) -> list[Copy]:
    """Return every copy in doubt that has no known object, due or not, oldest first."""
    # The index of copies under way needs exactly these words.
    return copies.where(
        db,
        "status NOT IN ('live', 'gone') AND status = 'sending' AND in_flight = 0 "
        "AND file_uuid IS NULL ORDER BY id",
    )


def live_samples(db: Database) -> list[Copy]:
    """Return the newest few live copies; the right key should be able to see each of them."""
    return copies.where(db, "status = 'live' AND file_uuid IS NOT NULL ORDER BY id DESC LIMIT 3")


def workspaces(db: Database) -> list[str | None]:
    """Return every workspace that has or had copies in the ledger."""
    rows = db.conn.execute("SELECT DISTINCT workspace_uuid FROM copies")
    return [row[0] for row in rows]


#: Refusals after which a pass gives up on a file, because each try sends it whole.
REFUSED_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class PassCounts:
    """The progress of files, as a pass of `syncd once` counts them."""

    synced: int
    waiting: int
    failed: int
    #: parts of `waiting`: not yet quiet, and being processed by the service
    settling: int = 0
    processing: int = 0
    #: not part of `waiting`: held with their whole folder, or as an upload that got no answer
    held: int = 0


#: Counts by status and folder, in the order of the index, which skips rows that are not due.
_DUE_FILES = """
  WITH waiting (file_status) AS (VALUES ('settling'), ('ready'), ('missing'))
  SELECT file_status, name, count(*), sum(EXISTS (SELECT 1 FROM decisions WHERE file_id = files.id))
  FROM waiting CROSS JOIN folders
  CROSS JOIN files ON files.status = file_status AND folder = name AND due_at IS NOT NULL
  GROUP BY 1, 2
"""
#: A pass does not wait for a superseded copy that is kept for longer than this many seconds.
SHORT_SECONDS = 60.0
#: Copies whose files a pass waits for, gives up on, or holds.
_IS_OPEN = """
  copies.status NOT IN ('live', 'gone')
    AND (copies.status IN ('planned', 'sending', 'processing', 'failed', 'retiring')
      OR (copies.status = 'released' AND copies.due_at IS NOT NULL AND consumed_at IS NULL))
    AND NOT (copies.status = 'retiring' AND delete_sent_at IS NULL AND (
      (copies.due_at > :later AND copies.attempts = 0)
      OR file_id IN (SELECT file_id FROM decisions WHERE verdict = 'held')))
"""
#: `is_over_limit` is true if a pass waits no longer: it was tried often enough, or is processed for
#: too long; `is_held` if an upload of the same file is held; `is_file_counted` if its file counts
#: without the copy: it is due by itself, or another copy of it is to be sent.
_OPEN_COPIES = f"""
  SELECT copies.status, folder,
    CASE WHEN copies.status = 'processing' THEN stored_at < :stalled
      ELSE copies.attempts >= iif(refusals > 0, :refused, :attempts) END AS is_over_limit,
    file_id IN (
      SELECT file_id FROM copies WHERE id IN (
        SELECT CAST(substr(scope, 6) AS INTEGER) FROM holds
        WHERE released_at IS NULL AND scope LIKE 'copy %')) AS is_held,
    (files.due_at IS NOT NULL AND files.status IN ('settling', 'ready')) OR
      (copies.status = 'retiring' AND EXISTS (SELECT 1 FROM copies AS other WHERE other.file_id =
        copies.file_id AND other.status IN ('planned', 'sending'))) AS is_file_counted,
    count(DISTINCT file_id)
  FROM copies JOIN files ON files.id = file_id
  WHERE {_IS_OPEN}
  GROUP BY 1, 2, 3, 4, 5
"""
_HAS_LIVE = (
    "EXISTS (SELECT 1 FROM copies AS live INDEXED BY copies_one_live "
    "WHERE live.file_id = {} AND live.status = 'live')"
)
#: Files that have a live copy, and yet are gone, or have other content, or wait, or are held.
_LIVE_AND_NOT_SYNCED = f"""
  WITH due (file_status) AS (VALUES ('settling'), ('ready'), ('missing'), ('unreadable'))
  SELECT count(*) FROM (
    SELECT files.id FROM due CROSS JOIN folders CROSS JOIN files ON files.status = file_status
      AND folder = name AND due_at IS NOT NULL AND {_HAS_LIVE.format("files.id")}
    UNION SELECT file_id FROM decisions
      WHERE verdict = 'held' AND {_HAS_LIVE.format("decisions.file_id")}
    UNION SELECT file_id FROM copies WHERE {_IS_OPEN} AND {_HAS_LIVE.format("copies.file_id")})
"""


#: Files and copies that cannot advance because their part is stopped.
_WORK_OF_STOPPED_PARTS = f"""
  WITH waiting (file_status) AS (VALUES ('settling'), ('ready'))
  SELECT files.folder, count(*) FROM waiting CROSS JOIN parts CROSS JOIN files
    ON files.status = file_status AND {_IN_STOPPED_PART} AND due_at IS NOT NULL GROUP BY 1
  UNION ALL SELECT files.folder, count(*) FROM copies CROSS JOIN files ON files.id = file_id
    CROSS JOIN parts ON {_IN_STOPPED_PART} WHERE copies.status = 'planned'
    AND copies.due_at IS NOT NULL GROUP BY 1
"""


def pass_counts(
    db: Database,
    *,
    now: float,
    attempts: int,
    deletions: bool,
    only: Collection[str] | None = None,
    closed: Collection[str] = (),
    stalled_before: float = 0.0,
) -> PassCounts:
    """Count synced files, files that a pass still waits for, and files that it gives up on.

    A copy that failed `attempts` times counts as failed, and so does what waits to be sent in the
    folders `closed`, whose workspace takes nothing. With `deletions`, the pass also waits for files
    whose grace period is not over; it always waits for files on which a person decided. It does not
    wait for a held upload, for work that follows one, for what a standstill or a pause stops, or
    for a video that was stored before `stalled_before`. If the pass is for the folders `only`,
    other folders count only towards the synced files.
    """
    waiting = failed = settling = processing = held = counted_twice = 0
    limits = {
        "attempts": attempts,
        "refused": min(attempts, REFUSED_ATTEMPTS),
        "stalled": stalled_before,
        "later": now + SHORT_SECONDS,
    }
    stopped, paused = standstill.scopes(db), pauses.scopes(db)
    for status, folder, number, decided in db.conn.execute(_DUE_FILES):
        if only is not None and folder not in only:
            continue
        if status == FileStatus.MISSING and standstill.covers(paused, folder):
            held += decided
        elif status != FileStatus.MISSING and standstill.covers(stopped, folder):
            held += number
        elif status == FileStatus.READY and folder in closed:
            failed += number
        elif status == FileStatus.MISSING and not deletions:
            waiting += decided
        else:
            waiting += number
            settling += number if status == FileStatus.SETTLING else 0
    for status, folder, is_over_limit, is_held, is_file_counted, number in db.conn.execute(
        _OPEN_COPIES, limits
    ):
        if only is not None and folder not in only:
            continue
        planned = status == CopyStatus.PLANNED
        if planned and standstill.covers(stopped, folder):
            held += number
            continue
        if status == CopyStatus.RETIRING and standstill.covers(paused, folder):
            continue
        is_given_up = is_over_limit and status != CopyStatus.SENDING
        if is_given_up or status == CopyStatus.FAILED or (planned and folder in closed):
            failed += number
        elif status == CopyStatus.PROCESSING:
            waiting += number
            processing += number
        elif planned or not is_held:
            waiting += number
            counted_twice += number if is_file_counted and folder not in closed else 0
        elif status == CopyStatus.SENDING:
            held += number
    for folder, number in db.conn.execute(
        "SELECT folder, count(*) FROM files WHERE status = 'unreadable' GROUP BY folder"
    ):
        failed += number if only is None or folder in only else 0
    for folder, number in db.conn.execute(_WORK_OF_STOPPED_PARTS):
        if (only is None or folder in only) and not standstill.covers(stopped, folder):
            waiting -= number
            held += number
    synced = copies.count_live(db) - int(db.value(_LIVE_AND_NOT_SYNCED, limits))
    # Each file counts once; a pass goes on as long as anything at all waits.
    waiting = max(waiting - counted_twice, min(waiting, 1))
    return PassCounts(synced, waiting, failed, settling, processing, held)


def _earliest(
    db: Database, now: float, *, copies_status: str, files_status: str | None = None
) -> float | None:
    at: float | None = db.value(
        # One query per folder uses the index.
        "SELECT min(due_at) FROM (SELECT (SELECT min(due_at) FROM files WHERE status = :files "
        "AND folder = folders.name AND due_at > :now) AS due_at FROM folders UNION ALL "
        "SELECT min(due_at) FROM copies WHERE status = :copies AND due_at > :now)",
        {"files": files_status, "copies": copies_status, "now": now},
    )
    return at
