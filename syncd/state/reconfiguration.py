"""Applies a changed configuration to the ledger: copies are released, never deleted.

A folder that is not configured any more releases its copies; so does one with another workspace,
whose files are then sent there. What is mirrored again is taken up by its SHA-256.
"""

from collections.abc import Collection

from syncd.state import files, folders, holds
from syncd.state.apply_plan import Policies, advance
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.holds import Hold
from syncd.state.lifecycle import FileStatus, Verdict

#: Files in one transaction.
BATCH = 500
NOT_CONFIGURED = "its folder is not configured any more"


def removed(db: Database, configured: Collection[str]) -> list[str]:
    """Return the folders that are known, not configured, and not released yet, or still held."""
    names = [name for name in folders.names(db) if name not in configured]
    return [name for name in names if _mirrored(db, name, 1) or _holds(db, name)]


def release_removed(db: Database, folder: str, policies: Policies, now: float) -> int:
    """Release the copies of some files of a removed folder; return how many files that were.

    Its holds end with it: nobody looks after them any more.
    """
    for hold in _holds(db, folder):
        holds.release(db, stops=hold.stops, scope=hold.scope, reason=hold.reason, now=now)
    found = _mirrored(db, folder, BATCH)
    for file in found:
        files.update(
            db,
            file.id,
            status=FileStatus.INELIGIBLE,
            due_at=None,
            error=NOT_CONFIGURED,
            missing_since=None,
            confirmed_at=None,
            verdict=None,
        )
        advance(db, file.id, policies, now)
    return len(found)


def _holds(db: Database, folder: str) -> list[Hold]:
    scopes = (folder, holds.sending_scope(folder))
    return [
        hold
        for hold in holds.open_holds(db)
        # A pause is ended by its time, or by who placed it: the folder may come back.
        if hold.reason != holds.PAUSED
        and hold.scope.partition("/")[0] == scopes[hold.stops == "sending"]
    ]


def release_all(db: Database, folder: str, now: float) -> None:
    """Release what is live or processed of a folder for which another root was taken.

    Each file that is in that one, too, is taken up again by its SHA-256. What came from the earlier
    root is never deleted, whatever is in its place: not even what arrives only now.
    """
    parameters, reason = {"folder": folder, "now": now}, "'another folder is in its place'"
    db.conn.execute(
        "INSERT INTO history (at, folder, path, event, file_uuid, detail) "
        f"SELECT :now, folder, path, 'released', file_uuid, {reason} FROM copies "
        "JOIN files ON files.id = file_id WHERE folder = :folder "
        "AND copies.status IN ('live', 'processing')",
        parameters,
    )
    db.conn.execute(
        "UPDATE copies SET kept = 1 WHERE status NOT IN ('retiring', 'gone') "
        "AND file_id IN (SELECT id FROM files WHERE folder = :folder)",
        parameters,
    )
    db.conn.execute(
        f"UPDATE copies SET status = 'released', due_at = NULL, reason = {reason} WHERE "
        "status IN ('live', 'processing') "
        "AND file_id IN (SELECT id FROM files WHERE folder = :folder)",
        parameters,
    )
    db.conn.execute(
        "UPDATE files SET status = 'settling', due_at = :now, sha256 = NULL, "
        "generation = generation + 1 "
        "WHERE folder = :folder AND status IN ('ready', 'settling', 'unreadable')",
        parameters,
    )


def _mirrored(db: Database, folder: str, limit: int) -> list[File]:
    return files.where(
        db,
        "folder = ? AND status NOT IN ('ineligible', 'consumed') AND NOT (status = 'missing' "
        "AND confirmed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM copies "
        "WHERE file_id = files.id AND copies.status NOT IN ('gone', 'released'))) LIMIT ?",
        (folder, limit),
    )


def moved(db: Database, policies: Policies) -> list[str]:
    """Return the configured folders whose workspace is another one than before, or not known."""
    known = folders.workspaces(db)
    return [
        name
        for name, policy in policies.items()
        if name in known and known[name] != (policy.workspace_uuid or "")
    ]


def release_moved(
    db: Database, folder: str, policies: Policies, now: float, *, after: int = 0
) -> int | None:
    """Release what some files of a folder have in other workspaces, from file id `after` on.

    Returns the id to go on after; None once the folder is through, which is then remembered.
    """
    workspace = policies[folder].workspace_uuid
    # If none is known, this may be the first look at the same one.
    is_other = folders.workspaces(db).get(folder) is not None
    found = files.where(
        db,
        "folder = ? AND id > ? AND ((? AND files.status <> 'missing' AND id IN "
        "(SELECT file_id FROM decisions WHERE verdict IN ('held', 'forgotten'))) "
        "OR EXISTS (SELECT 1 FROM copies WHERE file_id = files.id "
        "AND copies.status IN ('live', 'planned', 'failed') "
        "AND workspace_uuid IS NOT ?)) ORDER BY id LIMIT ?",
        (folder, after, is_other, workspace, BATCH),
    )
    for file in found:
        if is_other and file.present and file.verdict in (Verdict.HELD, Verdict.FORGOTTEN):
            # The copy that others deleted was in the previous workspace.
            files.update(db, file.id, verdict=None)
        advance(db, file.id, policies, now)
    if found:
        return found[-1].id
    folders.note_workspace(db, folder, workspace or "")
    return None
