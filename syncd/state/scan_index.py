"""A folder's known files, read in bulk for a scan to compare the disk with."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from syncd.disk import Fingerprint
from syncd.state.database.connection import Database
from syncd.state.database.schema import STANDING
from syncd.state.lifecycle import FileStatus

_AT_REST = (FileStatus.READY, FileStatus.UNREADABLE)
_MIRRORED = (FileStatus.READY, FileStatus.SETTLING, FileStatus.UNREADABLE)


class Known(NamedTuple):
    """The columns of a file that a comparison with the disk needs."""

    id: int
    path: bytes
    status: str
    inode: int | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    is_skipped: int

    def agrees_with(self, fingerprint: Fingerprint, *, skips: bool) -> bool:
        """Return whether a scan that finds this very fingerprint has nothing to record.

        `skips` says whether what was there before the first scan is left out.
        """
        # An unreadable file has its own time to be tried again.
        at_rest = self.status in _AT_REST or (skips and self.is_skipped)
        return bool(at_rest) and self[3:7] == fingerprint

    @property
    def is_mirrored(self) -> bool:
        """Whether it would be news that nothing is there."""
        return self.status in _MIRRORED

    @property
    def is_unmirrored(self) -> bool:
        """Whether a rule could take nothing away from it any more."""
        return self.status in (FileStatus.INELIGIBLE, FileStatus.CONSUMED)


#: A file as a listing shows it: path, inode, size, mtime_ns and ctime_ns. From the table, the inode
#: is None where a scan has something to record even if it finds exactly that.
Entry = tuple[bytes, int | None, int | None, int | None, int | None]

_KNOWN = "SELECT id, path, status, inode, size, mtime_ns, ctime_ns, is_skipped FROM files "

_EXPECTED = (
    "path, iif(status = 'ready' OR (:skips AND is_skipped), inode, NULL), size, mtime_ns, ctime_ns "
    "FROM files"
)

#: The files whose absence would be news. A drop folder leaves behind far more that are gone, and no
#: scan is to read those.
_STANDING = f"({STANDING}) AND folder = :folder"


_EXPECTED_IN = (
    f"SELECT {_EXPECTED} INDEXED BY files_standing WHERE {_STANDING} "
    "AND parent = :parent LIMIT :limit"
)


def expected_in(
    db: Database, folder: str, parents: Iterable[bytes], *, skips: bool, limit: int
) -> dict[bytes, set[Entry]]:
    """Return what a listing of each parent shows while nothing changes: `limit` files at most."""
    parameters: dict[str, object] = {"folder": folder, "skips": skips, "limit": limit}
    return {
        parent: set(_plain(db, _EXPECTED_IN, parameters | {"parent": parent})) for parent in parents
    }


def expected_at(
    db: Database, folder: str, paths: Iterable[bytes], *, skips: bool
) -> dict[Entry, int]:
    """Return the same of the files at these paths, each with its id."""
    names = {f"p{number}": path for number, path in enumerate(paths)}
    marks = ", ".join(f":{name}" for name in names)
    rows = _plain(
        db,
        f"SELECT id, {_EXPECTED} WHERE folder = :folder AND path IN ({marks})",
        {**names, "folder": folder, "skips": skips},
    )
    return {row[1:]: row[0] for row in rows}


def in_directory(
    db: Database, folder: str, parent: bytes, *, after: int = 0, limit: int = -1
) -> list[Known]:
    """Return what is known of the files that stand directly in `parent`, in the order of their ids.

    Only of the first `limit` beyond the id `after`, where there is a limit.
    """
    rows = _plain(
        db,
        f"{_KNOWN} INDEXED BY files_standing WHERE {_STANDING} AND parent = :parent "
        "AND id > :after ORDER BY id LIMIT :limit",
        {"folder": folder, "parent": parent, "after": after, "limit": limit},
    )
    return [Known(*row) for row in rows]


def at(db: Database, folder: str, paths: Sequence[bytes]) -> dict[bytes, Known]:
    """Return what is known of the files at these paths, by path."""
    marks = ", ".join("?" * len(paths))
    rows = _plain(db, f"{_KNOWN} WHERE folder = ? AND path IN ({marks})", (folder, *paths))
    return {row[1]: Known(*row) for row in rows}


def last_id(db: Database) -> int:
    """Return the id of the file that was recorded last; 0 where there is none."""
    rows = _plain(db, "SELECT max(id) FROM files", ())
    return rows[0][0] or 0


def next_directories(db: Database, folder: str, after: bytes, limit: int) -> list[bytes]:
    """Return the next `limit` directories, in order beyond `after`, that a known file stands in."""
    first = f"SELECT min(parent) FROM files INDEXED BY files_standing WHERE {_STANDING} AND"
    rows = _plain(
        db,
        # From one to the next by the index: a directory costs the same however many it holds.
        f"WITH RECURSIVE beyond (parent) AS ({first} parent > :after UNION ALL "
        f"SELECT ({first} parent > beyond.parent) FROM beyond WHERE beyond.parent IS NOT NULL) "
        "SELECT parent FROM beyond WHERE parent IS NOT NULL LIMIT :limit",
        {"folder": folder, "after": after, "limit": limit},
    )
    return [row[0] for row in rows]


def beneath(
    db: Database, folder: str, directory: bytes, *, after: bytes, limit: int
) -> list[bytes]:
    """Return the next `limit` files beneath `directory`, in order beyond the path `after`.

    Only those of which it would be news that they were removed.
    """
    rows = _plain(
        db,
        # "0" follows "/": the range holds all that begins with `directory/`.
        "SELECT path FROM files WHERE folder = ? AND path > ? AND path < ? AND "
        "(status IN ('ready', 'settling', 'unreadable') OR (status = 'missing' AND "
        "confirmed_at IS NULL)) ORDER BY path LIMIT ?",
        (folder, max(after, directory + b"/"), directory + b"0", limit),
    )
    return [row[0] for row in rows]


class Synced(NamedTuple):
    """A file that has a copy, by what can be seen of it without reading it."""

    id: int
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
    first, beyond = range_beneath(directory)
    rows = _plain(
        db,
        f"SELECT id, path, size, mtime_ns {_SYNCED} ORDER BY path LIMIT ?",
        (folder, max(first, after), beyond, limit),
    )
    return [Synced(*row) for row in rows]


class Latest(NamedTuple):
    """A file that has a copy, and is one of those that changed last."""

    path: bytes
    fingerprint: Fingerprint


def latest(
    db: Database, folder: str, directory: bytes, since: float, now: float, limit: int
) -> list[Latest]:
    """Return up to `limit` of the files with a copy beneath `directory` that changed last.

    None that changed before `since`, or when the clock was ahead of `now`. However large the folder
    is, no more than some thousands of its files are looked through.
    """
    first, beyond = range_beneath(directory)
    rows = _plain(
        db,
        "SELECT path, inode, size, mtime_ns, ctime_ns FROM (SELECT * FROM files INDEXED BY "
        "files_changed WHERE folder = ? AND changed_at > ? AND changed_at <= ? "
        "ORDER BY changed_at DESC LIMIT ?) AS files WHERE path > ? AND path < ? "
        "AND status IN ('ready', 'settling', 'unreadable', 'missing') AND EXISTS (SELECT 1 FROM "
        "copies WHERE file_id = files.id AND copies.status IN ('live', 'processing', 'retiring')) "
        "LIMIT ?",
        (folder, since, now, 100 * limit, first, beyond, limit),
    )
    return [Latest(row[0], Fingerprint(*row[1:])) for row in rows]


def count_synced_in(db: Database, folder: str, directory: bytes) -> int:
    """Return how many such files there are."""
    count: int = _plain(db, f"SELECT count(*) {_SYNCED}", (folder, *range_beneath(directory)))[0][0]
    return count


def ever_held(db: Database, folder: str, directory: bytes) -> bool:
    """Return whether anything beneath `directory` was ever to be sent."""
    held = (
        "SELECT 1 FROM files WHERE folder = ? AND path > ? AND path < ? "
        "AND EXISTS (SELECT 1 FROM copies WHERE file_id = files.id) LIMIT 1"
    )
    return bool(_plain(db, held, (folder, *range_beneath(directory))))


def range_beneath(directory: bytes) -> tuple[bytes, bytes]:
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


def next_looks(db: Database) -> dict[str, float]:
    """Return the same of every folder in which a look is to come, by its name."""
    # By the index, however many files settle.
    looks = ", ".join(
        f"(SELECT min(due_at) FROM files WHERE status = '{status}' AND folder = name "
        "AND due_at IS NOT NULL)"
        for status in (FileStatus.SETTLING, FileStatus.UNREADABLE)
    )
    rows = _plain(db, f"SELECT name, {looks} FROM folders", ())
    waiting = ((name, [at for at in due if at is not None]) for name, *due in rows)
    return {name: min(due) for name, due in waiting if due}


def _plain(
    db: Database, query: str, parameters: Sequence[object] | dict[str, object]
) -> list[tuple]:  # type: ignore[type-arg]
    """Run a query for bare tuples: `sqlite3.Row` costs a third of a scan's reading."""
    cursor = db.conn.cursor()
    cursor.row_factory = None
    return cursor.execute(query, parameters).fetchall()
