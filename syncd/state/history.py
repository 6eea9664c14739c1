"""What was done to which path, why and when: kept 90 days, deletions a year."""

from sqlite_utils import Database

from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.texts import storable

_DAY = 86_400.0
KEPT_SECONDS = 90 * _DAY
DELETIONS_KEPT_SECONDS = 365 * _DAY


def add(
    db: Database, file: File, event: str, now: float, *, copy: Copy | None = None, detail: str = ""
) -> None:
    """Write one line of a file's story."""
    db.conn.execute(
        "INSERT INTO history (at, folder, path, event, file_uuid, detail) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (now, file.folder, file.path, event, copy.file_uuid if copy else None, storable(detail)),
    )


def prune(db: Database, now: float) -> int:
    """Forget what is older than it is kept for; return how many rows went."""
    forgotten = db.conn.execute(
        "DELETE FROM history WHERE at < ? OR (at < ? AND event <> 'deleted')",
        (now - DELETIONS_KEPT_SECONDS, now - KEPT_SECONDS),
    ).rowcount
    forgotten += db.conn.execute(
        "DELETE FROM copies WHERE status = 'gone' AND gone_at < ?", (now - DELETIONS_KEPT_SECONDS,)
    ).rowcount
    db.conn.execute(
        # But what was there before the first scan: forgotten, it would be new to the next one.
        "DELETE FROM files WHERE status IN ('missing', 'ineligible') AND due_at IS NULL AND "
        "is_skipped = 0 AND "
        "NOT EXISTS (SELECT 1 FROM copies WHERE copies.file_id = files.id)"
    )
    return forgotten
