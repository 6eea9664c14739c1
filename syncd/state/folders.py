"""The `folders` table, and in `parts` what each watch folder's root was when it was last right."""

from typing import NamedTuple

from sqlite_utils import Database

from syncd.identity import RootIdentity


class Part(NamedTuple):
    """A root, or a directory beneath it on which something is mounted."""

    #: what its files were seen in
    identity: RootIdentity
    #: another one with most of these files in it: they are observed and sent, and none is deleted
    alike: RootIdentity | None = None
    #: whether nothing beneath it may be touched: it is another one, or one as it was earlier
    is_stopped: bool = False
    #: what its files were known to be before then is no evidence that it is as it was earlier
    believed_at: float = 0.0
    #: the mount that it was last judged on
    mount: str = ""


def is_known(db: Database, name: str) -> bool:
    """Say whether the folder was ever watched."""
    return db.conn.execute("SELECT 1 FROM folders WHERE name = ?", (name,)).fetchone() is not None


def parts(db: Database, name: str) -> dict[bytes, Part]:
    """Return the known parts of a folder by path; its root is the empty one, once it was seen."""
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
    """Remember a folder and where it is; `now` is when its root is there, which counts once."""
    db.conn.execute(
        "INSERT INTO folders (name, path, since) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
        "SET path = excluded.path, since = coalesce(since, excluded.since)",
        (name, path, now),
    )


def accept_part(
    db: Database, name: str, part: bytes, identity: RootIdentity, believed_at: float = 0.0
) -> None:
    """Take `identity` for that of the folder's `part`, as it is, whatever was known before."""
    db.conn.execute(
        "INSERT OR REPLACE INTO parts (folder, path, filesystem, inode, believed_at) "
        "VALUES (?, ?, ?, ?, ?)",
        (name, part, identity.filesystem, str(identity.inode), believed_at),
    )


def note_other(
    db: Database,
    name: str,
    part: bytes,
    *,
    alike: RootIdentity | None,
    is_stopped: bool = False,
    mount: str = "",
) -> None:
    """Remember how a known part was judged on a `mount`, and one that is `alike` in its place.

    What waits to be sent beneath one that `is_stopped` is not due.
    """
    db.conn.execute(
        "UPDATE parts SET alike = ?, alike_inode = ?, is_stopped = ?, mount = ? "
        "WHERE folder = ? AND path = ?",
        (alike and alike.filesystem, alike and str(alike.inode), is_stopped, mount, name, part),
    )


def forget_part(db: Database, name: str, part: bytes) -> None:
    """Forget that something was mounted at `part`: it is a directory like any other."""
    db.conn.execute("DELETE FROM parts WHERE folder = ? AND path = ?", (name, part))


def begin_anew(db: Database, name: str, now: float) -> None:
    """Let the next scan be the folder's first: another root was taken while nothing was known."""
    db.conn.execute(
        "UPDATE folders SET first_scan_at = NULL, since = ? WHERE name = ?", (now, name)
    )


def skip_before(db: Database, name: str) -> float | None:
    """Return the time before which a file was there at the folder's very first scan.

    None once that scan is through: whatever is found later is new.
    """
    row = db.conn.execute(
        "SELECT since FROM folders WHERE name = ? AND first_scan_at IS NULL", (name,)
    ).fetchone()
    return row["since"] if row else None


def is_first_scan_over(db: Database, name: str) -> bool:
    """Say whether a scan of the folder ever came to its end."""
    row = db.conn.execute("SELECT first_scan_at FROM folders WHERE name = ?", (name,)).fetchone()
    return row is not None and row["first_scan_at"] is not None


def was_there(db: Database, name: str) -> bool:
    """Say whether the folder's root may be there: it was once, or nobody has looked yet."""
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
    """Record that a scan went through to its end at `at`.

    `mirrored` says whether deletions are from now on; None where the scan does not tell what was
    missing before.
    """
    db.conn.execute(
        "UPDATE folders SET first_scan_at = coalesce(first_scan_at, ?), last_scan_at = ?, "
        "last_scan_seconds = ?, directories = ?, mirrored = coalesce(?, mirrored) WHERE name = ?",
        (at, at, seconds, directories, mirrored, name),
    )


def is_mirrored(db: Database, name: str, path: bytes) -> bool:
    """Say whether it is news that the file at `path` is missing, and can be believed.

    Deletions were mirrored at the last whole scan, and nothing on the way to it is on a filesystem
    of which another one in its place could not be told.
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
    """Return the workspace of each folder's copies: empty for the default, None if not known."""
    return {
        row["name"]: row["workspace"]
        for row in db.conn.execute("SELECT name, workspace FROM folders")
    }


def note_workspace(db: Database, name: str, workspace: str) -> None:
    """Remember the workspace that all of a folder's mirrored copies are in."""
    db.conn.execute("UPDATE folders SET workspace = ? WHERE name = ?", (workspace, name))


def obstacles(db: Database) -> dict[str, str]:
    """Return why files of a folder are not taken away after their upload, where that is so."""
    return dict(db.conn.execute("SELECT name, obstacle FROM folders WHERE obstacle <> ''"))


def set_obstacle(db: Database, name: str, text: str) -> str:
    """Record why files of a folder are not taken away, empty if they are; return the old text."""
    row = db.conn.execute("SELECT obstacle FROM folders WHERE name = ?", (name,)).fetchone()
    if row and row[0] != text:
        db.conn.execute("UPDATE folders SET obstacle = ? WHERE name = ?", (text, name))
    return row[0] if row else ""
