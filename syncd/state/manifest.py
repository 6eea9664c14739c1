"""The files, each with its one user word: what `ls` shows.

A file's word is worked out by SQLite, in one place, so that a million rows are counted and filtered
without being fetched.
"""

import enum
import sqlite3
from collections.abc import Collection, Iterable, Iterator

from syncd.state import holds
from syncd.state.database.connection import Database
from syncd.state.holds import EVERYWHERE, decisions, standstill
from syncd.state.texts import JsonObject, error_text, path_members, timestamp


class Word(enum.StrEnum):
    """The state of a file as users see it."""

    #: it changed a moment ago, and is left alone until it is quiet
    SETTLING = "settling"
    #: its content waits to be read or sent
    QUEUED = "queued"
    #: it is being sent, or was and its arrival is looked up
    UPLOADING = "uploading"
    #: stored, and the service works on it
    PROCESSING = "processing"
    #: its newest content is live
    SYNCED = "synced"
    #: it cannot be read, was refused, or failed in processing
    FAILED = "failed"
    #: it is gone here, and its copy is to be deleted
    DELETING = "deleting"
    #: it is gone here and remotely
    DELETED = "deleted"
    #: it waits for a person, or for something to heal
    HELD = "held"
    #: a rule excludes it, or it is gone here and its copy is kept
    IGNORED = "ignored"


#: A file with two of its copies, which may be one: the `newest` that it is to have (under way,
#: failed or live), and the one by which it is `known` (live; where none is, one that is kept, or
#: one on its way out).
ROWS = """
  FROM files AS f LEFT JOIN decisions AS d ON d.file_id = f.id
  LEFT JOIN copies AS newest ON newest.id = (
    SELECT id FROM copies WHERE file_id = f.id AND status <> 'gone'
    ORDER BY status IN ('retiring', 'released'), id DESC LIMIT 1)
  LEFT JOIN copies AS known ON known.id = (
    SELECT id FROM copies WHERE file_id = f.id AND (status IN ('live', 'released')
      OR (status = 'retiring' AND live_at IS NOT NULL AND f.status = 'missing'))
    ORDER BY status = 'live' DESC, id DESC LIMIT 1)
"""
_SENDING_HELD = f"""
  EXISTS (SELECT 1 FROM holds WHERE stops = 'sending' AND released_at IS NULL
    AND scope IN ('{EVERYWHERE}', coalesce(newest.workspace_uuid, '{holds.workspace_scope(None)}'),
                  'copy ' || newest.id))
"""
_DELETING_HELD = f"""
  EXISTS (SELECT 1 FROM holds WHERE {holds.STOPS_DELETIONS}
    AND scope IN ('{EVERYWHERE}', f.folder))
"""
WORD = f"""
  CASE
    WHEN f.status = 'settling' THEN 'settling'
    WHEN f.status = 'unreadable' THEN 'failed'
    WHEN f.status = 'ineligible' THEN 'ignored'
    WHEN f.status = 'consumed' THEN 'synced'
    WHEN f.status = 'missing' THEN CASE
      WHEN d.verdict = 'kept' THEN 'ignored'
      WHEN f.confirmed_at IS NOT NULL AND (newest.id IS NULL OR newest.status = 'released')
        THEN 'deleted'
      WHEN d.verdict = 'held' OR (d.verdict IS NULL AND newest.delete_sent_at IS NULL
        AND {_DELETING_HELD}) THEN 'held'
      ELSE 'deleting' END
    WHEN d.verdict = 'held' AND EXISTS (
      SELECT 1 FROM holds WHERE id = d.hold_id AND stops = 'deletions') THEN 'held'
    WHEN known.status = 'live' AND known.sha256 = f.sha256 THEN 'synced'
    WHEN d.verdict = 'held' AND (newest.id IS NULL OR newest.status = 'live') THEN 'held'
    WHEN d.verdict = 'forgotten' AND (newest.id IS NULL OR newest.status = 'live') THEN 'ignored'
    WHEN newest.status = 'processing' THEN 'processing'
    WHEN newest.status = 'failed' THEN 'failed'
    WHEN newest.status = 'sending' AND newest.in_flight THEN 'uploading'
    WHEN {_SENDING_HELD} THEN 'held'
    WHEN newest.status = 'sending' THEN 'uploading'
    WHEN {standstill.condition("f.folder")} THEN 'held'
    ELSE 'queued'
  END
"""
COLUMNS = f"""
  f.folder, f.path, {WORD} AS word, f.status AS file_status, f.error AS file_error,
  f.attempts AS file_attempts, f.due_at AS file_due_at, f.changed_at,
  known.size, known.sha256, known.file_uuid, known.remote_file_path, known.content_type,
  known.frame_count, known.live_at, known.status AS known_status,
  known.processing_status AS known_processing_status, newest.processing_status,
  newest.status AS newest_status, newest.attempts, newest.due_at,
  newest.error_status, newest.error_code, newest.error_message, newest.error_request_id
"""


