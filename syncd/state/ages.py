"""Finds overdue files: those that have been in one state for longer than its limit.

`LIMITS` has a limit for each state. Held files, and files that wait because the service asked for
it, are not overdue. An age counts from when a file entered its state, never from its next try.
"""

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from syncd.state import holds
from syncd.state.database.connection import Database
from syncd.state.holds import standstill
from syncd.state.manifest import ROWS, WORD
from syncd.state.texts import JsonObject, error_text, path_members, timestamp

#: Failed tries, or refusals, after which a file is overdue whatever its age.
MANY_TRIES, MANY_REFUSALS = 5, 3
#: Seconds within which a queue must advance, and other due work must be done.
QUEUE_SECONDS = DUE_SECONDS = 600.0
#: Seconds without a byte after which a transfer is overdue.
TRANSFER_SECONDS = 300.0
#: Seconds between two looks for an upload that got no answer.
LOOK_SECONDS = 30.0
#: The least limit for settling, however short `settle_seconds` is.
LEAST_SETTLING_SECONDS = 60.0


class OverdueState(enum.StrEnum):
    """The state that an overdue file has been in for too long."""

    SETTLING = "settling"
    QUEUED = "queued"
    FAILING = "failing"
    UPLOADING = "uploading"
    IN_DOUBT = "in doubt"
    PROCESSING = "processing"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Timing:
    """The configured durations in seconds; those of folders are by name."""

    settle: Mapping[str, float] = field(default_factory=dict)
    grace: Mapping[str, float] = field(default_factory=dict)
    rescan: Mapping[str, float] = field(default_factory=dict)
    resend_after: float = 120.0
    stalled_after: float = 86_400.0


class AgeStarts(NamedTuple):
    """The times at which ages start to count (seconds since the epoch).

    Ages do not grow while the daemon starts, sleeps, or waits because the service asked for it.
    `progress_at` is when the queue last advanced, or None if that is unknown.
    """

    undisturbed_since: float = 0.0
    progress_at: float | None = None


Limit = Callable[[Timing, str, float], float]
#: By state: the seconds that a file may stay in it, given its folder and the scan's duration.
LIMITS: Mapping[OverdueState, Limit] = {
    OverdueState.SETTLING: lambda timing, folder, scan: (
        max(10 * timing.settle.get(folder, 5.0), LEAST_SETTLING_SECONDS) + scan
    ),
    OverdueState.QUEUED: lambda _timing, _folder, _scan: QUEUE_SECONDS,
    OverdueState.FAILING: lambda _timing, _folder, _scan: DUE_SECONDS,
    OverdueState.UPLOADING: lambda _timing, _folder, _scan: TRANSFER_SECONDS,
    OverdueState.IN_DOUBT: lambda timing, _folder, _scan: timing.resend_after + 2 * LOOK_SECONDS,
    OverdueState.PROCESSING: lambda timing, _folder, _scan: timing.stalled_after,
    OverdueState.DELETING: lambda timing, folder, _scan: (
        timing.grace.get(folder, 60.0) + 2 * timing.rescan.get(folder, 300.0)
    ),
}
_TRIED = f"(c.attempts >= {MANY_TRIES} OR c.refusals >= {MANY_REFUSALS})"
_OPEN = "c.status NOT IN ('live', 'gone')"
_AT_STANDSTILL = standstill.condition("f.folder")
#: A missing file may have a new name in a folder at a standstill, where nothing is hashed.
_MAY_HAVE_MOVED = f"""
  EXISTS (SELECT 1 FROM files AS new WHERE new.sha256 IS NULL AND new.size = f.size
    AND new.status IN ('ready', 'settling') AND {standstill.condition("new.folder")})
"""
_HELD_DELETING = f"""
  ({holds.paused("f.folder")}
    OR EXISTS (SELECT 1 FROM decisions WHERE file_id = f.id AND verdict IN ('held', 'kept'))
    OR (EXISTS (SELECT 1 FROM holds WHERE stops = 'deletions' AND released_at IS NULL
        AND scope IN ('*', f.folder))
      AND NOT EXISTS (SELECT 1 FROM decisions WHERE file_id = f.id)))
"""
#: By state: its overdue files, since when, the next try, whether they are `often_tried` (overdue
#: at any age), and the last error. A file must have entered the state before `:limit`.
_QUERIES: Mapping[OverdueState, str] = {
    OverdueState.SETTLING: """
      SELECT f.path, f.changed_at AS since, f.due_at AS next_at, 0 AS often_tried,
        NULL AS error_message, NULL AS error_status
      FROM files f WHERE f.folder = :folder AND f.status = 'settling' AND NOT f.is_open
        AND (f.changed_at < :limit OR f.changed_at > :future)
    """,
    OverdueState.FAILING: f"""
      SELECT f.path, f.waits_since AS since, f.due_at AS next_at, 0 AS often_tried,
        f.error AS error_message, NULL AS error_status
      FROM files f WHERE f.folder = :folder AND f.status = 'ready' AND f.due_at IS NOT NULL
        AND f.waits_since >= f.changed_at AND f.waits_since < :limit AND NOT {_AT_STANDSTILL}
      UNION ALL
      SELECT f.path, c.created_at, c.due_at, {_TRIED},
        c.error_message, c.error_status
      FROM copies c JOIN files f ON f.id = c.file_id
      WHERE c.status = 'planned' AND {_OPEN} AND f.folder = :folder AND f.status = 'ready'
        AND c.error_message IS NOT NULL AND coalesce(c.error_status, 0) NOT IN (401, 402, 429)
        AND (c.created_at < :limit OR {_TRIED}) AND NOT {_AT_STANDSTILL}
        AND NOT EXISTS (SELECT 1 FROM holds WHERE stops = 'sending' AND released_at IS NULL
          AND scope IN ('*', coalesce(c.workspace_uuid, '{holds.workspace_scope(None)}')))
    """,
    OverdueState.IN_DOUBT: f"""
      SELECT f.path, coalesce(c.doubted_at, c.sent_at) AS since, c.due_at AS next_at,
        0 AS often_tried, c.error_message, c.error_status
      FROM copies c JOIN files f ON f.id = c.file_id
      WHERE c.status = 'sending' AND NOT c.in_flight AND {_OPEN} AND f.folder = :folder
        AND coalesce(c.doubted_at, c.sent_at) < :limit AND NOT EXISTS (SELECT 1 FROM holds
          WHERE stops = 'sending' AND released_at IS NULL AND scope IN ('*', 'copy ' || c.id))
    """,
    OverdueState.PROCESSING: f"""
      SELECT f.path, c.stored_at AS since, c.due_at AS next_at,
        c.attempts >= {MANY_TRIES} AS often_tried, c.error_message, c.error_status
      FROM copies c JOIN files f ON f.id = c.file_id
      WHERE c.status = 'processing' AND {_OPEN} AND f.folder = :folder AND c.stored_at < :limit
    """,
    OverdueState.DELETING: f"""
      SELECT f.path, f.missing_since AS since, f.due_at AS next_at, 0 AS often_tried,
        NULL AS error_message, NULL AS error_status
      FROM files f WHERE f.folder = :folder AND f.status = 'missing' AND f.confirmed_at IS NULL
        AND f.due_at IS NOT NULL AND f.missing_since < :limit AND NOT {_HELD_DELETING}
        AND NOT {_MAY_HAVE_MOVED}
      UNION ALL
      SELECT f.path, coalesce(c.delete_sent_at, f.confirmed_at), c.due_at,
        c.attempts >= {MANY_TRIES}, c.error_message, c.error_status
      FROM copies c JOIN files f ON f.id = c.file_id
      WHERE c.status = 'retiring' AND {_OPEN} AND f.folder = :folder
        AND coalesce(c.error_status, 0) NOT IN (401, 429)
        AND (coalesce(c.delete_sent_at, f.confirmed_at) < :limit OR c.attempts >= {MANY_TRIES})
        AND NOT {_HELD_DELETING}
    """,
}


