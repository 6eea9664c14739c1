"""The `files` table: what the disk held at the last look, one row per path."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from syncd.disk import Fingerprint, split
from syncd.exceptions import StateError
from syncd.state.batches import batched, values
from syncd.state.database.connection import Database
from syncd.state.lifecycle import FileStatus, Verdict
from syncd.state.texts import shown, storable


class File(NamedTuple):
    """One row of `files`; times in seconds since the epoch."""

    id: int
    folder: str
    path: bytes
    status: FileStatus
    fingerprint: Fingerprint | None
    generation: int
    sha256: str | None
    changed_at: float
    missing_since: float | None = None
    removal_seen: bool = False
    confirmed_at: float | None = None
    due_at: float | None = None
    attempts: int = 0
    error: str | None = None
    #: abrupt ends of syncd in a row while this file was being sent
    crashes: int = 0
    verdict: Verdict | None = None
    #: the hold that names it
    hold_id: int | None = None
    #: while it settles: since when it has kept changing
    settling_since: float | None = None
    #: whether it was open for writing when last seen
    is_open: bool = False
    #: whether it was there before the folder's first scan, and is left out until it changes
    is_skipped: bool = False

    @property
    def shown(self) -> str:
        """The path as messages show it."""
        return shown(self.path)

    @property
    def size(self) -> int:
        """The size in bytes when last seen; 0 if it was never seen."""
        return self.fingerprint.size if self.fingerprint else 0

    @property
    def present(self) -> bool:
        """Whether the file is there, readable or not, as far as is known."""
        return self.status not in (FileStatus.MISSING, FileStatus.CONSUMED)


_COLUMNS = (
    ", ".join(File._fields)
    .replace("fingerprint", "inode, size, mtime_ns, ctime_ns")
    .replace("verdict", "(SELECT verdict FROM decisions WHERE file_id = files.id)")
    .replace("hold_id", "(SELECT hold_id FROM decisions WHERE file_id = files.id)")
)
_STATUS, _VERDICT = map(File._fields.index, ("status", "verdict"))
_FLAGS = tuple(map(File._fields.index, ("removal_seen", "is_open", "is_skipped")))


def from_row(row: sqlite3.Row) -> File:
    """Return the File that a row of `_COLUMNS` stands for."""
    values = list(row)
    mark = None if values[4] is None else Fingerprint(*values[4:8])
    values[_STATUS:8] = FileStatus(values[_STATUS]), mark
    for flag in _FLAGS:
        values[flag] = bool(values[flag])
    if values[_VERDICT] is not None:
        values[_VERDICT] = Verdict(values[_VERDICT])
    return File._make(values)


def get(db: Database, file_id: int) -> File | None:
    """Return the file with that id, or None."""
    row = db.conn.execute(f"SELECT {_COLUMNS} FROM files WHERE id = ?", (file_id,)).fetchone()
    return from_row(row) if row else None


def existing(db: Database, file_id: int) -> File:
    """Return the file with that id; raise StateError when its row has vanished."""
    if (file := get(db, file_id)) is None:
        raise StateError("a file's row has vanished from the table")
    return file


def find(db: Database, folder: str, path: bytes) -> File | None:
    """Return the file at that path of that folder, or None."""
    row = db.conn.execute(
        f"SELECT {_COLUMNS} FROM files WHERE folder = ? AND path = ?",
        (folder, path),
    ).fetchone()
    return from_row(row) if row else None


def where(
    db: Database, condition: str, parameters: Sequence[Any] | dict[str, Any] = ()
) -> list[File]:
    """Return the files that meet `condition`, trusted SQL."""
    rows = db.conn.execute(f"SELECT {_COLUMNS} FROM files WHERE {condition}", parameters)
    return [from_row(row) for row in rows]


def has_skipped(db: Database) -> bool:
    """Return whether a file is left out because it was there before the folder's first scan."""
    return db.value("SELECT 1 FROM files WHERE is_skipped LIMIT 1") is not None


