"""What people and scripts are shown: read-only queries, one user word a file.

Every function takes a read-only connection. Times come out as RFC 3339 text in UTC, sizes in
bytes. A file's word is worked out by SQLite, in one place, so that a million rows are counted and
filtered without being fetched.
"""

import base64
import enum
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from syncd.exceptions import StateError
from syncd.state import copies, damage, files, history, holds, reviews as reviewing, schema, unknown
from syncd.state.copies import Copy
from syncd.state.deletions import evidence_text
from syncd.state.files import File
from syncd.state.holds import EVERYWHERE, Hold
from syncd.state.lifecycle import FileStatus
from syncd.state.store import fact

T = TypeVar("T")
SQLITE_VERSION = sqlite3.sqlite_version
JsonObject = dict[str, Any]
#: Failures that an overview names.
FAILURES = 5


class NoStateError(StateError):
    """The state directory holds no database."""


class Word(enum.StrEnum):
    """What a user is told of a file."""

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
    #: it is gone here, and will be remotely
    DELETING = "deleting"
    #: it is gone here and remotely
    DELETED = "deleted"
    #: it waits for a person, or for something to heal
    HELD = "held"
    #: a rule excludes it, or it is gone here and its copy is kept
    IGNORED = "ignored"


#: A file, its newest wish (the copy that is under way, or failed, or live) and the copy by which
#: it is known: the live one; where there is none, one that is kept, or one on its way out.
_ROWS = """
  FROM files AS f
  LEFT JOIN copies AS wish ON wish.id = (
    SELECT id FROM copies WHERE file_id = f.id AND status <> 'gone'
    ORDER BY status IN ('retiring', 'released'), id DESC LIMIT 1)
  LEFT JOIN copies AS live ON live.id = (
    SELECT id FROM copies WHERE file_id = f.id AND (status IN ('live', 'released')
      OR (status = 'retiring' AND live_at IS NOT NULL AND f.status = 'missing'))
    ORDER BY status = 'live' DESC, id DESC LIMIT 1)
"""

_SENDING_HELD = f"""
  EXISTS (SELECT 1 FROM holds WHERE stops = 'sending' AND released_at IS NULL
    AND scope IN ('{EVERYWHERE}', coalesce(wish.workspace_uuid, '{holds.workspace(None)}'),
                  'copy ' || wish.id))
"""

_DELETING_HELD = f"""
  EXISTS (SELECT 1 FROM holds WHERE stops = 'deletions' AND released_at IS NULL
    AND scope IN ('{EVERYWHERE}', f.folder))
"""

_WORD = f"""
  CASE
    WHEN f.status = 'settling' THEN 'settling'
    WHEN f.status = 'unreadable' THEN 'failed'
    WHEN f.status = 'ineligible' THEN 'ignored'
    WHEN f.status = 'consumed' THEN 'synced'
    WHEN f.status = 'missing' THEN CASE
      WHEN f.verdict = 'kept' THEN 'ignored'
      WHEN f.confirmed_at IS NOT NULL AND (wish.id IS NULL OR wish.status = 'released')
        THEN 'deleted'
      WHEN f.verdict IS NULL AND wish.delete_sent_at IS NULL AND {_DELETING_HELD} THEN 'held'
      ELSE 'deleting' END
    WHEN live.status = 'live' AND live.sha256 = f.sha256 THEN 'synced'
    WHEN wish.id IS NULL AND f.verdict = 'gone' THEN 'held'
    WHEN wish.id IS NULL AND f.verdict = 'forgotten' THEN 'ignored'
    WHEN wish.status = 'processing' THEN 'processing'
    WHEN wish.status = 'failed' THEN 'failed'
    WHEN wish.status = 'sending' AND wish.in_flight THEN 'uploading'
    WHEN {_SENDING_HELD} THEN 'held'
    WHEN wish.status = 'sending' THEN 'uploading'
    ELSE 'queued'
  END
"""

_MANIFEST_COLUMNS = f"""
  f.folder, f.path, {_WORD} AS word, f.status AS file_status, f.error AS file_error,
  f.attempts AS file_attempts, f.due_at AS file_due_at,
  live.size, live.sha256, live.file_uuid, live.remote_file_path, live.content_type,
  live.frame_count, live.live_at, live.status AS live_status,
  live.processing_status AS live_processing_status, wish.processing_status,
  wish.status AS wish_status, wish.attempts, wish.due_at,
  wish.error_status, wish.error_code, wish.error_message, wish.error_request_id
"""


