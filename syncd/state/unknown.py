"""Remote objects that carry this instance's token, and of which its ledger knows nothing.

They are ours, and never deleted: what was lost with the ledger may be what would forbid it.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from sqlite_utils import Database


class Unknown(NamedTuple):
    """One such object; times in seconds since the epoch."""

    file_uuid: str
    token: str
    workspace_uuid: str | None
    size: int | None
    remote_file_path: str | None
    found_at: float
    #: when `syncd adopt` found no file for it, and left it at that
    accepted_at: float | None = None


_COLUMNS = ", ".join(Unknown._fields)


def select(db: Database, seen: Iterable[Unknown]) -> list[Unknown]:
    """Return those of `seen` whose token and uuid stand nowhere in the ledger."""
    return [
        item
        for item in seen
        if not db.conn.execute(
            "SELECT 1 FROM copies WHERE token = ? OR file_uuid = ? LIMIT 1",
            (item.token, item.file_uuid),
        ).fetchone()
    ]


def note(db: Database, found: Iterable[Unknown]) -> int:
    """Keep each that was not kept before; return how many are new."""
    marks = ", ".join("?" * len(Unknown._fields))
    return sum(
        db.conn.execute(
            f"INSERT OR IGNORE INTO unknown_objects ({_COLUMNS}) VALUES ({marks})", item
        ).rowcount
        for item in found
    )


def accept(db: Database, now: float) -> None:
    """Leave those that are kept now at being unknown: they are no trouble any more."""
    db.conn.execute("UPDATE unknown_objects SET accepted_at = ? WHERE accepted_at IS NULL", (now,))


def keep_only(db: Database, workspace: str | None, there: Collection[str]) -> None:
    """Forget the objects of a workspace that are not `there` any more, or known by now."""
    for item in every(db):
        known = db.conn.execute(
            "SELECT 1 FROM copies WHERE file_uuid = ?", (item.file_uuid,)
        ).fetchone()
        if known or (item.workspace_uuid == workspace and item.file_uuid not in there):
            db.conn.execute("DELETE FROM unknown_objects WHERE file_uuid = ?", (item.file_uuid,))


def every(db: Database) -> list[Unknown]:
    """Return all that are kept, the newest last."""
    rows = db.conn.execute(f"SELECT {_COLUMNS} FROM unknown_objects ORDER BY found_at, file_uuid")
    return [Unknown(*row) for row in rows]


def troubling(db: Database) -> int:
    """Return how many were found that nobody has looked into."""
    row = db.conn.execute("SELECT count(*) FROM unknown_objects WHERE accepted_at IS NULL")
    return int(row.fetchone()[0])