def overdue(db: Database, now: float, *, timing: Timing, starts: AgeStarts) -> list[JsonObject]:
    """Return the overdue files, one object per folder and state, with the oldest file.

    Each has state, folder, files, path, since, next_at (when the last of them is tried again) and
    error. A file that was tried many times is overdue whatever its age. The table does not know
    the progress of a transfer, so the caller judges that.
    """
    found: list[JsonObject] = []
    for row in db.conn.execute("SELECT name, last_scan_seconds FROM folders").fetchall():
        for state in _QUERIES:
            limit = LIMITS[state](timing, row["name"], row["last_scan_seconds"] or 0.0)
            found += _of_state(db, now, row["name"], state, limit, starts)
        found += _stuck_queue(db, now, row["name"], starts)
    return found


def _of_state(
    db: Database, now: float, folder: str, state: OverdueState, limit: float, starts: AgeStarts
) -> Iterator[JsonObject]:
    # A short limit applies only once the daemon has been undisturbed for that long.
    counts = now - starts.undisturbed_since >= min(limit, DUE_SECONDS)
    rows = db.conn.execute(
        f"WITH late AS (SELECT * FROM ({_QUERIES[state]}) WHERE often_tried OR :counts) "
        "SELECT *, (SELECT max(next_at) FROM late) AS last_at, count(*) AS number, min(since) "
        "FROM late",
        {"folder": folder, "limit": now - limit, "future": now + limit, "counts": counts},
    )
    for row in rows:
        if row["number"]:
            error = error_text(row["error_message"], row["error_status"], None, None)
            yield _entry(
                state, folder, row["number"], row["path"], row["since"], error, row["last_at"]
            )


def _stuck_queue(db: Database, now: float, folder: str, starts: AgeStarts) -> Iterator[JsonObject]:
    """Yield the folder's queue if it is stuck: nothing is sent, and no upload ended."""
    moved_at = max(starts.progress_at or now, starts.undisturbed_since)
    if now - moved_at < QUEUE_SECONDS:
        return
    row = db.conn.execute(
        f"SELECT path, word, due_at FROM (SELECT f.path, f.due_at, {WORD} AS word {ROWS} "
        "WHERE f.folder = :folder AND f.status = 'ready' AND f.due_at <= :limit "
        "ORDER BY f.due_at LIMIT 1) WHERE word = 'queued'",
        {"folder": folder, "limit": now - QUEUE_SECONDS},
    ).fetchone()
    if row is not None:
        number = db.value(
            "SELECT count(*) FROM files WHERE status = 'ready' AND folder = ? AND due_at <= ?",
            (folder, now),
        )
        yield _entry(OverdueState.QUEUED, folder, number, row["path"], row["due_at"], None)


def _entry(
    state: OverdueState,
    folder: str,
    number: int,
    path: bytes,
    since: float | None,
    error: str | None,
    next_at: float | None = None,
) -> JsonObject:
    return {
        "state": state,
        "folder": folder,
        "files": number,
        **path_members(path),
        "since": timestamp(since),
        "next_at": timestamp(next_at),
        "error": error,
    }
