"""What stage 1 reads of the table and writes to it, beside sightings: known files, folders' roots.

All of stage 1's SQL stands here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from syncd.disk import Fingerprint, RootIdentity
from syncd.state.lifecycle import FileStatus
from syncd.state.store import Transaction

_AT_REST = (FileStatus.READY, FileStatus.UNREADABLE)
_MIRRORED = (FileStatus.READY, FileStatus.SETTLING, FileStatus.UNREADABLE)


class Known(NamedTuple):
    """What the table knows of a file, as much as a comparison with the disk needs."""

    status: str
    inode: int | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None

    def agrees_with(self, fingerprint: Fingerprint) -> bool:
        """Say whether a scan that finds this very fingerprint has nothing to record."""
        mark = fingerprint
        # One that cannot be read has its own time to be tried again.
        return self.status in _AT_REST and self[1:] == (
            mark.inode,
            mark.size,
            mark.mtime_ns,
            mark.ctime_ns,
        )

    @property
    def is_mirrored(self) -> bool:
        """Whether it would be news that nothing is there."""
        return self.status in _MIRRORED

    @property
    def is_unmirrored(self) -> bool:
        """Whether a rule could take nothing away from it any more."""
        return self.status in (FileStatus.INELIGIBLE, FileStatus.CONSUMED)


@dataclass(frozen=True, slots=True)
class FolderRow:
    """One row of `folders`: the root that its files were seen under."""

    path: bytes
    #: None until the root was seen once
    identity: RootIdentity | None


def in_directory(db: Transaction, folder: str, parent: bytes) -> dict[bytes, Known]:
    """Return what is known of the files that stand directly in `parent`, by path."""
    rows = _plain(
        db,
        "SELECT path, status, inode, size, mtime_ns, ctime_ns FROM files "
        "WHERE folder = ? AND parent = ?",
        (folder, parent),
    )
    return {row[0]: Known(*row[1:]) for row in rows}


def directories(db: Transaction, folder: str) -> list[bytes]:
    """Return every directory that a known file stands in, sorted."""
    rows = _plain(
        db, "SELECT DISTINCT parent FROM files WHERE folder = ? ORDER BY parent", (folder,)
    )
    return [row[0] for row in rows]


def beneath(db: Transaction, folder: str, directory: bytes) -> list[bytes]:
    """Return the files beneath `directory` of which it would be news that they were removed."""
    rows = _plain(
        db,
        # "0" follows "/": the range holds all that begins with `directory/`.
        "SELECT path FROM files WHERE folder = ? AND path > ? AND path < ? AND "
        "(status IN ('ready', 'settling', 'unreadable') OR (status = 'missing' AND "
        "removal_seen = 0 AND confirmed_at IS NULL))",
        (folder, directory + b"/", directory + b"0"),
    )
    return [row[0] for row in rows]


def synced_sizes(db: Transaction, folder: str, parent: bytes) -> dict[bytes, int]:
    """Return the sizes of the live copies of the files in `parent`, by path."""
    rows = _plain(
        db,
        "SELECT files.path, copies.size FROM files JOIN copies ON copies.file_id = files.id "
        "WHERE folder = ? AND parent = ? AND copies.status = 'live'",
        (folder, parent),
    )
    return dict(rows)


_SYNCED = (
    "FROM files WHERE folder = ? AND "
    "EXISTS (SELECT 1 FROM copies WHERE file_id = files.id AND copies.status = 'live')"
)


def synced(db: Transaction, folder: str, limit: int) -> tuple[int, list[bytes]]:
    """Return how many files of the folder have a live copy, and the first `limit` of them."""
    return _count_and_first(db, _SYNCED, folder, limit)


def unseen_removals(db: Transaction, folder: str, limit: int) -> tuple[int, list[bytes]]:
    """Count the missing files with a live copy whose removal no event told of.

    Returns the number, and the first `limit` paths.
    """
    condition = f"{_SYNCED} AND files.status = 'missing' AND removal_seen = 0"
    return _count_and_first(db, condition, folder, limit)


def note_removals(db: Transaction, folder: str, paths: Iterable[bytes]) -> None:
    """Record that an event told of removals which a scan may have found before it."""
    db.conn.executemany(
        "UPDATE files SET removal_seen = 1 "
        "WHERE folder = ? AND path = ? AND status = 'missing' AND confirmed_at IS NULL",
        [(folder, path) for path in paths],
    )


def next_look(db: Transaction, folder: str) -> float | None:
    """Return when the next look at a settling or unreadable file of the folder is due."""
    rows = _plain(
        db,
        "SELECT MIN(due_at) FROM files WHERE status IN ('settling', 'unreadable') "
        "AND due_at IS NOT NULL AND folder = ?",
        (folder,),
    )
    due: float | None = rows[0][0]
    return due


def root(db: Transaction, folder: str) -> FolderRow | None:
    """Return what is known of a folder's root; None before its first start."""
    rows = _plain(db, "SELECT path, filesystem, inode FROM folders WHERE name = ?", (folder,))
    if not rows:
        return None
    path, filesystem, inode = rows[0]
    known = filesystem is not None
    return FolderRow(path, RootIdentity(int(filesystem), int(inode)) if known else None)


def accept_root(db: Transaction, folder: str, path: bytes, identity: RootIdentity | None) -> None:
    """Take `path` and `identity` for the folder's root from now on."""
    mark = (str(identity.filesystem), str(identity.inode)) if identity else (None, None)
    db.conn.execute(
        "INSERT INTO folders (name, path, filesystem, inode) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET path = excluded.path, "
        "filesystem = excluded.filesystem, inode = excluded.inode",
        (folder, path, *mark),
    )


def note_scan(db: Transaction, folder: str, *, at: float, seconds: float, directories: int) -> None:
    """Record that a scan went through to its end at `at`."""
    db.conn.execute(
        "UPDATE folders SET first_scan_at = coalesce(first_scan_at, ?), last_scan_at = ?, "
        "last_scan_seconds = ?, directories = ? WHERE name = ?",
        (at, at, seconds, directories, folder),
    )


def _count_and_first(
    db: Transaction, condition: str, folder: str, limit: int
) -> tuple[int, list[bytes]]:
    count = _plain(db, f"SELECT COUNT(*) {condition}", (folder,))[0][0]
    if not count:
        return 0, []
    rows = _plain(db, f"SELECT path {condition} ORDER BY path LIMIT ?", (folder, limit))
    return count, [row[0] for row in rows]


def _plain(db: Transaction, query: str, parameters: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
    """Run a query for bare tuples: `sqlite3.Row` costs a third of a scan's reading."""
    cursor = db.conn.cursor()
    cursor.row_factory = None
    return cursor.execute(query, parameters).fetchall()
