"""The `folders` table: each watch folder's root, as it was when it was last right."""

from sqlite_utils import Database

from syncd.disk import RootIdentity


def identity(db: Database, name: str) -> RootIdentity | None:
    """Return the identity that a folder's root is known by; None before its first check."""
    row = db.conn.execute(
        "SELECT filesystem, inode FROM folders WHERE name = ?", (name,)
    ).fetchone()
    if row is None or row["filesystem"] is None:
        return None
    return RootIdentity(int(row["filesystem"]), int(row["inode"]))