#: Files that may have a word, up to which they are looked up one by one.
FEW = 20_000
_WITH_STATUS = "SELECT id FROM files WHERE status = '{}'"
_UNDER_WAY = "SELECT file_id FROM copies WHERE status NOT IN ('live', 'gone')"
_DECIDED = "SELECT file_id FROM decisions"
_DUE = (
    "SELECT id FROM folders CROSS JOIN files ON folder = name "
    "WHERE files.status = 'ready' AND due_at IS NOT NULL"
)
_MISSING = _WITH_STATUS.format("missing")
#: Indexed queries for the files that may have a word, and perhaps some others; any may be synced.
_CANDIDATES = {
    Word.SETTLING: [_WITH_STATUS.format("settling")],
    Word.QUEUED: [_DUE, _UNDER_WAY, _DECIDED],
    Word.UPLOADING: [_UNDER_WAY],
    Word.PROCESSING: [_UNDER_WAY],
    Word.FAILED: [_WITH_STATUS.format("unreadable"), f"{_UNDER_WAY} AND status = 'failed'"],
    Word.DELETING: [_MISSING],
    Word.DELETED: [_MISSING],
    Word.HELD: [_MISSING, _DUE, _UNDER_WAY, _DECIDED],
    Word.IGNORED: [_MISSING, _WITH_STATUS.format("ineligible"), _DECIDED],
}


def word(db: Database, file_id: int) -> Word:
    """Return the word for one file; KeyError if there is no such row."""
    found = db.value(f"SELECT {WORD} {ROWS} WHERE f.id = ?", (file_id,))
    if found is None:
        raise KeyError(file_id)
    return Word(found)


def entries(db: Database, *, status: str | None = None) -> Iterator[JsonObject]:
    """Yield each file by folder and path, with exactly the keys of `ls --json`.

    `status` is a Word. One row is held at a time. Deleted files come only where it asks for them.
    """
    rows = db.conn.execute(
        f"SELECT {COLUMNS} {ROWS} WHERE {_of_word(db, status)} ORDER BY f.folder, f.path",
        {"word": status},
    )
    return map(entry, rows)


def page(
    db: Database,
    *,
    after: tuple[str, bytes] | None = None,
    limit: int,
    folder: str | None = None,
    status: str | None = None,
    search: str | None = None,
) -> tuple[list[JsonObject], tuple[str, bytes] | None]:
    """Return the next `limit` files of the manifest, and what to ask for more `after`.

    `after` is the folder and path of the last one seen; None asks for the first page, and says
    that there is no more. `search` is a part of the path, in either case of ASCII letters.
    """
    conditions = [_of_word(db, status)]
    if folder is not None:
        conditions.append("f.folder = :folder")
    if after is not None:
        conditions.append("(f.folder, f.path) > (:after_folder, :after_path)")
    if search:
        conditions.append("instr(lower(CAST(f.path AS TEXT)), lower(:search)) > 0")
    after_folder, after_path = after or ("", b"")
    rows = db.conn.execute(
        f"SELECT {COLUMNS} {ROWS} WHERE {' AND '.join(conditions)} "
        "ORDER BY f.folder, f.path LIMIT :rows",
        {
            "word": status,
            "folder": folder,
            "after_folder": after_folder,
            "after_path": after_path,
            "search": search,
            # One more than asked for shows whether there is more.
            "rows": limit + 1,
        },
    ).fetchall()
    last = rows[limit - 1] if len(rows) > limit else None
    entries = [entry(row) for row in rows[:limit]]
    return entries, (last["folder"], last["path"]) if last else None


