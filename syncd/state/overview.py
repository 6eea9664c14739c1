"""How things stand as a whole: what `status` and `deletes list` show."""

import sqlite3
from collections.abc import Iterator

from syncd.state import ages, copies, echo, history, holds, manifest
from syncd.state.ages import AgeStarts, Timing
from syncd.state.database.connection import Database
from syncd.state.folders import obstacles
from syncd.state.holds import EVERYWHERE, Hold, decisions, missing, pauses, standstill
from syncd.state.lifecycle import FileStatus
from syncd.state.manifest import ROWS, WORD, Word
from syncd.state.texts import JsonObject, hold_object, shown, timestamp

#: Failures that an overview names.
FAILURES = 5
#: The words of files that have no copies but live ones and gone ones.
_SIMPLE_WORDS = {
    FileStatus.SETTLING: Word.SETTLING,
    FileStatus.UNREADABLE: Word.FAILED,
    FileStatus.INELIGIBLE: Word.IGNORED,
    FileStatus.CONSUMED: Word.SYNCED,
}
#: Since when a file waits: since the intent to send it, or since it was due first.
_WAITING_SINCE = """
  CASE WHEN newest.status IN ('planned', 'sending') THEN newest.created_at
    WHEN f.waits_since >= f.changed_at THEN f.waits_since ELSE f.due_at END
"""


