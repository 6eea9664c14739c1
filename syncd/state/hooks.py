"""The lines of history that each hook must still be told: those after the last that it heard.

The history is the queue, so nothing is written for a hook when something happens, and no hook makes
it grow. A hook's row says how far it has come. If a line cannot be told, its path is set aside with
its later lines, which keep their order and delay no other path.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from syncd.state.backoff import LONGEST_SECONDS, backoff_seconds
from syncd.state.database.connection import Database
from syncd.state.texts import JsonObject, error_text, path_members, storable, timestamp

#: The most paths that are set aside; with that many, a hook hears of nothing newer.
MOST_ASIDE = 10_000
#: The longest pause after a failure, before a hook is tried with another line.
LONGEST_PAUSE_SECONDS = 60.0
#: The lines that are read at a time.
BATCH_LINES = 100
#: The lines that hooks are told of. A copy that `adopt` took over was told of when it was sent; an
#: object that was reserved, and never got its content, is nobody's file.
_TOLD = """
  h.event = :on AND CASE h.event
    WHEN 'synced' THEN NOT EXISTS (
      SELECT 1 FROM history AS known WHERE known.folder = h.folder AND known.path = h.path
      AND known.event = 'adopted' AND known.file_uuid = h.file_uuid)
    WHEN 'deleted' THEN c.id IS NULL OR coalesce(c.stored_at, c.live_at) IS NOT NULL
    ELSE 1 END
"""
#: A line with the copy that it is about: by its uuid, or else the newest one of its path.
_LINES = """
  SELECT h.id, h.at, h.folder, h.path, h.event, h.file_uuid, h.detail,
    c.size, c.sha256, c.remote_file_path, c.content_type, c.processing_status, c.frame_count,
    c.workspace_uuid, c.attempts, c.live_at, c.error_message, c.error_status, c.error_code,
    c.error_request_id, (SELECT changed_at FROM files AS f
      WHERE f.folder = h.folder AND f.path = h.path) AS changed_at
  FROM history AS h
  LEFT JOIN copies AS c ON c.id = CASE WHEN h.file_uuid IS NULL THEN (
      SELECT max(copies.id) FROM files JOIN copies ON file_id = files.id
      WHERE folder = h.folder AND files.path = h.path)
    ELSE (SELECT id FROM copies WHERE file_uuid = h.file_uuid) END
"""
#: The first line of a path that is set aside.
_FIRST = """
  SELECT min(id) FROM history WHERE folder = aside.folder AND path = aside.path
    AND event = :on AND id BETWEEN aside.line AND :told
"""
_AGAIN = f"""
  WHERE h.id IN (SELECT ({_FIRST}) FROM hook_paths AS aside
    WHERE hook = :hook AND (due_at <= :now OR due_at > :latest)
    ORDER BY due_at LIMIT :lines)
  ORDER BY h.id
