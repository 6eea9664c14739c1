"""Copies that others deleted remotely: what becomes of their files (`remote_gone`), and when.

A file whose copy vanished is sent again, forgotten, or held for a person to decide. Many at once
are always held: what emptied the service must not set off a storm of uploads.
"""

import json
import logging

from sqlite_utils import Database

from syncd.state import copies, files, history, holds
from syncd.state.advance import Policies, advance
from syncd.state.holds import REMOTE_GONE
from syncd.state.lifecycle import CopyStatus, FileStatus, Verdict
from syncd.state.planner import Policy
from syncd.state.schema import LOST
from syncd.state.texts import shown
from syncd.state.vanished import WINDOW_SECONDS, synced

log = logging.getLogger(__name__)

_PRESENT = (FileStatus.READY, FileStatus.SETTLING, FileStatus.UNREADABLE)


def record(db: Database, copy_id: int, policies: Policies, now: float) -> Verdict | None:
    """Record that a live copy, or one in processing, is proven gone without our doing.

    Returns what follows for its file: held (`Verdict.GONE`) or forgotten; None where it is sent
    again, or wants no copy of this content any more.
    """
    copy = copies.get(db, copy_id)
    if copy is None or copy.status not in (CopyStatus.LIVE, CopyStatus.PROCESSING):
        return None
    file = files.existing(db, copy.file_id)
    copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason=LOST)
    verdict = None
    if file.status in _PRESENT and file.sha256 == copy.sha256:
        verdict = _verdict(db, file.folder, policies.get(file.folder, Policy()), now)
    if verdict is not None:
        files.update(db, file.id, verdict=verdict)
    history.add(db, file, "lost", now, copy=copy, detail=LOST)
    if verdict is Verdict.GONE:
        _hold(db, file.folder, now)
    advance(db, file.id, policies, now)
    return verdict


def _verdict(db: Database, folder: str, policy: Policy, now: float) -> Verdict | None:
    if policy.remote_gone == "forget":
        return Verdict.FORGOTTEN
    if policy.remote_gone == "hold":
        return Verdict.GONE
    lost = _lately(db, folder, now)
    if not policy.limits.are_exceeded(lost, 0):
        return None
    there = synced(db, folder, policy.limits.enough(lost)) + lost
    return Verdict.GONE if policy.limits.are_exceeded(lost, there) else None


def _lately(db: Database, folder: str, now: float) -> int:
    row = db.conn.execute(
        "SELECT count(*) FROM copies JOIN files ON files.id = file_id "
        f"WHERE reason = '{LOST}' AND gone_at > ? AND folder = ?",
        (now - WINDOW_SECONDS, folder),
    ).fetchone()
    return int(row[0])


def _hold(db: Database, folder: str, now: float) -> None:
    """Hold one more file; an open hold is counted up, for a whole count would cost too much."""
    known = db.conn.execute(
        "UPDATE holds SET affects = affects + 1 WHERE stops = 'sending' AND scope = ? "
        "AND reason = ? AND released_at IS NULL",
        (holds.of_folder(folder), REMOTE_GONE),
    ).rowcount
    if not known:
        review(db, folder, now)


def count(db: Database, folder: str) -> int:
    """Return how many files of a folder are held because their copies are gone remotely."""
    row = db.conn.execute(
        "SELECT count(*) FROM files WHERE verdict = 'gone' AND folder = ?", (folder,)
    )
    return int(row.fetchone()[0])


def is_review_due(db: Database, folder: str) -> bool:
    """Say whether the hold on such files is not up to date."""
    row = db.conn.execute(
        "SELECT affects, first FROM holds WHERE stops = 'sending' AND scope = ? AND reason = ? "
        "AND released_at IS NULL",
        (holds.of_folder(folder), REMOTE_GONE),
    ).fetchone()
    if row is None:
        return False
    affects = count(db, folder)
    # What `_hold` counts up names no more files than the first.
    return (row[0], len(json.loads(row[1]))) != (affects, min(affects, holds.FIRST))


def review(db: Database, folder: str, now: float) -> None:
    """Bring the hold on such files up to date; release it where none is left."""
    scope, affects = holds.of_folder(folder), count(db, folder)
    if not affects:
        holds.release(db, stops="sending", scope=scope, reason=REMOTE_GONE, now=now)
        return
    rows = db.conn.execute(
        "SELECT path FROM files WHERE verdict = 'gone' AND folder = ? ORDER BY path LIMIT ?",
        (folder, holds.FIRST),
    )
    is_new = holds.place(
        db,
        stops="sending",
        scope=scope,
        reason=REMOTE_GONE,
        message="files that are still here were deleted remotely, and not by syncd: if that is "
        "right, approve it, and they are left alone until they change; else reject it, and they "
        "are sent again",
        affects=affects,
        first=[shown(row[0]) for row in rows],
        commands=("syncd deletes approve {id}", "syncd deletes reject {id}"),
        now=now,
    )
    if is_new:
        log.warning("%s: files were deleted remotely by others; they are held", folder)


def forget(db: Database, folder: str, hold_id: int) -> int:
    """Leave held files alone until they change; return how many."""
    return db.conn.execute(
        "UPDATE files SET verdict = 'forgotten', hold_id = ? WHERE verdict = 'gone' AND folder = ?",
        (hold_id, folder),
    ).rowcount


def send_again(db: Database, folder: str, hold_id: int, now: float) -> int:
    """Send held files again, or those that were forgotten under that hold; return how many."""
    return db.conn.execute(
        "UPDATE files SET verdict = NULL, hold_id = NULL, due_at = CASE status WHEN 'ready' "
        "THEN ? ELSE due_at END WHERE folder = ? AND (verdict = 'gone' "
        "OR (verdict = 'forgotten' AND hold_id = ?))",
        (now, folder, hold_id),
    ).rowcount
