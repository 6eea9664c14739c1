"""What is due for each stage, and when the next thing will be.

What is overdue and could not be done (it is held, or a slot was missing) comes up with the next
round; `next_...` therefore only looks ahead, so that nothing spins.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from syncd.state import copies, files, holds
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.schema import LARGE_BYTES


def uploads(
    db: Database,
    now: float,
    limit: int,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    enough: Collection[tuple[str, bool]] = (),
    taken: Collection[int] = (),
) -> list[File]:
    """Return files to hash or send: of each folder the `limit` longest due, small and large.

    By folder, so that a fresh file of one does not wait for a hundred thousand of another, and by
    size, so that a note does not wait for a hundred videos. Leave out the folders `without`, all
    but those in `only`, the small or large files of a folder of which there are `enough`, and the
    ids in `taken`.
    """
    if holds.is_held(db, "sending", holds.EVERYWHERE):
        return []
    names = [
        name
        for (name,) in db.conn.execute("SELECT name FROM folders")
        if name not in without and (only is None or name in only)
    ]
    ids = [
        file_id
        for name in names
        for is_large in (False, True)
        if (name, is_large) not in enough
        for file_id in _uploads_of(db, name, now, limit, is_large=is_large)
        if file_id not in taken
    ]
    found = {file.id: file for file in _by_id(db, ids)}
    return [found[file_id] for file_id in dict.fromkeys(ids)]


#: SQL for a file and the part that it is beneath, where another is in the place of that.
_STOPPED = """
  parts.is_stopped AND parts.folder = files.folder AND (parts.path = x'' OR (
    files.path > CAST(parts.path || '/' AS BLOB) AND files.path < CAST(parts.path || '0' AS BLOB)))
"""
_AT_HOME = f"AND NOT EXISTS (SELECT 1 FROM parts WHERE {_STOPPED})"


def _uploads_of(db: Database, folder: str, now: float, limit: int, *, is_large: bool) -> list[int]:
    # The large ones by their own index; the small ones are not kept in one.
    size = f"files.size {'>' if is_large else '<='} {LARGE_BYTES}"
    rows = db.conn.execute(
        "SELECT id FROM (SELECT * FROM (SELECT id, due_at FROM files WHERE status = 'ready' "
        f"AND folder = :folder AND due_at <= :now AND {size} {_AT_HOME} "
        "ORDER BY due_at LIMIT :limit) "
        "UNION ALL SELECT files.id, copies.due_at FROM copies JOIN files ON files.id = file_id "
        "WHERE copies.status = 'planned' AND copies.due_at <= :now AND files.status = 'ready' "
        f"AND folder = :folder AND {size} {_AT_HOME} ORDER BY due_at LIMIT :limit)",
        {"folder": folder, "now": now, "limit": limit},
    )
    return [row[0] for row in rows]


def _by_id(db: Database, ids: Sequence[int]) -> list[File]:
    found: list[File] = []
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        found += files.where(db, f"id IN ({', '.join('?' * len(some))})", some)
    return found


def is_settling(db: Database, until: float, only: Collection[str]) -> bool:
    """Say whether a file of the folders `only` will have settled by `until`.

    One that is open for writing is its writer's.
    """
    return any(
        db.conn.execute(
            "SELECT 1 FROM files WHERE status = 'settling' AND folder = ? AND due_at <= ? "
            "AND NOT is_open LIMIT 1",
            (name, until),
        ).fetchone()
        for name in only
    )


def is_refused_due(db: Database, now: float) -> bool:
    """Say whether something that was refused for good is to be tried once more."""
    row = db.conn.execute(
        "SELECT 1 FROM copies WHERE status = 'failed' AND due_at <= ? LIMIT 1", (now,)
    ).fetchone()
    return row is not None


def are_uploads_waiting(db: Database) -> bool:
    """Say whether anything waits to be sent, due or not."""
    row = db.conn.execute(
        "SELECT 1 FROM copies WHERE status = 'planned' AND due_at IS NOT NULL UNION ALL "
        "SELECT 1 FROM folders CROSS JOIN files ON folder = name "
        "WHERE files.status = 'ready' AND due_at IS NOT NULL LIMIT 1"
    ).fetchone()
    return row is not None


def is_in_use(db: Database, workspace: str | None) -> bool:
    """Say whether a folder sends to `workspace`, or a copy there has still something before it."""
    row = db.conn.execute(
        "SELECT 1 FROM folders WHERE coalesce(workspace, '') = :scope UNION ALL "
        "SELECT 1 FROM copies WHERE status NOT IN ('live', 'gone') AND status <> 'released' "
        "AND workspace_uuid IS :workspace LIMIT 1",
        {"scope": workspace or "", "workspace": workspace},
    ).fetchone()
    return row is not None


def next_upload(db: Database, now: float) -> float | None:
    """Return when the next upload becomes due, in seconds since the epoch."""
    return _earliest(db, now, files_status="ready", copies_status="planned")


def polls(db: Database, now: float, limit: int) -> list[Copy]:
    """Return the copies to be asked for, the longest due first: videos, and what was released."""
    return copies.where(
        db,
        "status IN ('processing', 'released') AND due_at <= ? AND consumed_at IS NULL "
        "ORDER BY due_at LIMIT ?",
        (now, limit),
    )


def next_poll(db: Database, now: float) -> float | None:
    """Return when the next of them is to be asked for."""
    due = (_earliest(db, now, copies_status=status) for status in ("processing", "released"))
    return min((at for at in due if at is not None), default=None)


def missing(db: Database, now: float, folder: str, limit: int) -> list[File]:
    """Return a folder's missing files whose grace is over; none while all its deletions are held.

    What a hold names is not due before a person has decided.
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
    """Return the copies to be deleted, the longest due first: of missing files, or of others."""
    return copies.where(
        db,
        "status = 'retiring' AND due_at <= ? AND "
        "((SELECT status FROM files WHERE id = file_id) = 'missing') = ? ORDER BY due_at LIMIT ?",
        (now, missing, limit),
    )