def overview(
    db: Database, now: float, *, timing: Timing | None = None, starts: AgeStarts | None = None
) -> JsonObject:
    """Return what the table knows of `status --json`: folders, counts, holds, failures, echo.

    A folder has name, path, counts, bytes_left (of files to be sent), missing (files on which
    nothing is decided yet), oldest_queued_seconds, last_scan_at and directories; the newest
    failures have the members that `manifest.failures` names. What is `overdue` by `timing` and
    `starts` has those that `ages.overdue` names.
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
    for name, size in backlog(db).items():
        folders[name]["bytes_left"] = size
    for name, number in missing.undecided(db).items():
        folders[name]["missing"] = number
    return {
        "folders": list(folders.values()),
        "counts": total,
        "holds": [hold_object(hold) for hold in holds.open_holds(db) if not hold.is_over(now)],
        "failures": manifest.failures(db, FAILURES) if total.get(Word.FAILED) else [],
        "overdue": ages.overdue(db, now, timing=timing or Timing(), starts=starts or AgeStarts()),
        "unanswered": unanswered(db),
        "paused": paused(db, now),
        "echo": echo.summary(db),
        "obstacles": obstacles(db),
    }


def _counted(db: Database) -> Iterator[tuple[str, Word, int, float | None]]:
    """Yield folder, word, number of files, and since when the first of them waits.

    Most of a million files are counted by an index alone: only missing ones, and those with work
    under way, are looked at one by one.
    """
    is_held_in_part = db.value(
        "SELECT 1 FROM holds WHERE stops = 'sending' AND released_at IS NULL AND scope <> ? "
        "AND scope NOT LIKE 'copy %'",
        (EVERYWHERE,),
    )
    few = "WHERE f.status = 'missing' OR f.id IN (SELECT file_id FROM copies WHERE status NOT IN "
    few += "('live', 'gone') UNION SELECT file_id FROM decisions)"
    # Only their copies tell which files a hold on sending concerns that is not on everything.
    rows = db.conn.execute(
        f"SELECT f.folder, f.status, f.due_at IS NULL AS at_rest, {WORD} AS word, "
        f"count(*) AS number, min({_WAITING_SINCE}) AS since {ROWS} "
        f"{'' if is_held_in_part else few} GROUP BY 1, 2, 3, 4"
    )
    counted: dict[tuple[str, str, int], int] = {}
    for row in rows:
        key = (row["folder"], row["status"], row["at_rest"])
        counted[key] = counted.get(key, 0) + row["number"]
        yield row["folder"], Word(row["word"]), row["number"], row["since"]
    held, stopped = holds.is_held(db, "sending", EVERYWHERE), standstill.scopes(db)
    # In the order of an index, so that nothing is sorted.
    groups = db.conn.execute(
        "SELECT folder, status, count(*) AS number, count(due_at) AS due, min(due_at) AS since "
        "FROM files GROUP BY status, folder"
    )
    for folder, name, number, waiting, since in groups:
        status = FileStatus(name)
        for at_rest, all_of_them in ((1, number - waiting), (0, waiting)):
            if status is FileStatus.READY and not at_rest:
                word = Word.HELD if held or folder in stopped else Word.QUEUED
            else:
                word = _SIMPLE_WORDS.get(status, Word.SYNCED)
            if others := all_of_them - counted.get((folder, status, at_rest), 0):
                yield folder, word, others, None if at_rest else since


def paused(db: Database, now: float) -> list[JsonObject]:
    """Return what a person has paused; the folder is None if it is everything.

    A pause whose time has come is over, though only a daemon or a pass records it.
    """
    return [
        {
            "folder": None if hold.scope == EVERYWHERE else hold.scope,
            "since": timestamp(hold.since),
            "until": timestamp(hold.until),
        }
        for hold in pauses.open_pauses(db)
        if not hold.is_over(now)
    ]


def _folder(row: sqlite3.Row) -> JsonObject:
    return {
        "name": row["name"],
        "path": shown(row["path"]),
        "last_scan_at": timestamp(row["last_scan_at"]),
        "directories": row["directories"],
        "counts": {},
        "bytes_left": 0,
        "missing": 0,
        "oldest_queued_seconds": None,
    }


def backlog(db: Database) -> dict[str, int]:
    """Return, by folder, the bytes of the files that wait to be sent or are being sent."""
    return dict(
        db.conn.execute(
            """
            SELECT folder, sum(size) FROM (
              SELECT files.folder, files.size FROM folders CROSS JOIN files ON folder = name
              WHERE files.status = 'ready' AND due_at IS NOT NULL AND files.id NOT IN (
                SELECT file_id FROM copies WHERE status NOT IN ('live', 'gone')
                  AND status IN ('planned', 'sending'))
              UNION ALL
              SELECT f.folder, c.size FROM copies AS c JOIN files AS f ON f.id = c.file_id
              WHERE c.status NOT IN ('live', 'gone') AND (c.status = 'planned'
                OR (c.status = 'sending' AND c.in_flight))
            ) GROUP BY folder
            """
        ).fetchall()
    )


def doubts(db: Database) -> int:
    """Return how many uploads got no answer, so that it is not known whether they arrived."""
    count: int = db.value(
        "SELECT count(*) FROM copies WHERE status NOT IN ('live', 'gone') "
        "AND status = 'sending' AND NOT in_flight AND file_uuid IS NULL"
    )
    return count


def unanswered(db: Database) -> tuple[int, float]:
    """Return how many uploads got no sure answer, and since when the last is in doubt."""
    number, since = db.conn.execute(
        "SELECT count(*), coalesce(max(coalesce(doubted_at, sent_at)), 0) FROM copies "
        "WHERE status NOT IN ('live', 'gone') AND status = 'sending' AND NOT in_flight"
    ).fetchone()
    return number, since


def summary(db: Database) -> str:
    """Return one line on how things stand; cheap, for it is asked for with every beat."""
    row = db.conn.execute(
        """
        SELECT coalesce(sum(status = 'sending' AND (in_flight OR file_uuid IS NOT NULL)), 0)
            AS uploading,
          coalesce(sum(status = 'sending' AND NOT in_flight AND file_uuid IS NULL), 0)
            AS in_doubt,
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


def reviews(db: Database, now: float, *, with_decided: bool) -> list[JsonObject]:
    """Return the holds that a person can decide on, the open ones last.

    With those that were decided in the last year, if asked for.
    """
    found = decisions.reviewable(holds.open_holds(db))
    if with_decided:
        found = holds.decided(db, now - history.DELETIONS_KEPT_SECONDS) + found
    return [_review(db, hold) for hold in found]


def _review(db: Database, hold: Hold) -> JsonObject:
    commands = hold.commands
    if hold.verdict is not None:
        other = {"approved": "reject", "rejected": "approve"}[hold.verdict]
        changeable = decisions.is_changeable(db, hold.id)
        commands = [f"syncd deletes {other} {hold.id}"] if changeable else []
    return {
        "id": hold.id,
        "folder": decisions.folder_of(hold),
        "reason": hold.reason,
        "message": hold.message,
        "since": timestamp(hold.since),
        "affects": hold.affects,
        "first": hold.first,
        "parent": hold.parent,
        "named": not decisions.is_about_root(hold),
        "verdict": hold.verdict,
        "decided_at": timestamp(hold.released_at),
        "commands": commands,
    }
