"""Too many missing files at once: they are judged when the first of them would be deleted."""

import json
import logging
from collections.abc import Collection, Sequence

from syncd.state import holds
from syncd.state.database.connection import Database
from syncd.state.holds import MANY_MISSING, MORE_MISSING, decisions
from syncd.state.holds.decisions import STORED
from syncd.state.planner import Limits, Policy
from syncd.units import counted

log = logging.getLogger(__name__)

#: Seconds within which deletions count together.
WINDOW_SECONDS = 3600.0
#: A file that changed so many seconds after another went missing is not that one under a new name;
#: nor is one that was open for writing for as long.
RENAME_SECONDS = 600.0
#: The longest that a missing file is kept for what may be its new name, in seconds.
LONGEST_RENAME_SECONDS = 86_400.0

#: SQL for a file that is not hashed yet and may be the missing one under a new name.
#: The pluses keep SQLite from going through all files of the folder.
_NEW_NAME = """
  SELECT 1 FROM files AS new WHERE new.sha256 IS NULL AND new.size = files.size
    AND new.id <> files.id AND +new.changed_at <= files.missing_since + :rename
    AND files.missing_since > :now - :longest
    AND (new.status = 'ready' OR (new.status = 'settling' AND (NOT new.is_open
      OR coalesce(new.settling_since, new.changed_at) BETWEEN :now - :rename AND :now)))
    AND +new.folder IN ({neighbours})
"""
#: SQL for the ids of a folder's missing files on which nobody decided, and that no hold names.
_UNNAMED = f"""
  SELECT files.id FROM files
  WHERE files.status = 'missing' AND folder = :folder AND files.due_at IS NOT NULL
    AND confirmed_at IS NULL AND {STORED}
    AND NOT EXISTS (SELECT 1 FROM decisions WHERE file_id = files.id)
  UNION SELECT files.id FROM copies CROSS JOIN files ON files.id = copies.file_id
  WHERE copies.status NOT IN ('live', 'gone') AND copies.status = 'retiring'
    AND files.status = 'missing' AND folder = :folder AND {STORED}
    AND NOT EXISTS (SELECT 1 FROM decisions WHERE file_id = files.id)
"""
_MESSAGE = (
    "{files}%s went missing, %s: if that is right, approve it, and their remote copies are "
    "deleted; else bring the files back, or reject it, and the remote copies are kept"
)
_MORE = (
    "{files} more went missing, nothing deleted yet: they are judged anew once the other hold is "
    "decided"
)


def awaiting_rename(
    db: Database, file_ids: Sequence[int], folders: Collection[str], now: float
) -> set[int]:
    """Return those missing files that one in `folders`, not hashed yet, may be by a new name."""
    rows = db.conn.execute(
        "SELECT id FROM files WHERE id IN (SELECT value FROM json_each(:ids)) "
        f"AND EXISTS ({_new_name(folders)})",
        {"ids": json.dumps(file_ids), **_times(now), **_marks(folders)},
    )
    return {row[0] for row in rows}


def undecided(db: Database) -> dict[str, int]:
    """Return how many missing files of each folder nothing is decided on, if there are any."""
    rows = db.conn.execute(
        "SELECT folder, count(*) FROM (SELECT folder FROM folders CROSS JOIN files "
        "ON files.status = 'missing' AND folder = name AND due_at IS NOT NULL "
        f"WHERE confirmed_at IS NULL AND {STORED} "
        "AND NOT EXISTS (SELECT 1 FROM decisions WHERE file_id = files.id) "
        "UNION ALL SELECT folder FROM decisions JOIN files ON files.id = file_id "
        "WHERE decisions.verdict = 'held' AND files.status = 'missing') GROUP BY folder"
    )
    return {row[0]: row[1] for row in rows}


def is_review_due(db: Database, folder: str, policy: Policy) -> bool:
    """Say whether the holds on a folder's missing files are not up to date."""
    first, second = _open(db, folder, MANY_MISSING), _open(db, folder, MORE_MISSING)
    if not policy.mirrors:
        return bool(first or second)
    return bool(second and not first)


