"""The `folders` table, and the `parts` table with the last accepted identity of each root."""

from typing import NamedTuple

from syncd.identity import RootIdentity
from syncd.state.database.connection import Database


class Part(NamedTuple):
    """A root, or a directory beneath it on which something is mounted."""

    #: the directory that its known files belong to
    identity: RootIdentity
    #: another directory that has most of these files: they are synced, and none is deleted
    alike: RootIdentity | None = None
    #: whether nothing beneath it may be touched: it was replaced, or put back to an earlier state
    is_stopped: bool = False
    #: older observations of its files are no evidence that it was put back to an earlier state
    believed_at: float = 0.0
    #: the mount that it was last judged on
    mount: str = ""


def is_known(db: Database, name: str) -> bool:
    """Return whether the folder was ever watched."""
    return db.value("SELECT 1 FROM folders WHERE name = ?", (name,)) is not None


def parts(db: Database, name: str) -> dict[bytes, Part]:
    """Return the known parts of a folder by path; the root, once seen, has the empty path."""
    rows = db.conn.execute(
        "SELECT path, filesystem, inode, alike, alike_inode, is_stopped, believed_at, mount "
        "FROM parts WHERE folder = ?",
        (name,),
    )
    return {
        row[0]: Part(
            RootIdentity(row[1], int(row[2])),
            None if row[3] is None else RootIdentity(row[3], int(row[4])),
            bool(row[5]),
            *row[6:],
        )
        for row in rows
    }


def note(db: Database, name: str, path: bytes, now: float | None) -> None:
    """Record a folder and its path; `now`, if its root is there, sets `since` the first time."""
    db.conn.execute(
        "INSERT INTO folders (name, path, since) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
        "SET path = excluded.path, since = coalesce(since, excluded.since) "
        "WHERE path <> excluded.path OR (since IS NULL AND excluded.since IS NOT NULL)",
        (name, path, now),
    )


def accept_part(
    db: Database, name: str, part: bytes, identity: RootIdentity, believed_at: float = 0.0
) -> None:
    """Accept `identity` as that of the folder's `part`, replacing whatever was known."""
    db.conn.execute(
        "INSERT OR REPLACE INTO parts (folder, path, filesystem, inode, believed_at) "
        "VALUES (?, ?, ?, ?, ?)",
        (name, part, identity.filesystem, str(identity.inode), believed_at),
    )


def note_judged(db: Database, name: str, part: bytes, judged: Part) -> None:
    """Record how a known part was judged, on which mount, and which directory is alike.

    Files beneath a stopped part are not due for sending.
    """
    alike = judged.alike
    db.conn.execute(
        "UPDATE parts SET alike = ?, alike_inode = ?, is_stopped = ?, mount = ? "
        "WHERE folder = ? AND path = ?",
        (
            alike and alike.filesystem,
            alike and str(alike.inode),
            judged.is_stopped,
            judged.mount,
            name,
            part,
        ),
    )


def forget_part(db: Database, name: str, part: bytes) -> None:
    """Forget that something was mounted at `part`; it is now an ordinary directory."""
    db.conn.execute("DELETE FROM parts WHERE folder = ? AND path = ?", (name, part))


def begin_anew(db: Database, name: str, now: float) -> None:
    """Make the next scan the folder's first: another root was taken while nothing was to be sent.

    What was left out of the earlier one says nothing of what is new in this one.
    """
    db.conn.execute("DELETE FROM files WHERE folder = ? AND is_skipped", (name,))
    db.conn.execute(
        "UPDATE folders SET first_scan_at = NULL, since = ? WHERE name = ?", (now, name)
    )


def skip_before(db: Database, name: str) -> float | None:
    """Return the time before which a file counts as older than the folder's first scan.

    Return None once that scan is complete, because any file found later is new.
    """
    since: float | None = db.value(
        "SELECT since FROM folders WHERE name = ? AND first_scan_at IS NULL", (name,)
    )
    return since


def is_first_scan_over(db: Database, name: str) -> bool:
    """Return whether a scan of the folder was ever completed."""
    return db.value("SELECT first_scan_at FROM folders WHERE name = ?", (name,)) is not None


def was_there(db: Database, name: str) -> bool:
    """Return whether the folder's root may be there: it was once, or nobody has looked yet."""
    row = db.conn.execute("SELECT since FROM folders WHERE name = ?", (name,)).fetchone()
    return row is None or row["since"] is not None


def note_scan(
    db: Database,
    name: str,
    *,
    at: float,
    seconds: float,
    directories: int,
    mirrored: bool | None = None,
) -> None:
    """Record that a scan was completed at `at`.

    `mirrored` says whether deletions are mirrored from now on; None leaves that as it is, because
    the scan does not show what was missing before.
    """
    db.conn.execute(
        "UPDATE folders SET first_scan_at = coalesce(first_scan_at, ?), last_scan_at = ?, "
        "last_scan_seconds = ?, directories = ?, mirrored = coalesce(?, mirrored) WHERE name = ?",
        (at, at, seconds, directories, mirrored, name),
    )


def is_absence_believed(db: Database, name: str, path: bytes) -> bool:
    """Return whether the absence of the file at `path` is new and can be believed.

    Deletions must have been mirrored at the last complete scan, and every filesystem on the way to
    the file must be one that syncd can tell from a replacement.
    """
    row = db.conn.execute(
        "SELECT mirrored AND NOT EXISTS (SELECT 1 FROM parts WHERE folder = name AND filesystem "
        "= '' AND (path = x'' OR substr(?, 1, length(path) + 1) = CAST(path || '/' AS BLOB))) "
        "FROM folders WHERE name = ?",
        (path, name),
    ).fetchone()
    return row is None or bool(row[0])


def names(db: Database) -> list[str]:
    """Return the names of all folders that were ever watched."""
    return [row[0] for row in db.conn.execute("SELECT name FROM folders ORDER BY name")]


def workspaces(db: Database) -> dict[str, str | None]:
    """Return the workspace of each folder's copies: empty for the default, None if unknown."""
    return {
        row["name"]: row["workspace"]
        for row in db.conn.execute("SELECT name, workspace FROM folders")
    }


def note_workspace(db: Database, name: str, workspace: str) -> None:
    """Record the workspace that holds all of a folder's mirrored copies."""
    db.conn.execute("UPDATE folders SET workspace = ? WHERE name = ?", (workspace, name))


def obstacles(db: Database) -> dict[str, str]:
    """Return, by folder, why files are not taken away after their upload."""
    return dict(db.conn.execute("SELECT name, obstacle FROM folders WHERE obstacle <> ''"))


def set_obstacle(db: Database, name: str, text: str) -> str:
    """Record why files of a folder are not taken away, or an empty text; return the old text."""
    row = db.conn.execute("SELECT obstacle FROM folders WHERE name = ?", (name,)).fetchone()
    if row and row[0] != text:
        db.conn.execute("UPDATE folders SET obstacle = ? WHERE name = ?", (text, name))
    return row[0] if row else ""
