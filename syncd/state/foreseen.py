"""The next step of each file that is not at rest, as `once --dry-run` shows it."""

import time
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from syncd.state.database.connection import Database
from syncd.state.holds.missing import awaiting_rename
from syncd.state.manifest import ROWS, WORD, Word, candidates
from syncd.state.planner import Policy

#: The words of files that are to be sent.
_TO_SEND = (Word.SETTLING, Word.QUEUED, Word.UPLOADING)
_TOLD = (*_TO_SEND, Word.PROCESSING, Word.FAILED, Word.DELETING, Word.HELD)


class Foreseen(NamedTuple):
    """A file, what would be done, and the bytes that it is about."""

    kind: str
    folder: str
    path: bytes
    size: int


def foreseen(
    db: Database, policies: Mapping[str, Policy], closed: Collection[str]
) -> Iterator[Foreseen]:
    """Yield what would be done, by folder and path; nothing is sent in the folders `closed`.

    The kinds are send, replace, delete, move, held, failed and processing. A file to be moved may
    be one to be sent under its new name, if the content is the same.
    """
    chosen = " UNION ".join(candidates(_TOLD) or ())
    rows = db.conn.execute(
        f"SELECT f.id, f.folder, f.path, f.size, {WORD} AS word, known.size AS known_size, "
        f"known.status = 'live' AS has_live {ROWS} WHERE f.id IN ({chosen}) "
        "ORDER BY f.folder, f.path"
    ).fetchall()
    deleting = [row["id"] for row in rows if row["word"] == Word.DELETING]
    moved = awaiting_rename(db, deleting, policies, time.time())
    for row in rows:
        policy = policies.get(row["folder"])
        if policy is None or row["word"] not in _TOLD:
            continue
        kind = str(row["word"])
        if kind in _TO_SEND:
            kind = "replace" if row["has_live"] else "send"
            kind = "held" if row["folder"] in closed else kind
        elif kind == Word.DELETING and not policy.mirrors:
            continue
        elif kind == Word.DELETING:
            kind = "move" if row["id"] in moved else "delete"
        size = row["known_size"] if kind in ("delete", "move") else row["size"]
        yield Foreseen(kind, row["folder"], row["path"], size or row["known_size"] or 0)


def ignored(db: Database, folders: Collection[str]) -> int:
    """Return how many files of these folders a rule, or their kind, leaves out."""
    rows = db.conn.execute(
        "SELECT folder, count(*) FROM files WHERE status = 'ineligible' GROUP BY folder"
    )
    return sum(number for folder, number in rows if folder in folders)