def read(directory: Path, query: Callable[[Database], T]) -> T:
    """Run `query` on the database in `directory`, on one consistent view, daemon or not.

    NoStateError where there is none; StateError where it cannot be read.
    """
    path = directory / schema.FILE_NAME
    try:
        path.stat()
    except FileNotFoundError as error:
        raise NoStateError(
            f"there is no state in {directory}: syncd has not run with this configuration; name "
            "its file with -c, or its state directory with SYNCD_STATE__DIRECTORY"
        ) from error
    except OSError as error:
        raise StateError(
            f"cannot read the state directory {directory}: {error.strerror}; ask as the user that "
            "syncd runs as"
        ) from error
    db = schema.open_readonly(path)
    try:
        db.conn.execute("BEGIN")
        return query(db)
    except sqlite3.Error as error:
        raise StateError(f"cannot read the state database {path}: {error}") from error
    finally:
        db.close()


def roots(db: Database) -> dict[str, bytes]:
    """Return the root of each folder that was ever watched, by name."""
    return {row["name"]: row["path"] for row in db.conn.execute("SELECT name, path FROM folders")}


def word(db: Database, file_id: int) -> Word:
    """Return the word for one file; KeyError where there is no such row."""
    row = db.conn.execute(f"SELECT {_WORD} {_ROWS} WHERE f.id = ?", (file_id,)).fetchone()
    if row is None:
        raise KeyError(file_id)
    return Word(row[0])


