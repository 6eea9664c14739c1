"""The history: each action on a path, why and when; kept 90 days, deletions a year.

Lines without a path are about a whole folder, or about all: what a person did, and what was held.
"""

from collections.abc import Sequence
from typing import NamedTuple

from syncd.state import attempts
from syncd.state.batches import batched, values
from syncd.state.copies import NEWEST_KEPT, Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.texts import storable

#: The events that stop something or let it go on: a hold opened; a person, or the time, did it.
HELD, PAUSED, RESUMED, LIMITED = "held", "paused", "resumed", "limited"
STOPS = (HELD, PAUSED, RESUMED, LIMITED)
_DAY = 86_400.0
KEPT_SECONDS = 90 * _DAY
DELETIONS_KEPT_SECONDS = 365 * _DAY


class Line(NamedTuple):
    """One line of a file's story."""

    at: float
    folder: str
    path: bytes
    event: str
    file_uuid: str | None = None
    detail: str = ""


def line(file: File, event: str, now: float, *, copy: Copy | None = None, detail: str = "") -> Line:
    """Return a line of a file's story."""
    uuid = copy.file_uuid if copy else None
    return Line(now, file.folder, file.path, event, uuid, storable(detail))


def add(
    db: Database, file: File, event: str, now: float, *, copy: Copy | None = None, detail: str = ""
) -> None:
    """Write one line of a file's story."""
    add_all(db, [line(file, event, now, copy=copy, detail=detail)])


def note(
    db: Database, event: str, now: float, *, folder: str = "", detail: str, by: str = ""
) -> None:
    """Write a line about a whole folder, or about all of them, and `by` whom it was done.

    The newest of each event are kept, so that what happens often drives out nothing else.
    """
    text = f"{detail}, by {by}" if by else detail
    _insert(db, [Line(now, folder, b"", event, detail=storable(text))])
    same = "folder = :folder AND path = x'' AND event = :event"
    db.conn.execute(
        f"DELETE FROM history WHERE {same} AND id <= (SELECT id FROM history WHERE {same} "
        "ORDER BY id DESC LIMIT 1 OFFSET :kept)",
        {"folder": folder, "event": event, "kept": NEWEST_KEPT},
    )


def add_all(db: Database, lines: Sequence[Line]) -> None:
    """Write lines of files' stories, of each of which the newest are kept."""
    for some in batched(lines):
        _insert(db, some)
        paths = [value for line in some for value in (line.folder, line.path)]
        marks = ", ".join(["(?, ?)"] * len(some))
        db.conn.execute(_FORGET.format(paths=marks), [NEWEST_KEPT, *paths])


def _insert(db: Database, lines: Sequence[Line]) -> None:
    db.conn.execute(
        f"INSERT INTO history (at, folder, path, event, file_uuid, detail) {values(lines)}",
        [value for line in lines for value in line],
    )


#: Forgets all but the newest lines of folders and paths.
_FORGET = """
  WITH told (folder, path, last) AS MATERIALIZED (
    SELECT column1, column2, (SELECT id FROM history WHERE folder = column1 AND path = column2
      ORDER BY id DESC LIMIT 1 OFFSET ?) FROM (VALUES {paths}))
  DELETE FROM history WHERE id IN (
    SELECT id FROM told CROSS JOIN history ON last IS NOT NULL
      AND history.folder = told.folder AND history.path = told.path AND id <= last)
"""


#: The rows that are forgotten, by table.
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
    parameters = {"long_ago": now - DELETIONS_KEPT_SECONDS, "ago": now - KEPT_SECONDS}
    for table, condition in _FORGOTTEN:
        forgotten += db.conn.execute(
            f"DELETE FROM {table} WHERE id IN "
            f"(SELECT id FROM {table} WHERE {condition} LIMIT :most)",
            parameters | {"most": max(limit - forgotten, 0) if limit >= 0 else -1},
        ).rowcount
    return forgotten