def candidates(words: Collection[Word]) -> list[str] | None:
    """Return queries for the ids of all files with such a word; None if any file may have one."""
    if not words or not _CANDIDATES.keys() >= set(words):
        return None
    return list(dict.fromkeys(query for word in sorted(words) for query in _CANDIDATES[word]))


def held(db: Database, hold_id: int) -> Iterator[JsonObject]:
    """Yield each file that a hold names, or that was decided on under it."""
    decisions.find(db, hold_id)
    rows = db.conn.execute(
        f"SELECT {COLUMNS} {ROWS} WHERE d.hold_id = ? ORDER BY f.folder, f.path", (hold_id,)
    )
    return map(entry, rows)


def failures(db: Database, number: int) -> list[JsonObject]:
    """Return the newest failures: which file, its error and request id, and what kind it is."""
    rows = db.conn.execute(
        f"SELECT {COLUMNS} {ROWS} WHERE {_of_word(db, Word.FAILED)} "
        "ORDER BY max(coalesce(newest.sent_at, 0), f.changed_at) DESC LIMIT :rows",
        {"word": Word.FAILED, "rows": number},
    )
    wanted = ("folder", "path", "path_b64", "error", "processing_status")
    return [
        {key: file[key] for key in wanted if key in file}
        | {
            "request_id": row["error_request_id"],
            "is_unreadable": row["file_status"] == "unreadable",
        }
        for row, file in ((row, entry(row)) for row in rows)
    ]


def entry(row: sqlite3.Row) -> JsonObject:
    # Without an upload under way, tries are counted on the file: it may not even be readable.
    counts_file = row["newest_status"] in (None, "live", "released")
    return {
        "folder": row["folder"],
        **path_members(row["path"]),
        "status": row["word"],
        "size": row["size"],
        "sha256": row["sha256"] or None,
        "file_uuid": row["file_uuid"],
        "remote_file_path": row["remote_file_path"],
        "content_type": row["content_type"],
        # Until the service says something of the newest copy, what it said of the known one.
        "processing_status": row["processing_status"] or row["known_processing_status"],
        "frame_count": row["frame_count"],
        "attempts": row["file_attempts"] if counts_file else row["attempts"],
        "next_attempt_at": timestamp(_next_attempt(row)),
        "error": row["file_error"] or _error(row),
        "synced_at": timestamp(row["live_at"]),
        "changed_at": timestamp(row["changed_at"]),
    }


def _of_word(db: Database, status: str | None) -> str:
    """Return the condition for files of one word, or for all but deleted ones.

    If few files may have the word, indexes find them, so that a million others are not judged one
    by one. If many may, a page is soon full in the order of the paths.
    """
    if status is None:
        return f"word <> '{Word.DELETED}'"
    condition = "word = :word"
    if status not in _CANDIDATES:
        return condition
    candidates = ids_of_words([Word(status)])
    few = f"SELECT count(*) FROM (SELECT 1 FROM ({candidates}) LIMIT {FEW + 1})"
    if db.value(few) > FEW:
        return condition
    return f"{condition} AND f.id IN ({candidates})"


def ids_of_words(words: Iterable[Word]) -> str:
    """Return SQL for the ids of the files that may have one of `words`, found by indexes."""
    return " UNION ALL ".join(dict.fromkeys(sql for word in words for sql in _CANDIDATES[word]))


def _next_attempt(row: sqlite3.Row) -> float | None:
    times = [at for at in (row["file_due_at"], row["due_at"]) if at is not None]
    return max(times, default=None)


def _error(row: sqlite3.Row) -> str | None:
    return error_text(
        row["error_message"], row["error_status"], row["error_code"], row["error_request_id"]
    )
