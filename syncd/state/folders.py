"""The `folders` table: each watch folder's root, as it was when it was last right."""

import enum
from dataclasses import dataclass
from typing import NamedTuple

from sqlite_utils import Database

from syncd.disk import RootIdentity


@dataclass(frozen=True, slots=True)
class FolderRow:
    """One row of `folders`: the root that its files were seen under."""

    path: bytes
    #: None until the root was seen once
    identity: RootIdentity | None


class MountState(enum.IntEnum):
    """What is known of a mount beneath a root, as the column `hides` keeps it."""

    #: it is there, and its files are like any others
    RIGHT = 0
    #: it is new there, over known files of which not all were found in it
    HIDES = 1
    #: it is not there any more, and files on it are known
    GONE = 2


class Mounted(NamedTuple):
    """What is, or was, mounted somewhere beneath a root."""

    state: MountState
    #: what tells it from another thing that is mounted there; empty where nobody has looked
    mark: str = ""


def get(db: Database, name: str) -> FolderRow | None:
    """Return what is known of a folder's root; None before its first start."""
    row = db.conn.execute(
        "SELECT path, filesystem, inode FROM folders WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        return None
    if row["filesystem"] is None:
        return FolderRow(row["path"], None)
    return FolderRow(row["path"], RootIdentity(int(row["filesystem"]), int(row["inode"])))


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


def mounts(db: Database, name: str) -> dict[bytes, Mounted]:
    """Return where beneath the folder's root something is or was mounted, and what."""
    rows = db.conn.execute("SELECT path, hides, mark FROM mounts WHERE folder = ?", (name,))
    return {row["path"]: Mounted(MountState(row["hides"]), row["mark"]) for row in rows}


def note_mount(db: Database, name: str, path: bytes, mounted: Mounted) -> None:
    """Remember what is mounted at `path`, or was."""
    db.conn.execute(
        "INSERT INTO mounts (folder, path, hides, mark) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (folder, path) DO UPDATE SET hides = excluded.hides, mark = excluded.mark",
        (name, path, *mounted),
    )


def forget_mount(db: Database, name: str, path: bytes) -> None:
    """Forget that something was mounted at `path`: what is there now is all there is."""
    db.conn.execute("DELETE FROM mounts WHERE folder = ? AND path = ?", (name, path))


def identity(db: Database, name: str) -> RootIdentity | None:
    """Return the identity that a folder's root is known by; None before it was seen once."""
    row = get(db, name)
    return row.identity if row else None


def accept_root(
    db: Database, name: str, path: bytes, identity: RootIdentity | None, now: float
) -> None:
    """Take `path` and `identity` for the folder's root from `now` on."""
    mark = (str(identity.filesystem), str(identity.inode)) if identity else (None, None)
    db.conn.execute(
        "INSERT INTO folders (name, path, filesystem, inode, since) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET path = excluded.path, filesystem = excluded.filesystem, "
        "inode = excluded.inode, since = coalesce(since, excluded.since)",
        (name, path, *mark, now if identity else None),
    )


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


def is_mirrored(db: Database, name: str) -> bool:
    """Say whether deletions were mirrored at the last whole scan: what goes missing is news."""
    row = db.conn.execute("SELECT mirrored FROM folders WHERE name = ?", (name,)).fetchone()
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
