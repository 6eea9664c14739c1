"""The `copies` table: the ledger of remote copies, one row for each object that is ours."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from syncd.exceptions import StateError
from syncd.state.batches import batched, values
from syncd.state.database.connection import Database
from syncd.state.lifecycle import ARROWS, CopyStatus, Keep

#: How many gone copies of a file, and lines of a path's history, are kept.
NEWEST_KEPT = 100


class Copy(NamedTuple):
    """One row of `copies`; times in seconds since the epoch."""

    id: int
    file_id: int
    token: str
    file_uuid: str | None
    status: CopyStatus
    wanted: bool
    in_flight: bool
    generation: int
    sha256: str
    size: int
    content_type: str
    workspace_uuid: str | None
    method: str
    sent_name: str | None = None
    remote_file_path: str | None = None
    #: tries of what its status waits for: sends, looks at a video, or DELETEs
    attempts: int = 0
    #: when something is due of it; None if nothing is by itself
    due_at: float | None = None
    sent_at: float | None = None
    #: when its first DELETE was promised
    delete_sent_at: float | None = None
    reason: str | None = None
    error_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_request_id: str | None = None
    processing_status: str | None = None
    frame_count: int | None = None
    video_metadata: str | None = None
    created_at: float = 0.0
    stored_at: float | None = None
    #: when it went live last; None if it never was live
    live_at: float | None = None
    gone_at: float | None = None
    #: why a missing file's copy was retired, as JSON
    evidence: str | None = None
    #: when `after_upload` took its file away; it is then kept whatever appears at the path
    consumed_at: float | None = None
    #: when syncd stopped waiting for its answer
    doubted_at: float | None = None
    #: the private directory that holds its file while it is taken away
    aside: str | None = None
    #: how often the service refused this content, and when it first did
    refusals: int = 0
    refused_at: float | None = None
    #: for how long syncd does not delete it once it is released
    kept: Keep = Keep.NO
    #: when newer content of its path went live in the same workspace
    superseded_at: float | None = None

    @property
    def is_video(self) -> bool:
        """Whether the service processes it after the upload."""
        return self.content_type.startswith("video/")

    @property
    def in_doubt(self) -> bool:
        """Whether its request may have been delivered, and no worker waits for the answer."""
        return self.status is CopyStatus.SENDING and not self.in_flight

    @property
    def is_confirming(self) -> bool:
        """Whether its bytes were sent and the service must still confirm that it holds them."""
        return self.in_doubt and self.file_uuid is not None


_COLUMNS = ", ".join(Copy._fields)
_ROW = f"({', '.join('?' * (len(Copy._fields) - 1))})"
_INSERT = f"INSERT INTO copies ({', '.join(Copy._fields[1:])}) VALUES "
_STATUS = Copy._fields.index("status")
_KEPT = Copy._fields.index("kept")
_FLAGS = tuple(map(Copy._fields.index, ("wanted", "in_flight")))


def from_row(row: sqlite3.Row) -> Copy:
    """Return the Copy that a row of `_COLUMNS` stands for."""
    values = list(row)
    values[_STATUS], values[_KEPT] = CopyStatus(values[_STATUS]), Keep(values[_KEPT])
    for flag in _FLAGS:
        values[flag] = bool(values[flag])
    return Copy._make(values)


def get(db: Database, copy_id: int) -> Copy | None:
    """Return the copy with that id, or None."""
    return next(iter(where(db, "id = ?", (copy_id,))), None)


def existing(db: Database, copy_id: int) -> Copy:
    """Return the copy with that id; raise StateError when its row has vanished."""
    if (copy := get(db, copy_id)) is None:
        raise StateError("a copy's row has vanished from the ledger")
    return copy


def of_file(db: Database, file_id: int) -> list[Copy]:
    """Return a file's copies that are not gone, oldest first."""
    return where(db, "file_id = ? AND status <> 'gone' ORDER BY id", (file_id,))


def where(
    db: Database, condition: str, parameters: Sequence[Any] | dict[str, Any] = ()
) -> list[Copy]:
    """Return the copies that meet `condition`, trusted SQL."""
    rows = db.conn.execute(f"SELECT {_COLUMNS} FROM copies WHERE {condition}", parameters)
    return [from_row(row) for row in rows]


def count_live(db: Database) -> int:
    """Return how many copies are live; use the smallest index, because this is asked often."""
    query = "SELECT count(*) FROM copies INDEXED BY copies_one_live WHERE status = 'live'"
    return int(db.value(query))


def insert(db: Database, copy: Copy) -> Copy:
    """Add a row for `copy`, ignoring its id; return it with its new id."""
    return insert_all(db, [copy])[0]


def insert_all(db: Database, rows: Sequence[Copy]) -> list[Copy]:
    """Add rows, ignoring their ids; return them with their new ids."""
    added: list[Copy] = []
    for some in batched(rows):
        marks = ", ".join([_ROW] * len(some))
        cursor = db.conn.execute(_INSERT + marks, [value for row in some for value in row[1:]])
        # AUTOINCREMENT counts up by one within a statement.
        first = int(cursor.lastrowid or 0) - len(some) + 1
        added += [row._replace(id=first + number) for number, row in enumerate(some)]
    return added


def update(db: Database, copy_id: int, **values: Any) -> None:
    """Set columns of one row, other than its status."""
    names = ", ".join(f"{name} = ?" for name in values)
    db.conn.execute(f"UPDATE copies SET {names} WHERE id = ?", (*values.values(), copy_id))