def review(
    db: Database, folder: str, policy: Policy, neighbours: Collection[str], now: float
) -> None:
    """Hold a folder's missing files where they are too many to be deleted unasked.

    A hold that is shown names no more files later: a second one collects them, and is judged anew
    when the first is decided. What may only have moved is judged once that is clear.
    """
    if not policy.mirrors:
        _release(db, folder, MANY_MISSING, now)
        _release(db, folder, MORE_MISSING, now)
        return
    shown = _open(db, folder, MANY_MISSING)
    parameters = {"folder": folder, **_times(now), **_marks(neighbours)}
    unnamed = [
        row[0]
        for row in db.conn.execute(
            f"SELECT id FROM files WHERE id IN ({_UNNAMED}) "
            f"AND NOT EXISTS ({_new_name(neighbours)})",
            parameters,
        )
    ]
    deleted = 0 if policy.limits.are_off else _deleted_lately(db, folder, now)
    missing = len(unnamed) + _named(db, folder) + deleted
    if not _are_too_many(db, folder, policy.limits, missing, deleted):
        if shown is None:
            _release(db, folder, MORE_MISSING, now)
        return
    if shown is None and (second := _open(db, folder, MORE_MISSING)) is not None:
        # The files that it collected are many on their own, so it is now the hold that is shown.
        holds.rename(db, second, MANY_MISSING)
        _hold(db, folder, MANY_MISSING, unnamed, deleted, now)
    elif unnamed:
        reason = MANY_MISSING if shown is None else MORE_MISSING
        _hold(db, folder, reason, unnamed, deleted, now)


def _hold(
    db: Database, folder: str, reason: str, file_ids: Collection[int], deleted: int, now: float
) -> None:
    is_shown, is_new = reason == MANY_MISSING, _open(db, folder, reason) is None
    hold = decisions.name(
        db,
        file_ids,
        stops="deletions",
        scope=folder,
        reason=reason,
        message=_MORE,
        commands=decisions.COMMANDS if is_shown else ("syncd deletes list {id}",),
        now=now,
        is_told=False,
    )
    if is_shown:
        where = f" in {hold.parent}" if hold.parent else ""
        fate = "nothing deleted yet"
        if deleted:
            fate = f"after {counted(deleted, 'deletion')} within the last hour"
        holds.describe(db, hold.id, _MESSAGE % (where, fate), decisions.COMMANDS)
    if is_new:
        holds.tell(db, hold.id, now)
        log.warning("%s: deletions are held: %s missing", folder, counted(len(file_ids), "file"))


def _are_too_many(db: Database, folder: str, limits: Limits, missing: int, deleted: int) -> bool:
    if not limits.are_exceeded(missing, 0):
        return False
    enough = limits.enough(missing)
    row = db.conn.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM files WHERE folder = ? AND {STORED} LIMIT ?)",
        (folder, enough),
    ).fetchone()
    return limits.are_exceeded(missing, int(row[0]) + deleted)


def _named(db: Database, folder: str) -> int:
    row = db.conn.execute(
        "SELECT count(*) FROM decisions JOIN holds ON holds.id = hold_id "
        "WHERE decisions.verdict = 'held' AND released_at IS NULL AND stops = 'deletions' "
        "AND scope = ? AND reason IN (?, ?)",
        (folder, MANY_MISSING, MORE_MISSING),
    ).fetchone()
    return int(row[0])


def _deleted_lately(db: Database, folder: str, now: float) -> int:
    """Return how many files were deleted within the last hour, or in a future, unasked.

    A file counts even if it is back: what was deleted is told by its copies.
    """
    row = db.conn.execute(
        "SELECT count(DISTINCT files.id) FROM (SELECT file_id, evidence FROM copies "
        "WHERE status = 'gone' AND gone_at > :since AND delete_sent_at > :since UNION ALL "
        "SELECT file_id, evidence FROM copies WHERE status NOT IN ('live', 'gone') AND "
        "status = 'retiring' AND (delete_sent_at > :since OR live_at IS NULL)) "
        "JOIN files ON files.id = file_id WHERE folder = :folder "
        "AND evidence IS NOT NULL AND json_extract(evidence, '$.approved_in_hold') IS NULL",
        {"folder": folder, "since": now - WINDOW_SECONDS},
    ).fetchone()
    return int(row[0])


def _open(db: Database, folder: str, reason: str) -> int | None:
    return holds.open_id(db, stops="deletions", scope=folder, reason=reason)


def _release(db: Database, folder: str, reason: str, now: float) -> None:
    if holds.release(db, stops="deletions", scope=folder, reason=reason, now=now):
        log.info("%s: deletions are free again (%s)", folder, reason)


def _new_name(neighbours: Collection[str]) -> str:
    return _NEW_NAME.format(neighbours=", ".join(f":{mark}" for mark in _marks(neighbours)))


def _marks(neighbours: Collection[str]) -> dict[str, str]:
    return {f"n{number}": name for number, name in enumerate(neighbours)}


def _times(now: float) -> dict[str, float]:
    return {"now": now, "rename": RENAME_SECONDS, "longest": LONGEST_RENAME_SECONDS}
