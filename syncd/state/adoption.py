"""Taking up forgotten remote objects: ours by token, a file's by place or content.

A token tells the place of its file and the beginning of its content's SHA-256, so that neither
ledger nor download is needed. What is taken up so is never deleted by syncd.
"""

import enum
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from syncd.state import attempts, copies, files, history, tokens
from syncd.state.apply_plan import Policies, advance, make_live
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.lifecycle import ARROWS, CopyStatus, FileStatus, Keep

#: The SHA-256 of a copy whose content nobody has seen since the ledger was lost.
UNKNOWN_SHA256 = ""
PRESENT = "status IN ('ready', 'settling', 'unreadable')"


class Remote(NamedTuple):
    """An object as a listing shows it; times in seconds since the epoch."""

    file_uuid: str
    token: str
    workspace_uuid: str | None
    created_at: float
    size: int | None = None
    content_type: str | None = None
    remote_file_path: str | None = None

    @property
    def kind(self) -> str:
        return self.content_type or "application/octet-stream"


class Became(enum.StrEnum):
    """The role in which an object was adopted."""

    #: the copy by which its file is known
    LIVE = "live"
    #: kept beside the live copy of the same content
    SECOND = "second"
    #: a copy of what its file held before; it is kept
    PREVIOUS = "previous"


_COLUMNS = ", ".join(Remote._fields)


# Our objects in a listing, while it is read


def forget_listed(db: Database, workspace: str | None) -> None:
    """Forget what was noted of a workspace's listing."""
    db.conn.execute("DELETE FROM listed WHERE workspace_uuid IS ?", (workspace,))


def forget_all_listed(db: Database) -> None:
    """Forget what was noted of every listing."""
    db.conn.execute("DELETE FROM listed")


def note_listed(db: Database, found: Iterable[Remote]) -> None:
    """Note objects that carry our token, and are none of the ledger's."""
    db.conn.executemany(
        f"INSERT OR IGNORE INTO listed ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", found
    )


def oldest_listed(db: Database, after: str, limit: int) -> list[Remote]:
    """Return, for the next tokens after `after`, the oldest object that carries each.

    Not for tokens whose object the ledger has: an attempt has one object.
    """
    rows = db.conn.execute(
        f"SELECT {_COLUMNS} FROM listed AS one WHERE token > ? AND NOT EXISTS ("
        "SELECT 1 FROM listed AS other WHERE other.token = one.token AND "
        "(other.created_at, other.file_uuid) < (one.created_at, one.file_uuid)) AND NOT EXISTS ("
        "SELECT 1 FROM copies WHERE copies.token = one.token AND copies.file_uuid IS NOT NULL) "
        "ORDER BY token LIMIT ?",
        (after, limit),
    )
    return [Remote(*row) for row in rows]


def count_listed(db: Database) -> int:
    """Return how many objects were noted."""
    return int(db.value("SELECT count(*) FROM listed"))


def latest_listed(db: Database) -> int:
    """Return the number of the latest attempt among what was noted."""
    last = db.value("SELECT max(substr(token, 40, 12)) FROM listed WHERE token LIKE 'sy2-%'")
    return int(last, 16) if last else 0


# Matching objects to files


def is_authentic(db: Database, remote: Remote, *, sizes_are_told: bool) -> bool | None:
    """Return whether this instance sent what `remote` holds; None if nothing can prove it."""
    token = tokens.read(remote.token)
    if not tokens.is_verifiable(db, token):
        return None
    if remote.size is not None and tokens.is_of_size(db, remote.token, remote.size):
        return True
    return not sizes_are_told and tokens.is_genuine(db, remote.token)


def places(db: Database, folder: str | None = None) -> Iterator[tuple[str, int]]:
    """Yield the place digests and ids of all present files, or of a folder's."""
    rows = db.conn.execute(
        f"SELECT folder, path, id FROM files WHERE {PRESENT} AND folder = coalesce(?, folder)",
        (folder,),
    )
    for name, path, file_id in rows:
        yield tokens.place_digest(name, path), file_id


def at_place(db: Database, remote: Remote, ids: Iterable[int]) -> list[File]:
    """Return those of the files `ids` that are at the place that the token of `remote` tells."""
    digest = tokens.read(remote.token).path
    known = [file for file_id in ids if (file := files.get(db, file_id))]
    return [
        file for file in known if tokens.place_digest(file.folder, file.path).startswith(digest)
    ]


def of_size(db: Database, size: int, limit: int) -> list[File]:
    """Return present files of a size that have no live copy."""
    return files.where(
        db,
        f"size = ? AND {PRESENT} AND NOT EXISTS (SELECT 1 FROM copies "
        "WHERE file_id = files.id AND copies.status IN ('live', 'processing')) LIMIT ?",
        (size, limit),
    )


