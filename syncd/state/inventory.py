"""What is known of a folder's files, in bulk: what a scan compares the disk with."""

from typing import NamedTuple

from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.state.lifecycle import FileStatus

_AT_REST = (FileStatus.READY, FileStatus.UNREADABLE)
_MIRRORED = (FileStatus.READY, FileStatus.SETTLING, FileStatus.UNREADABLE)


class Known(NamedTuple):
    """What the table knows of a file, as much as a comparison with the disk needs."""

    status: str
    inode: int | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    is_skipped: int

    def agrees_with(self, fingerprint: Fingerprint, *, skips: bool) -> bool:
        """Say whether a scan that finds this very fingerprint has nothing to record.

        `skips` says whether what was there before the first scan is left out.
        """
        # One that cannot be read has its own time to be tried again.
        at_rest = self.status in _AT_REST or (skips and self.is_skipped)
        return bool(at_rest) and self[1:5] == fingerprint

    @property
    def is_mirrored(self) -> bool:
        """Whether it would be news that nothing is there."""
        return self.status in _MIRRORED

    @property
    def is_unmirrored(self) -> bool:
        """Whether a rule could take nothing away from it any more."""
        return self.status in (FileStatus.INELIGIBLE, FileStatus.CONSUMED)


def in_directory(db: Database, folder: str, parent: bytes) -> dict[bytes, Known]:
    """Return what is known of the files that stand directly in `parent`, by path."""
    rows = _plain(
        db,
        "SELECT path, status, inode, size, mtime_ns, ctime_ns, is_skipped FROM files "
        "WHERE folder = ? AND parent = ?",
        (folder, parent),
    )
    return {row[0]: Known(*row[1:]) for row in rows}


def directories(db: Database, folder: str) -> list[bytes]:
    """Return every directory that a known file stands in, sorted."""
    rows = _plain(
        db, "SELECT DISTINCT parent FROM files WHERE folder = ? ORDER BY parent", (folder,)
    )
    return [row[0] for row in rows]


def beneath(db: Database, folder: str, directory: bytes) -> list[bytes]:
    """Return the files beneath `directory` of which it would be news that they were removed."""
    rows = _plain(
        db,
        # "0" follows "/": the range holds all that begins with `directory/`.
        "SELECT path FROM files WHERE folder = ? AND path > ? AND path < ? AND "
        "(status IN ('ready', 'settling', 'unreadable') OR (status = 'missing' AND "
        "confirmed_at IS NULL))",
        (folder, directory + b"/", directory + b"0"),
    )
    return [row[0] for row in rows]


class Synced(NamedTuple):
    """A file that has a copy, by what can be seen of it without reading it."""

    path: bytes
    size: int
    mtime_ns: int


_SYNCED = (
    "FROM files WHERE folder = ? AND path > ? AND path < ? AND "
    "status IN ('ready', 'settling', 'unreadable') AND EXISTS (SELECT 1 FROM copies "
    "WHERE file_id = files.id AND copies.status IN ('live', 'processing'))"
)


def synced_in(
    db: Database, folder: str, directory: bytes, after: bytes, limit: int
) -> list[Synced]:
    """Return the first `limit` files beneath `directory`, by path `after` that one, with a copy.

    Those that are known to be missing do not count. The whole folder is beneath `b""`.
    """
    first, beyond = _range(directory)
    rows = _plain(
        db,
        f"SELECT path, size, mtime_ns {_SYNCED} ORDER BY path LIMIT ?",
        (folder, max(first, after), beyond, limit),
    )
    return [Synced(*row) for row in rows]


def count_synced_in(db: Database, folder: str, directory: bytes) -> int:
    """Return how many such files there are."""
    count: int = _plain(db, f"SELECT count(*) {_SYNCED}", (folder, *_range(directory)))[0][0]
    return count


def ever_held(db: Database, folder: str, directory: bytes) -> bool:
    """Say whether anything beneath `directory` was ever to be sent."""
    held = (
        "SELECT 1 FROM files WHERE folder = ? AND path > ? AND path < ? "
        "AND EXISTS (SELECT 1 FROM copies WHERE file_id = files.id) LIMIT 1"
    )
    return bool(_plain(db, held, (folder, *_range(directory))))


def _range(directory: bytes) -> tuple[bytes, bytes]:
    """Return what all paths beneath `directory` lie between, as SQLite orders them."""
    # "0" follows "/", and no name has more than 255 bytes.
    return (directory + b"/", directory + b"0") if directory else (b"", b"\xff" * 256)


def next_look(db: Database, folder: str) -> float | None:
    """Return when the next look at a settling or unreadable file of the folder is due."""
    rows = _plain(
        db,
        "SELECT MIN(due_at) FROM files WHERE status IN ('settling', 'unreadable') "
        "AND due_at IS NOT NULL AND folder = ?",
        (folder,),
    )
    due: float | None = rows[0][0]
    return due


def _plain(db: Database, query: str, parameters: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
    """Run a query for bare tuples: `sqlite3.Row` costs a third of a scan's reading."""
    cursor = db.conn.cursor()
    cursor.row_factory = None
    return cursor.execute(query, parameters).fetchall()
