"""Restarts grace periods after the clock was set or a mount changed."""

import json
from collections.abc import Iterable, Sequence

from syncd.state import scan_index
from syncd.state.database.connection import Database

#: No due time lies further ahead; a later one comes from another clock.
LONGEST_WAIT_SECONDS = 3600.0
#: A time that is no more ahead may be of a request that began after the clock was read, in seconds.
MEANWHILE_SECONDS = 30.0
#: The time of an event whose time is unknown, in seconds since the epoch.
LONG_AGO = 1.0


def restart(db: Database, now: float, folders: Iterable[str], *, set_back: float = 0.0) -> None:
    """Restart every grace period of these folders because the clock jumped.

    If the clock was `set_back`, bring every due time forward by as many seconds. An upload in doubt
    no longer has a reliable sending time, so it is looked for among all objects.
    """
    ahead = now + MEANWHILE_SECONDS
    db.conn.execute(
        # The index of copies under way needs exactly these words.
        "UPDATE copies SET sent_at = :long_ago, doubted_at = :now "
        "WHERE status NOT IN ('live', 'gone') AND status = 'sending' "
        "AND (sent_at > :ahead OR :set_back > 0)",
        {"long_ago": LONG_AGO, "now": now, "ahead": ahead, "set_back": set_back},
    )
    latest = now + LONGEST_WAIT_SECONDS
    db.conn.execute(
        "UPDATE unanswered SET sent_at = :long_ago, look_at = min(look_at, :latest) "
        "WHERE sent_at > :ahead OR :set_back",
        {"long_ago": LONG_AGO, "ahead": ahead, "latest": latest, "set_back": set_back},
    )
    for table in ("files", "copies"):
        db.conn.execute(
            f"UPDATE {table} SET due_at = max(due_at - :set_back, :now) WHERE due_at > :now",
            {"set_back": set_back, "now": now},
        )
        db.conn.execute(f"UPDATE {table} SET due_at = ? WHERE due_at > ?", (now, latest))
    for folder in folders:
        restart_beneath(db, folder, b"", now, confirmed=False)


def restart_beneath(db: Database, folder: str, part: bytes, now: float, *, confirmed: bool) -> None:
    """Have the files that are missing beneath a `part` of a folder looked at a first time again.

    Their grace period begins with that look. `confirmed` ones count if copies of theirs are still
    to be deleted.
    """
    first, beyond = scan_index.range_beneath(part)
    parameters = {"now": now, "folder": folder, "first": first, "beyond": beyond}
    parameters["confirmed"] = confirmed
    db.conn.execute(
        "UPDATE files SET missing_since = NULL, confirmed_at = NULL, removal_seen = 0, "
        "due_at = CASE WHEN due_at IS NOT NULL OR confirmed_at IS NOT NULL THEN :now END "
        "WHERE folder = :folder AND status = 'missing' AND path > :first AND path < :beyond "
        "AND (confirmed_at IS NULL OR (:confirmed AND EXISTS (SELECT 1 FROM copies "
        "WHERE file_id = files.id AND copies.status NOT IN ('live', 'gone') "
        "AND copies.status = 'retiring')))",
        parameters,
    )
    db.conn.execute(
        "UPDATE decisions SET due_at = :now WHERE due_at IS NOT NULL AND file_id IN (SELECT id "
        "FROM files WHERE folder = :folder AND status = 'missing' AND missing_since IS NULL "
        "AND path > :first AND path < :beyond)",
        parameters,
    )


def begin(db: Database, file_ids: Sequence[int], now: float, seconds: float) -> None:
    """Record the first look that found files missing: their grace period of `seconds` begins."""
    parameters = {"now": now, "due_at": now + seconds, "ids": json.dumps(file_ids)}
    ids = "(SELECT value FROM json_each(:ids))"
    db.conn.execute(
        "UPDATE files SET missing_since = :now, "
        f"due_at = CASE WHEN due_at IS NOT NULL THEN :due_at END WHERE id IN {ids}",
        parameters,
    )
    db.conn.execute(
        f"UPDATE decisions SET due_at = :due_at WHERE due_at IS NOT NULL AND file_id IN {ids}",
        parameters,
    )
