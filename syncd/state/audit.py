"""What the ledger claims to be remote, for a comparison with what is."""

from collections.abc import Iterable
from typing import NamedTuple

from sqlite_utils import Database

from syncd.state import unknown as unknown_objects
from syncd.state.texts import path_texts
from syncd.state.unknown import Unknown


class Claim(NamedTuple):
    """A stored copy, and whose it is."""

    file_uuid: str
    size: int
    status: str
    folder: str
    path: bytes
    copy_id: int

    def path_texts(self) -> dict[str, str]:
        """Return its path as JSON has it."""
        shown, exact = path_texts(self.path)
        return {"path": shown, **({"path_b64": exact} if exact else {})}


def claims(db: Database, workspace: str | None) -> list[Claim]:
    """Return the copies in a workspace that should be there, by folder and path."""
    rows = db.conn.execute(
        "SELECT file_uuid, copies.size, copies.status, folder, path, copies.id "
        "FROM copies "
        "JOIN files ON files.id = file_id WHERE file_uuid IS NOT NULL AND workspace_uuid IS ? "
        "AND copies.status IN ('live', 'processing', 'released') ORDER BY folder, path",
        (workspace,),
    )
    return [Claim(*row) for row in rows]


def counts(db: Database) -> dict[str, int]:
    """Return how many copies are kept without being mirrored, on their way out, and in doubt."""
    row = db.conn.execute(
        "SELECT count(*) FILTER (WHERE status = 'released') AS released, "
        "count(*) FILTER (WHERE status = 'retiring') AS retiring, "
        "count(*) FILTER (WHERE status = 'sending') AS in_doubt "
        "FROM copies WHERE status NOT IN ('live', 'gone')"
    ).fetchone()
    return dict(row)


def unknown(db: Database, seen: Iterable[Unknown]) -> list[Unknown]:
    """Return what of `seen` the ledger does not know, as it was noted where it was."""
    noted = {item.file_uuid: item for item in unknown_objects.every(db)}
    return [noted.get(item.file_uuid, item) for item in unknown_objects.select(db, seen)]