"""


class HookLine(NamedTuple):
    """A line of history to be told."""

    id: int
    folder: str
    path: bytes
    #: whether its path is set aside, and this is its turn
    is_aside: bool
    #: the row as JSON
    document: JsonObject


class Batch(NamedTuple):
    """The lines to tell a hook now; times in seconds since the epoch."""

    lines: list[HookLine]
    #: the folders and paths that are set aside: later lines of theirs wait for their turn
    aside: set[tuple[str, bytes]]
    #: up to which line everything is in `lines`, or concerns no such hook
    read_to: int
    #: when there is something more to tell; None while nothing is known
    next_at: float | None


def configure(db: Database, names: Collection[str]) -> None:
    """Keep track of the hooks with these `names` and no others; a new one is told no past."""
    wanted = json.dumps(sorted(names))
    for table, column in (("hook_paths", "hook"), ("hooks", "name")):
        db.conn.execute(
            f"DELETE FROM {table} WHERE {column} NOT IN (SELECT value FROM json_each(?))", (wanted,)
        )
    db.conn.execute(
        "INSERT OR IGNORE INTO hooks (name, told) "
        "SELECT value, (SELECT coalesce(max(id), 0) FROM history) FROM json_each(?)",
        (wanted,),
    )


def names(db: Database) -> set[str]:
    """Return the names of the hooks that are kept track of."""
    return {name for (name,) in db.conn.execute("SELECT name FROM hooks")}


def try_now(db: Database) -> None:
    """Let every hook be tried again at once."""
    db.conn.execute("UPDATE hooks SET due_at = 0")
    db.conn.execute("UPDATE hook_paths SET due_at = 0")


def batch(db: Database, hook: str, on: str, now: float, *, read_to: int) -> Batch:
    """Return what to tell a `hook` on such events; it knows of the lines up to `read_to`."""
    row = db.conn.execute(
        "SELECT told, failures, due_at FROM hooks WHERE name = ?", (hook,)
    ).fetchone()
    # If the clock was set back, a time may be further off than the longest back-off.
    latest = now + LONGEST_SECONDS
    if row is None or now < row["due_at"] <= latest:
        return Batch([], set(), read_to, row["due_at"] if row else None)
    told = row["told"]
    parameters = {
        "hook": hook,
        "on": on,
        "now": now,
        "latest": latest,
        "told": told,
        "lines": BATCH_LINES,
    }
    aside = db.conn.execute(
        "SELECT folder, path, due_at FROM hook_paths WHERE hook = ?", (hook,)
    ).fetchall()
    after = max(told, read_to)
    limit = max(min(BATCH_LINES, MOST_ASIDE - len(aside)), 0)
    newest = db.value("SELECT coalesce(max(id), 0) FROM history")
    again = _lines(db, _AGAIN, parameters, is_aside=True)
    new = _lines(
        db,
        f"WHERE h.id > :after AND {_TOLD} ORDER BY h.id LIMIT {limit}",
        parameters | {"after": after},
    )
    is_all = len(new) < limit
    later = [path["due_at"] for path in aside if path["due_at"] > now]
    return Batch(
        # After a failure new lines go first, so that those that fail again hold up no others.
        new + again if row["failures"] else again + new,
        {(path["folder"], path["path"]) for path in aside},
        max(newest, after) if is_all else after,
        min(later, default=None),
    )


def record(
    db: Database,
    hook: str,
    on: str,
    now: float,
    *,
    told: Sequence[HookLine],
    read_to: int,
    failed: HookLine | None = None,
    error: str = "",
) -> None:
    """Record what a hook was told, what failed and why, and up to which new line it has come."""
    db.conn.executemany(
        "UPDATE hook_paths SET line = ?, attempts = 0, due_at = 0, error = '' "
        "WHERE hook = ? AND folder = ? AND path = ?",
        [(line.id + 1, hook, line.folder, line.path) for line in told if line.is_aside],
    )
    failures = 0
    if failed is not None:
        path = (hook, failed.folder, failed.path)
        before = db.conn.execute(
            "SELECT failures, attempts FROM hooks LEFT JOIN hook_paths "
            "ON hook = name AND folder = ?2 AND path = ?3 WHERE name = ?1",
            path,
        ).fetchone()
        failures = 1 if told or before is None else 1 + before["failures"]
        attempts = 1 + ((before and before["attempts"]) or 0)
        db.conn.execute(
            "INSERT OR REPLACE INTO hook_paths (hook, folder, path, line, attempts, due_at, error) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*path, failed.id, attempts, now + backoff_seconds(attempts), storable(error)),
        )
    pause = min(backoff_seconds(failures), LONGEST_PAUSE_SECONDS) if failures else 0.0
    db.conn.execute(
        "UPDATE hooks SET told = max(told, ?), failures = ?, due_at = ?, error = ? WHERE name = ?",
        (read_to, failures, now + pause if failures else 0, storable(error), hook),
    )
    # Nothing is left to tell of these paths, also if the history has forgotten it.
    db.conn.execute(
        f"DELETE FROM hook_paths AS aside WHERE hook = :hook AND ({_FIRST}) IS NULL",
        {"hook": hook, "on": on, "told": max(read_to, _told(db, hook))},
    )


def failing(db: Database) -> list[JsonObject]:
    """Return each hook that fails now, with its last error and the time of its next try."""
    rows = db.conn.execute(
        "SELECT name, failures, hooks.due_at, hooks.error, oldest.due_at AS path_due_at, "
        "oldest.error AS path_error FROM hooks LEFT JOIN hook_paths AS oldest "
        "ON hook = name AND line = (SELECT min(line) FROM hook_paths "
        "WHERE hook = name AND attempts > 0) "
        "WHERE failures OR oldest.line IS NOT NULL ORDER BY name"
    )
    return [
        {
            "name": row["name"],
            "error": row["error"] if row["failures"] else row["path_error"],
            "next_at": row["due_at"] if row["failures"] else row["path_due_at"],
        }
        for row in rows
    ]


def heard(db: Database) -> dict[str, float]:
    """Return when the line was written that each hook read last; nothing if there is none."""
    rows = db.conn.execute("SELECT name, at FROM hooks JOIN history ON history.id = told")
    return {row["name"]: row["at"] for row in rows}


def _told(db: Database, hook: str) -> int:
    return int(db.value("SELECT told FROM hooks WHERE name = ?", (hook,)) or 0)


def _lines(
    db: Database, condition: str, parameters: dict[str, Any], *, is_aside: bool = False
) -> list[HookLine]:
    rows = db.conn.execute(f"{_LINES} {condition}", parameters)
    return [
        HookLine(row["id"], row["folder"], row["path"], is_aside, _document(row)) for row in rows
    ]


def _document(row: sqlite3.Row) -> JsonObject:
    """Return an event as hooks are told of it: the keys of `ls --json`, and what else it says."""
    is_failed = row["event"] == "failed"
    error = error_text(
        row["error_message"], row["error_status"], row["error_code"], row["error_request_id"]
    )
    return {
        "event": row["event"],
        "at": timestamp(row["at"]),
        "reason": row["detail"] or None,
        "folder": row["folder"],
        **path_members(row["path"]),
        "status": row["event"],
        "size": row["size"],
        "sha256": row["sha256"] or None,
        "file_uuid": row["file_uuid"],
        "remote_file_path": row["remote_file_path"],
        "content_type": row["content_type"],
        "workspace_uuid": row["workspace_uuid"],
        "processing_status": row["processing_status"],
        "frame_count": row["frame_count"],
        "attempts": row["attempts"],
        "next_attempt_at": None,
        "error": (error or row["detail"]) if is_failed else None,
        "synced_at": timestamp(row["live_at"]),
        "changed_at": timestamp(row["changed_at"]),
    }
