"""The history as `log` reads it: in batches, each of them a short transaction of its own."""

from collections.abc import Callable
from typing import NamedTuple

from syncd.state.database.connection import Database
from syncd.state.planner import FILE_GONE
from syncd.state.texts import JsonObject, path_members, timestamp

#: Lines that are read at once.
BATCH = 1000


#: Whether a line is asked for, by its folder, path and event.
Wanted = Callable[[str, bytes, str], bool]


class Lines(NamedTuple):
    """Some lines of the history, the oldest first."""

    lines: list[JsonObject]
    #: the number of the last line that was looked at, and whether it is the newest
    last: int
    is_end: bool


def after(db: Database, last: int, wanted: Wanted, *, since: float = 0.0) -> Lines:
    """Return the next lines after number `last` that are `wanted`."""
    rows = db.conn.execute(
        f"{_LINES} WHERE id > ? AND at >= ? ORDER BY id LIMIT ?", (last, since, BATCH)
    ).fetchall()
    lines = [_line(row) for row in rows if wanted(row["folder"], row["path"], row["event"])]
    return Lines(lines, rows[-1]["id"] if rows else last, len(rows) < BATCH)


def before(db: Database, first: int, wanted: Wanted, *, since: float = 0.0) -> Lines:
    """Return the lines before number `first`, and as `last` the number of the oldest."""
    rows = db.conn.execute(
        f"{_LINES} WHERE id < ? AND at >= ? ORDER BY id DESC LIMIT ?", (first, since, BATCH)
    ).fetchall()
    lines = [
        _line(row) for row in reversed(rows) if wanted(row["folder"], row["path"], row["event"])
    ]
    return Lines(lines, rows[-1]["id"] if rows else first, len(rows) < BATCH)


def last_number(db: Database) -> int:
    """Return the number of the newest line that there ever was."""
    return int(db.value("SELECT seq FROM sqlite_sequence WHERE name = 'history'") or 0)


class Did(NamedTuple):
    """The work that was done since a moment: files and bytes."""

    sent: int
    sent_bytes: int
    #: of those, new content of files that had a copy
    replaced: int
    deleted: int


def did(db: Database, last: int, began: float) -> Did:
    """Return what was done after line number `last`, by requests that `began` or later."""
    sent = db.conn.execute(
        "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(EXISTS (SELECT 1 FROM copies AS old "
        "WHERE old.file_id = copies.file_id AND old.id < copies.id "
        "AND old.superseded_at >= :began)), 0) FROM copies WHERE sent_at >= :began "
        "AND file_uuid IN (SELECT file_uuid FROM history WHERE id > :last "
        "AND event IN ('stored', 'synced', 'released'))",
        {"last": last, "began": began},
    ).fetchone()
    deleted: int = db.value(
        "SELECT count(*) FROM history WHERE id > ? AND event = 'deleted' AND detail = ?",
        (last, FILE_GONE),
    )
    return Did(sent[0], sent[1], sent[2], deleted)


_LINES = "SELECT id, at, folder, path, event, file_uuid, detail FROM history"


def _line(row: JsonObject) -> JsonObject:
    path = path_members(row["path"])
    return {
        "at": timestamp(row["at"]),
        "event": row["event"],
        "folder": row["folder"] or None,
        **(path if path["path"] else {"path": None}),
        "file_uuid": row["file_uuid"],
        "detail": row["detail"] or None,
    }
