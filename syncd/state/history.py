"""What was done to which path, why and when: kept 90 days, deletions a year."""

from collections.abc import Sequence

from sqlite_utils import Database

from syncd.state import attempts
from syncd.state.batches import batched, values
from syncd.state.copies import NEWEST_KEPT, Copy
from syncd.state.files import File
from syncd.state.texts import storable

_DAY = 86_400.0
KEPT_SECONDS = 90 * _DAY
DELETIONS_KEPT_SECONDS = 365 * _DAY


def add(
    db: Database, file: File, event: str, now: float, *, copy: Copy | None = None, detail: str = ""
) -> None:
    """Write one line of a file's story, of which the newest lines are kept."""
    db.conn.execute(
        "INSERT INTO history (at, folder, path, event, file_uuid, detail) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (now, file.folder, file.path, event, copy.file_uuid if copy else None, storable(detail)),
    )
    db.conn.execute(
        "DELETE FROM history WHERE folder = :folder AND path = :path AND id <= (SELECT id "
        "FROM history WHERE folder = :folder AND path = :path ORDER BY id DESC "
        "LIMIT 1 OFFSET :kept)",
        {"folder": file.folder, "path": file.path, "kept": NEWEST_KEPT},
    )


def synced_all(db: Database, synced: Sequence[tuple[float, str, bytes, str]]) -> None:
    """Write for each time, folder, path and uuid that it is synced.

    Only for paths with fewer than `NEWEST_KEPT` lines: none of these is forgotten.
    """
    for some in batched(synced):
        db.conn.execute(
            "INSERT INTO history (at, folder, path, event, file_uuid, detail) "
            f"SELECT column1, column2, column3, 'synced', column4, '' FROM ({values(some)})",
            [value for row in some for value in row],
        )


#: What is forgotten, by table.
_FORGOTTEN = (
    ("history", "(event = 'deleted') = 0 AND at < :ago"),
    ("history", "(event = 'deleted') = 1 AND at < :long_ago"),
    ("copies", "status = 'gone' AND gone_at < :long_ago"),
    # But what was there before the first scan: forgotten, it would be new to the next one.
    (
        "files",
        (
            "status IN ('missing', 'ineligible') AND due_at IS NULL AND is_skipped = 0 AND "
            "NOT EXISTS (SELECT 1 FROM copies WHERE copies.file_id = files.id)"
        ),
    ),
)


def prune(db: Database, now: float, *, limit: int = -1) -> int:
    """Forget what is older than it is kept for, but no more than `limit` rows; return how many."""
    forgotten = 0
    attempts.prune(db, now)
    known = {"long_ago": now - DELETIONS_KEPT_SECONDS, "ago": now - KEPT_SECONDS}
    for table, condition in _FORGOTTEN:
        forgotten += db.conn.execute(
            f"DELETE FROM {table} WHERE id IN "
            f"(SELECT id FROM {table} WHERE {condition} LIMIT :most)",
            known | {"most": max(limit - forgotten, 0) if limit >= 0 else -1},
        ).rowcount
    return forgotten