def move(db: Database, copy: Copy, target: CopyStatus, **values: Any) -> None:
    """Change a copy's status along an arrow, guarded by the status it was read with.

    Raise StateError when the row has moved on, because the caller decided on stale facts.
    """
    if target not in ARROWS[copy.status]:
        raise StateError(f"copy {copy.id} cannot go from {copy.status} to {target}")
    values = {"status": target, "in_flight": 0} | values
    names = ", ".join(f"{name} = ?" for name in values)
    cursor = db.conn.execute(
        f"UPDATE copies SET {names} WHERE id = ? AND status = ?",
        (*values.values(), copy.id, copy.status),
    )
    if cursor.rowcount != 1:
        raise StateError(f"copy {copy.id} is no longer {copy.status}")
    if target is CopyStatus.GONE:
        _forget_old(db, [copy.file_id])


def live_all(
    db: Database, stored: Sequence[tuple[int, str, str | None, str | None, float]]
) -> None:
    """Make `sending` copies live, as `make_live` does for files that have no other copies.

    Each is an id, the uuid, the remote path, the processing status, and when it was stored.
    Raise StateError when a row has moved on.
    """
    for some in batched(stored):
        changed = db.conn.execute(
            f"{_LIVE} FROM ({values(some)}) AS new WHERE copies.id = new.column1 "
            "AND copies.status = 'sending'",
            [value for row in some for value in row],
        ).rowcount
        _require(changed, some, "sending")


_LIVE = f"""
  UPDATE copies SET status = 'live', in_flight = 0, due_at = NULL, attempts = 0, reason = NULL,
    superseded_at = NULL, delete_sent_at = NULL, kept = iif(kept = {Keep.ALWAYS}, kept, {Keep.NO}),
    file_uuid = new.column2, remote_file_path = new.column3, processing_status = new.column4,
    stored_at = new.column5, live_at = new.column5,
    error_status = NULL, error_code = NULL, error_message = NULL, error_request_id = NULL
"""


def want_no_more(db: Database, file_ids: Sequence[int]) -> None:
    """Have copies of files that are on their way count as superseded when they arrive."""
    db.conn.execute(
        "UPDATE copies SET wanted = 0 WHERE file_id IN (SELECT value FROM json_each(?)) "
        "AND status IN ('sending', 'processing')",
        (json.dumps(file_ids),),
    )


def set_evidence(db: Database, evidence: Sequence[tuple[int, str]]) -> None:
    """Record why copies, each given by its id, retire."""
    for some in batched(evidence):
        db.conn.execute(
            f"UPDATE copies SET evidence = new.column2 FROM ({values(some)}) AS new "
            "WHERE copies.id = new.column1",
            [value for row in some for value in row],
        )


def retire_all(db: Database, ids: Sequence[int], now: float, *, reason: str) -> None:
    """Mark live copies for their soft delete, as `retire_unless_kept` does."""
    changed = db.conn.execute(
        "UPDATE copies SET status = 'retiring', in_flight = 0, due_at = ?, attempts = 0, "
        "reason = ? WHERE status = 'live' AND id IN (SELECT value FROM json_each(?))",
        (now, reason, json.dumps(ids)),
    ).rowcount
    _require(changed, ids, "live")


def put_off_deletes(db: Database, ids: Sequence[int], until: float) -> None:
    """Postpone the deletion of retiring copies to `until`."""
    db.conn.execute(
        "UPDATE copies SET due_at = ? WHERE status = 'retiring' "
        "AND id IN (SELECT value FROM json_each(?))",
        (until, json.dumps(ids)),
    )


def promise_deletes(db: Database, ids: Sequence[int], now: float) -> None:
    """Commit to sending a DELETE for each of some retiring copies."""
    changed = db.conn.execute(
        "UPDATE copies SET in_flight = 1, delete_sent_at = coalesce(delete_sent_at, ?), "
        "attempts = attempts + 1, due_at = NULL "
        "WHERE status = 'retiring' AND id IN (SELECT value FROM json_each(?))",
        (now, json.dumps(ids)),
    ).rowcount
    _require(changed, ids, "retiring")


def gone_all(db: Database, gone: Sequence[Copy], now: float) -> None:
    """Record that retiring copies are gone."""
    changed = db.conn.execute(
        "UPDATE copies SET status = 'gone', in_flight = 0, due_at = NULL, gone_at = ?, "
        "error_status = NULL, error_code = NULL, error_message = NULL, error_request_id = NULL "
        "WHERE status = 'retiring' AND id IN (SELECT value FROM json_each(?))",
        (now, json.dumps([copy.id for copy in gone])),
    ).rowcount
    _require(changed, gone, "retiring")
    _forget_old(db, [copy.file_id for copy in gone])


def _require(changed: int, rows: Sequence[object], status: str) -> None:
    if changed != len(rows):
        raise StateError(f"a copy is no longer {status}")


def _forget_old(db: Database, file_ids: Sequence[int]) -> None:
    """Keep only the newest gone copies of files: a file that changes all the time has very many."""
    db.conn.execute(
        "WITH told (file, last) AS MATERIALIZED (SELECT value, (SELECT id FROM copies "
        "WHERE file_id = value AND status = 'gone' ORDER BY id DESC LIMIT 1 OFFSET ?) "
        "FROM json_each(?)) DELETE FROM copies WHERE id IN (SELECT id FROM told CROSS JOIN copies "
        "ON last IS NOT NULL AND file_id = file AND status = 'gone' AND id <= last)",
        (NEWEST_KEPT, json.dumps(file_ids)),
    )