def known_paths(db: Database, folder: str, paths: Sequence[bytes]) -> set[bytes]:
    """Return those of some paths that have a row."""
    found: set[bytes] = set()
    for some in batched(paths):
        marks = ", ".join("?" * len(some))
        query = f"SELECT path FROM files WHERE folder = ? AND path IN ({marks})"
        found.update(path for (path,) in db.conn.execute(query, (folder, *some)))
    return found


def insert(db: Database, *, folder: str, **values: Any) -> int:
    """Add a row for a path never seen before, as `insert_all` does; return its id."""
    insert_all(db, folder, [values])
    return int(db.conn.execute("SELECT last_insert_rowid()").fetchone()[0])


def insert_all(db: Database, folder: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Add rows for paths never seen before; return how many.

    Each has `path`, `status`, `fingerprint` and `changed_at`, and may have `due_at`, `error`,
    `settling_since`, `is_open` and `is_skipped`.
    """
    added = [_new(folder, **row) for row in rows]
    for some in batched(added):
        db.conn.execute(_INSERT + values(some), [value for row in some for value in row])
    return len(added)


_INSERT = (
    "INSERT INTO files (folder, path, parent, status, inode, size, mtime_ns, ctime_ns, "
    "changed_at, due_at, error, settling_since, is_open, is_skipped) "
)


def _new(
    folder: str,
    *,
    path: bytes,
    status: FileStatus,
    fingerprint: Fingerprint | None,
    changed_at: float,
    due_at: float | None = None,
    error: str | None = None,
    settling_since: float | None = None,
    is_open: bool = False,
    is_skipped: bool = False,
) -> tuple[Any, ...]:
    return (
        folder,
        path,
        split(path)[0],
        status,
        *(fingerprint or (None,) * 4),
        changed_at,
        due_at,
        None if error is None else storable(error),
        settling_since,
        is_open,
        is_skipped,
    )


def update(db: Database, file_id: int, **values: Any) -> None:
    """Set columns of one row; `fingerprint` sets its four columns, `verdict` the decision."""
    if "verdict" in values:
        _decide(db, file_id, values.pop("verdict"))
    if "fingerprint" in values:
        mark: Fingerprint = values.pop("fingerprint")
        values |= {
            "inode": mark.inode,
            "size": mark.size,
            "mtime_ns": mark.mtime_ns,
            "ctime_ns": mark.ctime_ns,
        }
    if not values:
        return
    if values.get("error"):
        values["error"] = storable(values["error"])
    names = ", ".join(f"{name} = ?" for name in values)
    db.conn.execute(f"UPDATE files SET {names} WHERE id = ?", (*values.values(), file_id))


def begun_all(db: Database, hashed: Sequence[tuple[int, str]]) -> None:
    """Record the SHA-256 of new files, each given by its id, that are about to be sent."""
    for some in batched(hashed):
        db.conn.execute(
            "UPDATE files SET sha256 = new.column2, attempts = 0, error = NULL, due_at = NULL "
            f"FROM ({values(some)}) AS new WHERE files.id = new.column1",
            [value for row in some for value in row],
        )


def confirm_all(db: Database, ids: Sequence[int], now: float) -> None:
    """Record that a second look confirmed missing files; their rows are no longer due."""
    db.conn.execute(
        "UPDATE files SET confirmed_at = ?, due_at = NULL, error = NULL "
        "WHERE id IN (SELECT value FROM json_each(?))",
        (now, json.dumps(ids)),
    )


def _decide(db: Database, file_id: int, verdict: Verdict | None) -> None:
    """Record a rule's decision on a file, overriding any hold; None removes all decisions."""
    db.conn.execute("DELETE FROM decisions WHERE file_id = ?", (file_id,))
    if verdict is not None:
        db.conn.execute(
            "INSERT INTO decisions (file_id, verdict) VALUES (?, ?)", (file_id, verdict)
        )