def next_deletion(db: Database, now: float) -> float | None:
    """Return when the next missing file is looked at, or the next copy deleted."""
    return _earliest(db, now, files_status="missing", copies_status="retiring")


def doubts(db: Database) -> list[Copy]:
    """Return every copy of which not even an object is known, due or not, oldest first."""
    # The index of what is under way wants its own words.
    return copies.where(
        db,
        "status NOT IN ('live', 'gone') AND status = 'sending' AND in_flight = 0 "
        "AND file_uuid IS NULL ORDER BY id",
    )


def live_samples(db: Database) -> list[Copy]:
    """Return a few live copies, the newest: each should be there for whoever has the right key."""
    return copies.where(db, "status = 'live' AND file_uuid IS NOT NULL ORDER BY id DESC LIMIT 3")


def workspaces(db: Database) -> list[str | None]:
    """Return the workspaces in which the ledger holds copies, or held some."""
    rows = db.conn.execute("SELECT DISTINCT workspace_uuid FROM copies")
    return [row[0] for row in rows]


#: Refusals in a pass after which a file is left to the next one: each sends it whole.
REFUSED_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Outstanding:
    """How far a pass is: counts of files."""

    synced: int
    waiting: int
    failed: int
    #: of those that wait: not quiet yet, and in the service's hands
    settling: int = 0
    processing: int = 0


#: Each status of each folder, as the index goes: rows that are not due are not met.
_DUE_FILES = """
  WITH waiting (word) AS (VALUES ('settling'), ('ready'), ('missing'))
  SELECT word, name, count(*), sum(EXISTS (SELECT 1 FROM decisions WHERE file_id = files.id))
  FROM waiting CROSS JOIN folders
  CROSS JOIN files ON files.status = word AND folder = name AND due_at IS NOT NULL GROUP BY 1, 2
"""
#: A superseded copy that is kept for longer than so many seconds is not waited for.
SHORT_SECONDS = 60.0
#: `held` where an upload of the same file is: what is to be looked up, or goes only after it.
_OPEN_COPIES = """
  SELECT copies.status, folder,
    CASE WHEN copies.status = 'processing' THEN stored_at < :stalled
      ELSE copies.attempts >= iif(refusals > 0, :refused, :attempts) END AS tired,
    file_id IN (
      SELECT file_id FROM copies WHERE id IN (
        SELECT CAST(substr(scope, 6) AS INTEGER) FROM holds
        WHERE released_at IS NULL AND scope LIKE 'copy %')) AS held, count(*)
  FROM copies JOIN files ON files.id = file_id
  WHERE copies.status NOT IN ('live', 'gone')
    AND (copies.status IN ('planned', 'sending', 'processing', 'failed', 'retiring')
      OR (copies.status = 'released' AND copies.due_at IS NOT NULL AND consumed_at IS NULL))
    AND NOT (copies.status = 'retiring' AND delete_sent_at IS NULL AND (copies.due_at > :later
      OR file_id IN (SELECT file_id FROM decisions WHERE verdict = 'held')))
  GROUP BY 1, 2, 3, 4
"""