def manifest(
    db: Database, folder: str | None = None, status: str | None = None
) -> Iterator[JsonObject]:
    """Yield each file by folder and path, with exactly the keys of `ls --json`.

    `status` is a Word. One row is held at a time. Deleted files come only where it asks for them.
    """
    conditions = [_of_word(status)]
    if folder is not None:
        conditions.append("f.folder = :folder")
    rows = db.conn.execute(
        f"SELECT {_MANIFEST_COLUMNS} {_ROWS} WHERE {' AND '.join(conditions)} "
        "ORDER BY f.folder, f.path",
        {"word": status, "folder": folder},
    )
    return map(_manifest_entry, rows)


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
    conditions = [_of_word(status)]
    if folder is not None:
        conditions.append("f.folder = :folder")
    if after is not None:
        conditions.append("(f.folder, f.path) > (:after_folder, :after_path)")
    if search:
        conditions.append("instr(lower(CAST(f.path AS TEXT)), lower(:search)) > 0")
    after_folder, after_path = after or ("", b"")
    rows = db.conn.execute(
        f"SELECT {_MANIFEST_COLUMNS} {_ROWS} WHERE {' AND '.join(conditions)} "
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
    entries = [_manifest_entry(row) for row in rows[:limit]]
    return entries, (last["folder"], last["path"]) if last else None


def quick_check(db: Database) -> str:
    """Examine the whole database; return `ok`, or what is the first thing wrong with it."""
    return damage.found(db) or "ok"


def doubts(db: Database) -> int:
    """Return how many uploads got no answer, so that it is not known whether they arrived."""
    count: int = db.conn.execute(
        "SELECT count(*) FROM copies WHERE status NOT IN ('live', 'gone') "
        "AND status = 'sending' AND NOT in_flight"
    ).fetchone()[0]
    return count


def _manifest_entry(row: sqlite3.Row) -> JsonObject:
    shown, exact = path_texts(row["path"])
    is_file = row["wish_status"] in (None, "live", "released")
    return {
        "folder": row["folder"],
        "path": shown,
        **({"path_b64": exact} if exact else {}),
        "status": row["word"],
        "size": row["size"],
        "sha256": row["sha256"] or None,
        "file_uuid": row["file_uuid"],
        "remote_file_path": row["remote_file_path"],
        "content_type": row["content_type"],
        "processing_status": row["processing_status"] or row["live_processing_status"],
        "frame_count": row["frame_count"],
        "attempts": row["file_attempts"] if is_file else row["attempts"],
        "next_attempt_at": timestamp(_next_attempt(row)),
        "error": row["file_error"] or _error(row),
        "synced_at": timestamp(row["live_at"]),
    }


def _of_word(status: str | None) -> str:
    """Return the condition for files of one word, or for all but deleted ones.

    Failed files are few, and found by an index: a million others are not judged one by one.
    """
    if status is None:
        return f"word <> '{Word.DELETED}'"
    if status != Word.FAILED:
        return "word = :word"
    return (
        "word = :word AND (f.status = 'unreadable' OR f.id IN "
        "(SELECT file_id FROM copies WHERE status NOT IN ('live', 'gone') AND status = 'failed'))"
    )


def _next_attempt(row: sqlite3.Row) -> float | None:
    known = [at for at in (row["file_due_at"], row["due_at"]) if at is not None]
    return max(known, default=None)


def _error(row: sqlite3.Row) -> str | None:
    return error_text(
        row["error_message"], row["error_status"], row["error_code"], row["error_request_id"]
    )


def error_text(
    message: str | None, status: int | None, code: str | None, request_id: str | None
) -> str | None:
    """Return a copy's last error in one line, None where it has none."""
    if message is None:
        return None
    facts = [f"status {status}" if status else ""]
    facts.append(code if code and not code.startswith("local.") else "")
    facts.append(f"request {request_id}" if request_id else "")
    known = ", ".join(filter(None, facts))
    return f"{message} ({known})" if known else message


def path_texts(path: bytes) -> tuple[str, str | None]:
    """Return a path as text, and in Base64 where the text is not the whole truth."""
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        return path.decode("utf-8", "backslashreplace"), base64.b64encode(path).decode()


def timestamp(seconds: float | None) -> str | None:
    """Return seconds since the epoch as RFC 3339 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def overview(db: Database, now: float) -> JsonObject:
    """Return what the table knows of `status --json`: folders, counts, holds, failures, echo.

    A folder has name, path, counts, oldest_queued_seconds, last_scan_at and directories; the
    newest failures have folder, path, error and request_id.
    """
    folders = {row["name"]: _folder(row) for row in db.conn.execute("SELECT * FROM folders")}
    total: dict[str, int] = {}
    for name, word, number, since in _counted(db):
        folder = folders[name]
        folder["counts"][word] = folder["counts"].get(word, 0) + number
        total[word] = total.get(word, 0) + number
        if word == Word.QUEUED and since is not None:
            waited = max(now - since, folder["oldest_queued_seconds"] or 0.0)
            folder["oldest_queued_seconds"] = waited
    return {
        "folders": list(folders.values()),
        "counts": total,
        "holds": [hold_object(hold) for hold in holds.open_holds(db)],
        "failures": _failures(db) if total.get(Word.FAILED) else [],
        "echo": fact(db, "echo") or "unknown",
        "unknown_objects": unknown.troubling(db),
    }


#: The words of files that have no copies but live ones and gone ones.
_SIMPLE_WORDS = {
    FileStatus.SETTLING: Word.SETTLING,
    FileStatus.UNREADABLE: Word.FAILED,
    FileStatus.INELIGIBLE: Word.IGNORED,
    FileStatus.CONSUMED: Word.SYNCED,
}
_WAITING_SINCE = (
    "CASE WHEN wish.status IN ('planned', 'sending') THEN wish.created_at ELSE f.due_at END"
)


def _counted(db: Database) -> Iterator[tuple[str, Word, int, float | None]]:
    """Yield folder, word, number of files, and since when the first of them waits.

    A million files are counted by an index alone: only those that something is under way for, or
    that are missing, are looked at one by one.
    """
    scoped = db.conn.execute(
        "SELECT 1 FROM holds WHERE stops = 'sending' AND released_at IS NULL AND scope <> ? "
        "AND scope NOT LIKE 'copy %'",
        (EVERYWHERE,),
    ).fetchone()
    few = "WHERE f.status = 'missing' OR f.id IN (SELECT file_id FROM copies WHERE status NOT IN "
    few += "('live', 'gone'))"
    # Which files a workspace's hold bears on, only their copies tell.
    rows = db.conn.execute(
        f"SELECT f.folder, f.status, f.due_at IS NULL AS at_rest, {_WORD} AS word, "
        f"count(*) AS number, min({_WAITING_SINCE}) AS since {_ROWS} {'' if scoped else few} "
        "GROUP BY 1, 2, 3, 4"
    )
    counted: dict[tuple[str, str, int], int] = {}
    for row in rows:
        key = (row["folder"], row["status"], row["at_rest"])
        counted[key] = counted.get(key, 0) + row["number"]
        yield row["folder"], Word(row["word"]), row["number"], row["since"]
    held = holds.is_held(db, "sending", EVERYWHERE)
    groups = db.conn.execute(
        "SELECT folder, status, due_at IS NULL AS at_rest, count(*) AS number, "
        "min(due_at) AS since FROM files GROUP BY status, folder, due_at IS NULL"
    )
    for row in groups:
        status = FileStatus(row["status"])
        number = row["number"] - counted.get((row["folder"], status, row["at_rest"]), 0)
        if status is FileStatus.READY and not row["at_rest"]:
            word = Word.HELD if held else Word.QUEUED
        else:
            word = _SIMPLE_WORDS.get(status, Word.SYNCED)
        if number:
            yield row["folder"], word, number, row["since"]


def _folder(row: sqlite3.Row) -> JsonObject:
    return {
        "name": row["name"],
        "path": path_texts(row["path"])[0],
        "last_scan_at": timestamp(row["last_scan_at"]),
        "directories": row["directories"],
        "counts": {},
        "oldest_queued_seconds": None,
    }


def _failures(db: Database) -> list[JsonObject]:
    rows = db.conn.execute(
        f"SELECT {_MANIFEST_COLUMNS} {_ROWS} WHERE {_of_word(Word.FAILED)} "
        "ORDER BY max(coalesce(wish.sent_at, 0), f.changed_at) DESC LIMIT :rows",
        {"word": Word.FAILED, "rows": FAILURES},
    )
    wanted = ("folder", "path", "path_b64", "error")
    return [
        {key: entry[key] for key in wanted if key in entry}
        | {"request_id": row["error_request_id"]}
        for row, entry in ((row, _manifest_entry(row)) for row in rows)
    ]


def hold_object(hold: Hold) -> JsonObject:
    """Return a hold as `status --json` has it; its reason is a code, then words."""
    return {
        "id": hold.id,
        "stops": hold.stops,
        "scope": hold.scope,
        "reason": f"{hold.reason}: {hold.message}",
        "since": timestamp(hold.since),
        "affects": hold.affects,
        "first": hold.first,
        "commands": hold.commands,
    }


def reviews(db: Database, now: float, *, with_decided: bool) -> list[JsonObject]:
    """Return the holds that a person can decide on, the open ones last.

    With those that were decided in the last year, if asked for.
    """
    found = reviewing.reviewable(holds.open_holds(db))
    if with_decided:
        found = holds.decided(db, now - history.DELETIONS_KEPT_SECONDS) + found
    return [_review(hold) for hold in found]


def _review(hold: Hold) -> JsonObject:
    other = {"approved": "reject", "rejected": "approve"}.get(hold.verdict or "")
    return {
        "id": hold.id,
        "folder": reviewing.folder_of(hold),
        "reason": hold.reason,
        "message": hold.message,
        "since": timestamp(hold.since),
        "affects": hold.affects,
        "first": hold.first,
        "parent": hold.parent,
        "verdict": hold.verdict,
        "decided_at": timestamp(hold.released_at),
        "commands": [f"syncd deletes {other} {hold.id}"] if other else hold.commands,
    }


def held_files(db: Database, hold_id: int) -> Iterator[JsonObject]:
    """Yield each file that a hold names, or that was decided on under it."""
    hold = reviewing.find(db, hold_id)
    rows = db.conn.execute(
        f"SELECT {_MANIFEST_COLUMNS} {_ROWS} WHERE f.id IN ({reviewing.FILES}) "
        "ORDER BY f.folder, f.path",
        reviewing.files_of(hold),
    )
    return map(_manifest_entry, rows)


def summary(db: Database) -> str:
    """Return one line on how things stand; cheap, for it is asked for with every beat."""
    row = db.conn.execute(
        """
        SELECT coalesce(sum(status = 'sending' AND in_flight), 0) AS uploading,
          coalesce(sum(status = 'sending' AND NOT in_flight), 0) AS in_doubt,
          coalesce(sum(status = 'planned'), 0)
            + (SELECT count(*) FROM folders CROSS JOIN files ON folder = name
              WHERE files.status = 'ready' AND due_at IS NOT NULL) AS queued,
          (SELECT count(*) FROM files WHERE due_at IS NOT NULL AND status = 'settling') AS settling,
          coalesce(sum(status = 'processing'), 0) AS processing,
          coalesce(sum(status = 'retiring'), 0) AS deleting,
          coalesce(sum(status = 'failed'), 0)
            + (SELECT count(*) FROM files WHERE status = 'unreadable') AS failed
        FROM copies WHERE status NOT IN ('live', 'gone') AND status <> 'released'
        """
    ).fetchone()
    words = ("uploading", "in_doubt", "queued", "settling", "processing", "deleting", "failed")
    parts = [f"{copies.count_live(db)} synced"]
    parts += [f"{row[word]} {word.replace('_', ' ')}" for word in words if row[word]]
    held = holds.open_holds(db)
    parts += [f"{hold.stops} held: {hold.message}" for hold in held[:1]]
    parts += [f"{len(held) - 1} more held"] if len(held) > 1 else []
    return ", ".join(parts)


def story(db: Database, folder: str, path: bytes) -> JsonObject | None:
    """Return everything that is known of one file; None where the table has no row of it."""
    file = files.find(db, folder, path)
    if file is None:
        return None
    row = db.conn.execute(
        f"SELECT {_MANIFEST_COLUMNS} {_ROWS} WHERE f.id = ?", (file.id,)
    ).fetchone()
    every = copies.where(db, "file_id = ? ORDER BY id", (file.id,))
    return _manifest_entry(row) | {
        "file": _file_object(file),
        "copies": [_copy_object(copy) for copy in every],
        "holds": [
            hold_object(hold) for hold in holds.open_holds(db) if _bears(hold, folder, every)
        ],
        "history": past(db, folder, path),
    }


def past(db: Database, folder: str, path: bytes) -> list[JsonObject]:
    """Return what was done to a path so far, the oldest first; kept beyond the file's own row."""
    lines = db.conn.execute(
        "SELECT at, event, file_uuid, detail FROM history WHERE folder = ? AND path = ? "
        "ORDER BY id",
        (folder, path),
    )
    return [dict(line) | {"at": timestamp(line["at"])} for line in lines]


def _bears(hold: Hold, folder: str, every: list[Copy]) -> bool:
    scopes = {EVERYWHERE, folder, holds.of_folder(folder)}
    for copy in every:
        scopes |= {holds.workspace(copy.workspace_uuid), f"copy {copy.id}"}
    return hold.scope in scopes


def _evidence(copy: Copy) -> JsonObject | None:
    """Return why a copy was taken for unneeded, as JSON has it, and in words."""
    if copy.evidence is None:
        return None
    known: JsonObject = json.loads(copy.evidence)
    times = {key: timestamp(known[key]) for key in ("first_look_at", "second_look_at")}
    return known | times | {"text": evidence_text(known)}


def _file_object(file: File) -> JsonObject:
    return {
        "status": file.status,
        "size": file.fingerprint.size if file.fingerprint else None,
        "sha256": file.sha256,
        "generation": file.generation,
        "changed_at": timestamp(file.changed_at),
        "settling_since": timestamp(file.settling_since),
        "is_open": file.is_open,
        "is_skipped": file.is_skipped,
        "missing_since": timestamp(file.missing_since),
        "due_at": timestamp(file.due_at),
        "attempts": file.attempts,
        "crashes": file.crashes,
        "verdict": file.verdict,
        "hold_id": file.hold_id,
        "error": file.error,
    }


def _copy_object(copy: Copy) -> JsonObject:
    times = ("created_at", "sent_at", "stored_at", "live_at", "delete_sent_at", "gone_at", "due_at")
    known: Mapping[str, Any] = {
        name: timestamp(getattr(copy, name)) for name in (*times, "consumed_at")
    }
    return {
        "status": copy.status,
        "in_doubt": copy.in_doubt,
        "file_uuid": copy.file_uuid,
        "size": copy.size,
        "sha256": copy.sha256,
        "content_type": copy.content_type,
        "workspace_uuid": copy.workspace_uuid,
        "method": copy.method,
        "token": copy.token,
        "remote_file_path": copy.remote_file_path,
        "processing_status": copy.processing_status,
        "frame_count": copy.frame_count,
        "video_metadata": copy.video_metadata,
        "attempts": copy.attempts,
        "reason": copy.reason,
        "evidence": _evidence(copy),
        "error": error_text(
            copy.error_message, copy.error_status, copy.error_code, copy.error_request_id
        ),
        "request_id": copy.error_request_id,
        **known,
    }
