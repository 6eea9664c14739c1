"""What is due for each stage, and when the next thing will be.

What is overdue and could not be done (it is held, or a slot was missing) comes up with the next
round; `next_...` therefore only looks ahead, so that nothing spins.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from syncd.state import copies, files, holds
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus
from syncd.state.store import fact


def uploads(db: Database, now: float, limit: int) -> list[File]:
    """Return files with something to hash or send: of each folder the `limit` longest due.

    By folder, so that a fresh file of one does not wait for a hundred thousand of another.
    """
    if holds.is_held(db, "sending", holds.EVERYWHERE):
        return []
    planned = db.conn.execute(
        "SELECT files.id, folder, copies.due_at FROM copies JOIN files ON files.id = file_id "
        "WHERE copies.status = 'planned' AND copies.due_at <= ? AND files.status = 'ready' "
        "ORDER BY copies.due_at LIMIT ?",
        (now, limit),
    )
    wanted: dict[str, list[tuple[float, int]]] = {}
    for row in planned:
        wanted.setdefault(row["folder"], []).append((row["due_at"], row["id"]))
    for (name,) in db.conn.execute("SELECT name FROM folders").fetchall():
        ready = db.conn.execute(
            "SELECT id, due_at FROM files WHERE status = 'ready' AND folder = ? AND due_at <= ? "
            "ORDER BY due_at LIMIT ?",
            (name, now, limit),
        )
        wanted.setdefault(name, []).extend((row["due_at"], row["id"]) for row in ready)
    ids = [file_id for known in wanted.values() for _, file_id in sorted(known)[:limit]]
    found = {file.id: file for file in _by_id(db, ids)}
    return [found[file_id] for file_id in dict.fromkeys(ids)]


def _by_id(db: Database, ids: Sequence[int]) -> list[File]:
    found: list[File] = []
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        found += files.where(db, f"id IN ({', '.join('?' * len(some))})", some)
    return found


def next_upload(db: Database, now: float) -> float | None:
    """Return when the next upload becomes due, in seconds since the epoch."""
    return _earliest(db, now, files_status="ready", copies_status="planned")


def polls(db: Database, now: float, limit: int) -> list[Copy]:
    """Return the videos to be looked at, the longest due first."""
    return copies.where(
        db, "status = 'processing' AND due_at <= ? ORDER BY due_at LIMIT ?", (now, limit)
    )


def next_poll(db: Database, now: float) -> float | None:
    """Return when the next video is to be looked at."""
    return _earliest(db, now, files_status=None, copies_status="processing")


def missing(db: Database, now: float, folder: str, limit: int) -> list[File]:
    """Return a folder's missing files whose grace is over; none while its deletions are held."""
    if holds.is_held(db, "deletions", folder):
        return []
    return files.where(
        db,
        "status = 'missing' AND confirmed_at IS NULL AND due_at <= ? AND folder = ? "
        "ORDER BY due_at LIMIT ?",
        (now, folder, limit),
    )


def deletions(db: Database, now: float, limit: int) -> list[Copy]:
    """Return the copies to be deleted, the longest due first."""
    return copies.where(
        db, "status = 'retiring' AND due_at <= ? ORDER BY due_at LIMIT ?", (now, limit)
    )


def next_deletion(db: Database, now: float) -> float | None:
    """Return when the next missing file is looked at, or the next copy deleted."""
    return _earliest(db, now, files_status="missing", copies_status="retiring")


def doubts(db: Database) -> list[Copy]:
    """Return every copy in doubt, due or not, oldest first."""
    return copies.where(db, "status = 'sending' AND in_flight = 0 ORDER BY id")


def echo_sample(db: Database, known: str) -> Copy | None:
    """Return a stored copy to look for in a listing; None where the fact `known` is there."""
    if fact(db, known) is not None:
        return None
    stored = copies.where(
        db, "status IN ('live', 'processing') AND file_uuid IS NOT NULL ORDER BY id LIMIT 1"
    )
    return stored[0] if stored else None


def workspaces(db: Database) -> list[str | None]:
    """Return the workspaces in which the ledger holds copies."""
    rows = db.conn.execute("SELECT DISTINCT workspace_uuid FROM copies WHERE status <> 'gone'")
    return [row[0] for row in rows]


def strays(db: Database, found: Iterable[tuple[str, str]]) -> list[tuple[Copy, str]]:
    """Return, of the tokens and uuids `found` remotely, those that are twins of known copies.

    A token whose copy is still on its way proves nothing: the object may be that very copy.
    """
    twins = []
    for token, file_uuid in found:
        known = copies.where(db, "token = ? ORDER BY id", (token,))
        settled = [c for c in known if c.file_uuid is not None or c.status is CopyStatus.GONE]
        under_way = any(c.status in (CopyStatus.PLANNED, CopyStatus.SENDING) for c in known)
        if settled and not under_way and file_uuid not in {c.file_uuid for c in known}:
            twins.append((settled[0], file_uuid))
    return twins


@dataclass(frozen=True, slots=True)
class Outstanding:
    """How far a pass is: counts of files."""

    synced: int
    waiting: int
    failed: int


def outstanding(db: Database, *, attempts: int, deletions: bool) -> Outstanding:
    """Count what is live, what one pass still waits for, and what it cannot bring further.

    A copy that failed `attempts` times counts as failed; with `deletions`, files whose grace is
    not over are waited for.
    """
    row = db.conn.execute(
        "SELECT (SELECT count(*) FROM copies WHERE status = 'live'), "
        "(SELECT count(*) FROM files WHERE due_at IS NOT NULL AND (status IN ('settling', 'ready') "
        "OR (:deletions AND status = 'missing'))) + (SELECT count(*) FROM copies WHERE "
        "status NOT IN ('live', 'gone') AND "
        "(status IN ('processing', 'retiring') OR (status = 'planned' AND attempts < :attempts) "
        "OR (status = 'sending' AND NOT EXISTS (SELECT 1 FROM holds WHERE released_at IS NULL "
        "AND scope = 'copy ' || copies.id)))), "
        "(SELECT count(*) FROM files WHERE status = 'unreadable') + (SELECT count(*) FROM copies "
        "WHERE status NOT IN ('live', 'gone') AND "
        "(status = 'failed' OR (status = 'planned' AND attempts >= :attempts)))",
        {"attempts": attempts, "deletions": deletions},
    ).fetchone()
    return Outstanding(*row)


def _earliest(
    db: Database, now: float, *, files_status: str | None, copies_status: str
) -> float | None:
    row = db.conn.execute(
        # Folder by folder, as the index goes.
        "SELECT min(due_at) FROM (SELECT (SELECT min(due_at) FROM files WHERE status = :files "
        "AND folder = folders.name AND due_at > :now) AS due_at FROM folders UNION ALL "
        "SELECT min(due_at) FROM copies WHERE status = :copies AND due_at > :now)",
        {"files": files_status, "copies": copies_status, "now": now},
    ).fetchone()
    return None if row[0] is None else float(row[0])
