"""Recent work: the newest synced files, and how much in each part of the last day."""

from syncd.state.database.connection import Database
from syncd.state.texts import JsonObject, path_members, timestamp

#: The last day in parts of a quarter of an hour.
PARTS, PART_SECONDS = 96, 900.0
#: The newest files that are named, and the lines of the history that are read for them at most.
NEWEST, LINES = 10, 1000
#: This uses the index of the history's age, which SQLite misses if `event` has no plus.
_SYNCED = "FROM history CROSS JOIN copies USING (file_uuid) WHERE (event = 'deleted') = 0"


def last_synced(db: Database) -> list[JsonObject]:
    """Return the files that were synced last, the newest first, each with its last time."""
    rows = db.conn.execute(
        f"""
        SELECT folder, path, copies.size, max(at) AS at FROM (
          SELECT folder, path, file_uuid, event, at FROM history WHERE (event = 'deleted') = 0
          ORDER BY at DESC LIMIT {LINES})
        CROSS JOIN copies USING (file_uuid) WHERE event = 'synced'
        GROUP BY folder, path ORDER BY at DESC LIMIT {NEWEST}
        """
    )
    found = []
    for folder, path, size, at in rows:
        found.append({"folder": folder, **path_members(path), "size": size, "at": timestamp(at)})
    return found


def last_day(db: Database, now: float) -> list[list[int]]:
    """Return files and bytes that were synced in each part of the last day, the oldest first."""
    since = now - PARTS * PART_SECONDS
    parts = [[0, 0] for _ in range(PARTS)]
    rows = db.conn.execute(
        f"SELECT min(CAST((at - :since) / :part AS INTEGER), :last), count(*), sum(size) {_SYNCED} "
        "AND at > :since AND +event = 'synced' GROUP BY 1",
        {"since": since, "part": PART_SECONDS, "last": PARTS - 1},
    )
    for part, files, size in rows:
        parts[part] = [files, size]
    return parts
