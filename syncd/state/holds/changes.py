"""Most of a folder changed at once (`hold_changes`): the new content waits for a person.

What encrypts a disk, or rewrites all of it by mistake, would else supersede every remote copy.
"""

import logging

from syncd.state import copies, holds
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.holds import MANY_CHANGED, decisions
from syncd.state.lifecycle import Verdict

log = logging.getLogger(__name__)

#: Seconds within which changes count together.
WINDOW_SECONDS = 3600.0
#: A single file that changes is nothing to ask about.
LEAST = 2
#: SQL for files with new content beside a live copy, or one that superseded another lately.
_CHANGED = """
  FROM files WHERE folder = :folder AND generation > 1 AND changed_at > :since
    AND files.status IN ('ready', 'settling') AND EXISTS (
      SELECT 1 FROM copies WHERE file_id = files.id AND copies.status = 'live'
        AND (files.sha256 IS NULL OR copies.sha256 <> files.sha256 OR (live_at > :since AND EXISTS (
          SELECT 1 FROM copies AS old WHERE old.file_id = files.id AND old.live_at IS NOT NULL
            AND old.sha256 <> copies.sha256))))
"""


def hold(db: Database, file: File, now: float) -> bool:
    """Hold the new content of `file` if most of its folder changed within the hour."""
    if file.verdict is Verdict.APPROVED or not _supersedes(db, file):
        return False
    parameters = {"folder": file.folder, "since": now - WINDOW_SECONDS}
    changed = db.conn.execute(f"SELECT count(*) {_CHANGED}", parameters).fetchone()[0]
    synced = db.conn.execute(
        "SELECT count(*) FROM (SELECT 1 FROM files WHERE folder = ? AND EXISTS (SELECT 1 "
        "FROM copies WHERE file_id = files.id AND copies.status = 'live') LIMIT ?)",
        (file.folder, 2 * changed),
    ).fetchone()[0]
    if changed < LEAST or 2 * changed <= synced:
        return False
    held = decisions.name(
        db,
        [file.id],
        stops="sending",
        scope=holds.sending_scope(file.folder),
        reason=MANY_CHANGED,
        message="most of the folder changed within an hour; the previous remote copies stay: if "
        "that is right, approve it, and the new content is sent; else reject it, and these files "
        "are left alone until they change again",
        now=now,
    )
    if held.affects == 1:
        log.warning("%s: most of it changed within an hour; changes are held", file.folder)
    return True


def _supersedes(db: Database, file: File) -> bool:
    live = copies.where(db, "file_id = ? AND status = 'live'", (file.id,))
    return any(copy.sha256 != file.sha256 for copy in live)