def remember_content(db: Database, file: File, sha256: str) -> None:
    """Keep what a file's content was found to be, unless it changed meanwhile."""
    known = files.get(db, file.id)
    if known is not None and known.fingerprint == file.fingerprint:
        files.update(db, file.id, sha256=sha256)


def has_content(file: File, remote: Remote) -> bool:
    """Return whether a file holds what the token of `remote` tells."""
    content = tokens.read(remote.token).content
    return file.sha256 is not None and file.sha256.startswith(content)


def take_up(db: Database, file_id: int, remote: Remote, policies: Policies, now: float) -> Became:
    """Give a forgotten object a row as a copy of its file; return what it became."""
    file = files.existing(db, file_id)
    # A file that still settles was just copied back, perhaps: what it turns into is compared then.
    same = file.status in (FileStatus.READY, FileStatus.SETTLING) and has_content(file, remote)
    others = copies.of_file(db, file_id)
    already = any(
        copy.status in (CopyStatus.LIVE, CopyStatus.PROCESSING) and copy.sha256 == file.sha256
        for copy in others
    )
    became = (Became.SECOND if already else Became.LIVE) if same else Became.PREVIOUS
    copy = copies.insert(db, _row(file, remote, became, now))
    if became is Became.LIVE and not copy.is_video:
        make_live(db, copy, now, others=others, empties=policies[file.folder].empties)
    history.add(db, file, "adopted", now, copy=copy, detail=f"found by its token, {became}")
    advance(db, file_id, policies, now)
    return became


def _row(file: File, remote: Remote, became: Became, now: float) -> Copy:
    is_live = became is Became.LIVE
    is_known = became is not Became.PREVIOUS and file.sha256 is not None
    return Copy(
        id=0,
        file_id=file.id,
        token=remote.token,
        file_uuid=remote.file_uuid,
        # A video's facts are asked for like those of any that is being processed; and what goes
        # live comes from there, too.
        status=CopyStatus.PROCESSING if is_live else CopyStatus.RELEASED,
        wanted=True,
        in_flight=False,
        generation=file.generation,
        sha256=file.sha256 if is_known and file.sha256 else UNKNOWN_SHA256,
        size=remote.size if remote.size is not None else file.size,
        content_type=remote.kind,
        workspace_uuid=remote.workspace_uuid,
        method="direct",
        remote_file_path=remote.remote_file_path,
        due_at=now if is_live else None,
        sent_at=remote.created_at,
        created_at=remote.created_at,
        stored_at=remote.created_at,
        reason=f"found by its token: {became}",
        kept=Keep.ALWAYS,
    )


# The ledger


def end_attempts(db: Database, policies: Policies, now: float) -> None:
    """Give every unanswered request up: its object, where it is there, is taken up by its token."""
    attempts.end_all(db)
    doubts = copies.where(
        db,
        "status NOT IN ('live', 'gone') AND status = 'sending' AND in_flight = 0 "
        "AND file_uuid IS NULL",
    )
    for copy in doubts:
        copies.move(
            db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason="given up by `syncd adopt`"
        )
        advance(db, copy.file_id, policies, now)


def spare_missing(db: Database, folder: str, now: float) -> int:
    """Keep the copies of a folder's missing files: what was lost may be that syncd took them away.

    For a folder whose files are taken away after their upload; returns how many are kept.
    """
    gone = copies.where(
        db,
        "status = 'live' AND file_id IN (SELECT id FROM files WHERE folder = ? "
        "AND status = 'missing' AND confirmed_at IS NULL)",
        (folder,),
    )
    for copy in gone:
        reason = "it may have been taken away before the ledger was lost"
        copies.move(db, copy, CopyStatus.RELEASED, due_at=None, consumed_at=now, reason=reason)
        files.update(db, copy.file_id, status=FileStatus.CONSUMED, due_at=None, missing_since=None)
    return len(gone)


def gone(db: Database, lost: Collection[int], policies: Policies, now: float) -> int:
    """Record copies that are proven gone remotely, by id; return how many."""
    for copy_id in lost:
        copy = copies.existing(db, copy_id)
        if CopyStatus.GONE not in ARROWS[copy.status] or copy.in_flight:
            continue
        copies.move(
            db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason="it was gone remotely"
        )
        file = files.existing(db, copy.file_id)
        history.add(db, file, "lost", now, copy=copy, detail="it was gone remotely")
        advance(db, file.id, policies, now)
    return len(lost)
