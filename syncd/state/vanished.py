"""The missing files of a folder, counted: how many there are lately, and what would be deleted."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from syncd.state.holds import MANY_MISSING
from syncd.state.texts import shown

#: Seconds within which files that go missing count together.
WINDOW_SECONDS = 3600.0

#: What of a file could still be deleted: nothing was asked for yet that cannot be revoked.
_SOMETHING_STORED = (
    "EXISTS (SELECT 1 FROM copies WHERE file_id = files.id AND consumed_at IS NULL "
    "AND (copies.status IN ('live', 'processing') "
    "OR (copies.status = 'retiring' AND delete_sent_at IS NULL AND live_at IS NOT NULL)))"
)
#: Missing files of `:folder` on which nothing is decided, and whose copies would be deleted.
PENDING = f"folder = :folder AND status = 'missing' AND verdict IS NULL AND {_SOMETHING_STORED}"


@dataclass(frozen=True, slots=True)
class Affected:
    """Missing files whose copies would be deleted: how many, the first, what holds them all."""

    affects: int
    first: list[str]
    #: the common parent, relative to the root; empty where it is the root
    parent: str


def pending(db: Database, folder: str, limit: int) -> Affected:
    """Return the missing files of a folder on which nothing is decided, the first by path."""
    known = {"folder": folder, "limit": limit}
    count, first, last = db.conn.execute(
        f"SELECT count(*), min(path), max(path) FROM files WHERE {PENDING}", known
    ).fetchone()
    rows = db.conn.execute(
        f"SELECT path FROM files WHERE {PENDING} ORDER BY path LIMIT :limit", known
    )
    parent = _common_parent(first, last) if count else b""
    return Affected(count, [shown(row[0]) for row in rows], shown(parent))


def count(db: Database, folder: str) -> int:
    """Return how many missing files of a folder nothing is decided on."""
    row = db.conn.execute(f"SELECT count(*) FROM files WHERE {PENDING}", {"folder": folder})
    return int(row.fetchone()[0])


def held(db: Database, folder: str) -> int | None:
    """Return how many files the hold on a folder that lost many names; None where none is open."""
    row = db.conn.execute(
        "SELECT affects FROM holds WHERE stops = 'deletions' AND scope = ? AND reason = ? "
        "AND released_at IS NULL",
        (folder, MANY_MISSING),
    ).fetchone()
    return None if row is None else int(row[0])


def lately(db: Database, folder: str, neighbours: Collection[str], now: float) -> int:
    """Return how many files went missing within the last hour, their copies deleted or not.

    A file that may only have moved, as one of its size is not hashed yet in one of the
    `neighbours`, does not count before that is decided; nor does what a person has decided on.
    """
    marks = {f"n{number}": name for number, name in enumerate(neighbours)}
    row = db.conn.execute(
        "SELECT count(*) FROM files WHERE folder = :folder AND status = 'missing' "
        "AND missing_since > :since AND verdict IS NULL AND EXISTS (SELECT 1 FROM copies "
        "WHERE file_id = files.id AND consumed_at IS NULL "
        "AND (copies.status IN ('live', 'processing') OR evidence IS NOT NULL)) "
        "AND NOT EXISTS (SELECT 1 FROM files AS new WHERE new.sha256 IS NULL "
        "AND new.size = files.size AND new.status IN ('settling', 'ready') "
        f"AND new.folder IN ({', '.join(f':{mark}' for mark in marks)}))",
        {"folder": folder, "since": now - WINDOW_SECONDS, **marks},
    ).fetchone()
    return int(row[0])


def synced(db: Database, folder: str, enough: int) -> int:
    """Return how many files of a folder are or lately were live remotely; no more than `enough`."""
    row = db.conn.execute(
        "SELECT count(*) FROM (SELECT 1 FROM files WHERE folder = ? AND verdict IS NULL AND EXISTS "
        "(SELECT 1 FROM copies WHERE file_id = files.id AND (copies.status = 'live' "
        "OR (evidence IS NOT NULL AND files.status = 'missing'))) LIMIT ?)",
        (folder, enough),
    ).fetchone()
    return int(row[0])


# What is decided on them


def name(db: Database, folder: str, hold_id: int, paths: Iterable[bytes]) -> None:
    """Note of missing files that a hold names just them, and no others of the folder."""
    db.conn.executemany(
        "UPDATE files SET hold_id = ? WHERE folder = ? AND path = ? AND status = 'missing'",
        ((hold_id, folder, path) for path in paths),
    )


def approve(db: Database, folder: str, hold_id: int, now: float, *, named: bool = False) -> int:
    """Let the copies of a folder's missing files be deleted after a last look; return how many.

    Also those that were kept by an earlier verdict on the same hold; and where files are `named`
    by the hold, only those.
    """
    return _decide(
        db,
        "verdict = 'approved', removal_seen = 1, confirmed_at = CASE WHEN verdict IS NULL THEN "
        "confirmed_at END, due_at = CASE WHEN verdict IS NULL THEN due_at ELSE :now END",
        f"({_undecided(named=named)}) "
        "OR (hold_id = :hold AND status = 'missing' AND verdict = 'kept')",
        {"folder": folder, "hold": hold_id, "now": now},
    )


def keep(db: Database, folder: str, hold_id: int, now: float, *, named: bool = False) -> int:
    """Keep the copies of a folder's missing files; return how many.

    Also those whose deletion was approved on the same hold, and not begun; `named` as above.
    """
    return _decide(
        db,
        "verdict = 'kept', removal_seen = 1, confirmed_at = NULL, due_at = :now",
        f"({_undecided(named=named)}) "
        "OR (hold_id = :hold AND status = 'missing' AND verdict = 'approved' "
        f"AND {_SOMETHING_STORED})",
        {"folder": folder, "hold": hold_id, "now": now},
    )


def is_changeable(db: Database, hold_id: int) -> bool:
    """Say whether the verdict on a hold can still become the other one for some file."""
    row = db.conn.execute(
        "SELECT 1 FROM files WHERE hold_id = ? AND (verdict = 'forgotten' OR (status = 'missing' "
        f"AND (verdict = 'kept' OR (verdict = 'approved' AND {_SOMETHING_STORED})))) LIMIT 1",
        (hold_id,),
    ).fetchone()
    return row is not None


def _undecided(*, named: bool) -> str:
    return f"{PENDING} AND hold_id = :hold" if named else PENDING


def _decide(db: Database, values: str, condition: str, known: dict[str, Any]) -> int:
    return db.conn.execute(
        f"UPDATE files SET {values}, hold_id = :hold WHERE {condition}", known
    ).rowcount


def _common_parent(first: bytes, last: bytes) -> bytes:
    """Return the deepest directory that holds both; and all that is between them by order."""
    one, other = (path.split(b"/")[:-1] for path in (first, last))
    shared: Sequence[bytes] = []
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        shared = [*shared, left]
    return b"/".join(shared)
