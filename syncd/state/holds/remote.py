"""Copies that others deleted remotely: what becomes of their files (`remote_gone`), and when.

A file whose copy vanished is sent again, forgotten, or held for a person to decide. Many at once
are always held: what emptied the service must not set off a storm of uploads.
"""

import logging

from syncd.state import copies, files, history, holds
from syncd.state.apply_plan import Policies, advance
from syncd.state.database.connection import Database
from syncd.state.database.schema import LOST
from syncd.state.holds import REMOTE_GONE, decisions
from syncd.state.holds.decisions import STORED
from syncd.state.holds.missing import WINDOW_SECONDS
from syncd.state.lifecycle import CopyStatus, FileStatus, Verdict
from syncd.state.planner import Policy

log = logging.getLogger(__name__)

_PRESENT = (FileStatus.READY, FileStatus.SETTLING, FileStatus.UNREADABLE)


def record(db: Database, copy_id: int, policies: Policies, now: float) -> Verdict | None:
    """Record that a live copy, or one in processing, is proven gone without our doing.

    Returns what follows for its file: held or forgotten; None where it is sent again, or wants no
    copy of this content any more.
    """
    copy = copies.get(db, copy_id)
    if copy is None or copy.status not in (CopyStatus.LIVE, CopyStatus.PROCESSING):
        return None
    file = files.existing(db, copy.file_id)
    copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason=LOST)
    verdict = None
    if file.status in _PRESENT and file.sha256 == copy.sha256:
        verdict = _verdict(db, file.folder, policies.get(file.folder, Policy()), now)
    if verdict is Verdict.FORGOTTEN:
        files.update(db, file.id, verdict=verdict)
    history.add(db, file, "lost", now, copy=copy, detail=LOST)
    if verdict is Verdict.HELD:
        _hold(db, file.folder, file.id, now)
    advance(db, file.id, policies, now)
    return verdict


def _verdict(db: Database, folder: str, policy: Policy, now: float) -> Verdict | None:
    if policy.remote_gone == "forget":
        return Verdict.FORGOTTEN
    if policy.remote_gone == "hold":
        return Verdict.HELD
    lost = _lately(db, folder, now)
    if not policy.limits.are_exceeded(lost, 0):
        return None
    there = db.conn.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM files WHERE folder = ? AND {STORED} LIMIT ?)",
        (folder, policy.limits.enough(lost)),
    ).fetchone()[0]
    return Verdict.HELD if policy.limits.are_exceeded(lost, there + lost) else None


def _lately(db: Database, folder: str, now: float) -> int:
    row = db.conn.execute(
        "SELECT count(*) FROM copies JOIN files ON files.id = file_id "
        f"WHERE reason = '{LOST}' AND gone_at > ? AND folder = ?",
        (now - WINDOW_SECONDS, folder),
    ).fetchone()
    return int(row[0])


def _hold(db: Database, folder: str, file_id: int, now: float) -> None:
    hold = decisions.name(
        db,
        [file_id],
        stops="sending",
        scope=holds.sending_scope(folder),
        reason=REMOTE_GONE,
        message="files that are still here were deleted remotely, and not by syncd: if that is "
        "right, approve it, and they are left alone until they change; else reject it, and they "
        "are sent again",
        now=now,
    )
    if hold.affects == 1:
        log.warning("%s: files were deleted remotely by others; they are held", folder)