#: What neither gets any further for as long as another folder is in the place of theirs.
_STOPPED_WORK = f"""
  WITH waiting (word) AS (VALUES ('settling'), ('ready'))
  SELECT files.folder, count(*) FROM waiting CROSS JOIN parts CROSS JOIN files
    ON files.status = word AND {_STOPPED} AND due_at IS NOT NULL GROUP BY 1
  UNION ALL SELECT files.folder, count(*) FROM copies CROSS JOIN files ON files.id = file_id
    CROSS JOIN parts ON {_STOPPED} WHERE copies.status = 'planned'
    AND copies.due_at IS NOT NULL GROUP BY 1
"""


def outstanding(
    db: Database,
    *,
    now: float,
    attempts: int,
    deletions: bool,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    stalled_before: float = 0.0,
) -> Outstanding:
    """Count what is live, what one pass still waits for, and what it cannot bring further.

    A copy that failed `attempts` times counts as failed, and so does whatever waits in the folders
    `without`; with `deletions`, files whose grace is not over are waited for, and what a person has
    decided on in any case. An upload that is held is not, nor is what goes only after it. Where the
    pass is for some folders `only`, nothing of the others counts but what is live. A video that was
    stored before `stalled_before` is not waited for.
    """
    waiting = failed = settling = processing = 0
    limits = {
        "attempts": attempts,
        "refused": min(attempts, REFUSED_ATTEMPTS),
        "stalled": stalled_before,
        "later": now + SHORT_SECONDS,
    }
    for status, folder, number, decided in db.conn.execute(_DUE_FILES):
        if only is not None and folder not in only:
            continue
        if status == FileStatus.READY and folder in without:
            failed += number
        elif status == FileStatus.MISSING and not deletions:
            waiting += decided
        else:
            waiting += number
            settling += number if status == FileStatus.SETTLING else 0
    for status, folder, tired, held, number in db.conn.execute(_OPEN_COPIES, limits):
        if only is not None and folder not in only:
            continue
        planned = status == CopyStatus.PLANNED
        gives_up = tired and status != CopyStatus.SENDING
        if gives_up or status == CopyStatus.FAILED or (planned and folder in without):
            failed += number
        elif planned or status == CopyStatus.PROCESSING or not held:
            waiting += number
            processing += number if status == CopyStatus.PROCESSING else 0
    for folder, number in db.conn.execute(
        "SELECT folder, count(*) FROM files WHERE status = 'unreadable' GROUP BY folder"
    ):
        failed += number if only is None or folder in only else 0
    for folder, number in db.conn.execute(_STOPPED_WORK):
        waiting -= number if only is None or folder in only else 0
    return Outstanding(copies.count_live(db), waiting, failed, settling, processing)


def _earliest(
    db: Database, now: float, *, copies_status: str, files_status: str | None = None
) -> float | None:
    row = db.conn.execute(
        # Folder by folder, as the index goes.
        "SELECT min(due_at) FROM (SELECT (SELECT min(due_at) FROM files WHERE status = :files "
        "AND folder = folders.name AND due_at > :now) AS due_at FROM folders UNION ALL "
        "SELECT min(due_at) FROM copies WHERE status = :copies AND due_at > :now)",
        {"files": files_status, "copies": copies_status, "now": now},
    ).fetchone()
    return None if row[0] is None else float(row[0])
