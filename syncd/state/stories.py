"""Everything that is known of one file, its copies, and what was done to its path."""

import json
from collections.abc import Mapping
from typing import Any

from syncd.state import copies, files, holds
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.deletions import evidence_text
from syncd.state.files import File
from syncd.state.holds import EVERYWHERE, Hold
from syncd.state.manifest import COLUMNS, ROWS, entry
from syncd.state.texts import JsonObject, error_text, hold_object, shown, timestamp

#: A record that a broken attempt left behind is made after the copy that is sent again.
_LAST_SENT = "status = 'planned', coalesce(sent_at, created_at), id"


def story(db: Database, folder: str, path: bytes) -> JsonObject | None:
    """Return everything that is known of one file; None when the table has no row of it."""
    file = files.find(db, folder, path)
    if file is None:
        return None
    row = db.conn.execute(f"SELECT {COLUMNS} {ROWS} WHERE f.id = ?", (file.id,)).fetchone()
    every = copies.where(db, f"file_id = ? ORDER BY {_LAST_SENT}", (file.id,))
    return entry(row) | {
        "file": _file_object(file),
        "copies": [_copy_object(copy) for copy in every],
        "holds": [
            hold_object(hold) for hold in holds.open_holds(db) if _bears(hold, folder, path, every)
        ],
        "history": past(db, folder, path),
    }


def place_of(db: Database, file_uuid: str) -> tuple[str, bytes] | None:
    """Return folder and path of the file that has, or had, the copy `file_uuid`."""
    row = db.conn.execute(
        "SELECT folder, path FROM copies JOIN files ON files.id = file_id WHERE file_uuid = ?",
        (file_uuid.lower(),),
    ).fetchone()
    return None if row is None else (row["folder"], row["path"])


def past(db: Database, folder: str, path: bytes) -> list[JsonObject]:
    """Return what was done to a path so far, the oldest first; kept beyond the file's own row."""
    lines = db.conn.execute(
        "SELECT at, event, file_uuid, detail FROM history WHERE folder = ? AND path = ? "
        "ORDER BY id",
        (folder, path),
    )
    return [dict(line) | {"at": timestamp(line["at"])} for line in lines]


def code_of(hold: JsonObject) -> str:
    """Return the reason of a hold as it is told: what stands before its words."""
    code: str = hold["reason"].partition(":")[0]
    return code


def out_of_sight(story: JsonObject) -> str:
    """Return the reason of a hold by which the file cannot be seen now; empty if there is none."""
    for hold in story["holds"]:
        code = code_of(hold)
        if code == holds.ROOT_MISSING or (
            code == holds.ROOT_REPLACED and hold["stops"] == "folder"
        ):
            return code
    return ""


def _bears(hold: Hold, folder: str, path: bytes, every: list[Copy]) -> bool:
    scopes = {EVERYWHERE, folder, holds.sending_scope(folder)}
    # A disk that is mounted in the folder has holds of its own.
    parts = path.split(b"/")
    scopes |= {f"{folder}/{shown(b'/'.join(parts[:end]))}" for end in range(1, len(parts))}
    for copy in every:
        scopes |= {holds.workspace_scope(copy.workspace_uuid), f"copy {copy.id}"}
    return hold.scope in scopes


def _evidence(copy: Copy) -> JsonObject | None:
    """Return why a copy became unneeded, as JSON and in words."""
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
        "in_doubt": copy.in_doubt and not copy.is_confirming,
        "confirming": copy.is_confirming,
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
