"""Taking up remote objects that the ledger has forgotten: ours by token, a file's by name.

A token tells the place of its file and the beginning of its content's SHA-256 (see
`copies.new_token`), so that neither ledger nor download is needed.
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from sqlite_utils import Database

from syncd.state import copies, files, history
from syncd.state.advance import Policies, advance, make_live
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus, FileStatus

#: The SHA-256 of a copy whose content nobody has seen since the ledger was lost.
UNKNOWN_SHA256 = ""


class Remote(NamedTuple):
    """An object as a listing shows it; times in seconds since the epoch."""

    file_uuid: str
    token: str
    workspace_uuid: str | None
    content_type: str
    created_at: float
    size: int | None = None
    remote_file_path: str | None = None
    #: whether the service may still work on it
    is_video: bool = False


class Became(enum.StrEnum):
    """What an object was taken up as."""

    #: the copy by which its file is known
    LIVE = "live"
    #: a second copy of the same content: it retires
    TWIN = "twin"
    #: a copy of what its file held before: it retires once the file's content of now is live
    PREVIOUS = "previous"


def candidates(db: Database, tokens: Iterable[str]) -> dict[str, list[File]]:
    """Return the present files by the place digests of `tokens`."""
    wanted = {copies.place_of(token)[0] for token in tokens}
    found: dict[str, list[File]] = {}
    for folder, path, file_id in db.conn.execute(
        "SELECT folder, path, id FROM files WHERE status IN ('ready', 'settling', 'unreadable')"
    ):
        digest = copies.place_digest(folder, path)
        if digest in wanted and (file := files.get(db, file_id)):
            found.setdefault(digest, []).append(file)
    return found


def remember_content(db: Database, file: File, sha256: str) -> None:
    """Keep what a file's content was found to be, unless it changed meanwhile."""
    known = files.get(db, file.id)
    if known is not None and known.fingerprint == file.fingerprint:
        files.update(db, file.id, sha256=sha256)


def take_up(db: Database, file_id: int, remote: Remote, policies: Policies, now: float) -> Became:
    """Give a forgotten object a row as a copy of its file; return what it became."""
    file = files.get(db, file_id)
    if file is None:
        raise AssertionError(file_id)
    content = copies.place_of(remote.token)[1]
    same = (
        file.status is FileStatus.READY
        and file.sha256 is not None
        and file.sha256.startswith(content)
        and remote.size == file.size
    )
    others = copies.of_file(db, file_id)
    already = any(
        copy.status in (CopyStatus.LIVE, CopyStatus.PROCESSING) and copy.sha256 == file.sha256
        for copy in others
    )
    became = (Became.TWIN if already else Became.LIVE) if same else Became.PREVIOUS
    copy = copies.insert(db, _row(file, remote, became, now))
    if became is Became.LIVE and not remote.is_video:
        make_live(db, copy, now, others=others, empties=policies[file.folder].empties)
    history.add(db, file, "adopted", now, copy=copy, detail=f"found by its token, {became}")
    advance(db, file_id, policies, now)
    return became


def _row(file: File, remote: Remote, became: Became, now: float) -> Copy:
    status, due_at = {
        # A video's facts are asked for like those of any that is being processed; and what goes
        # live comes from there, too.
        Became.LIVE: (CopyStatus.PROCESSING, now),
        Became.TWIN: (CopyStatus.RETIRING, now),
        Became.PREVIOUS: (CopyStatus.RELEASED, None),
    }[became]
    is_known = became is not Became.PREVIOUS and file.sha256 is not None
    return Copy(
        id=0,
        file_id=file.id,
        token=remote.token,
        file_uuid=remote.file_uuid,
        status=status,
        wanted=became is not Became.TWIN,
        in_flight=False,
        generation=file.generation,
        sha256=file.sha256 if is_known and file.sha256 else UNKNOWN_SHA256,
        size=remote.size if remote.size is not None else file.size,
        content_type=remote.content_type,
        workspace_uuid=remote.workspace_uuid,
        method="direct",
        remote_file_path=remote.remote_file_path,
        due_at=due_at,
        sent_at=remote.created_at,
        created_at=remote.created_at,
        stored_at=remote.created_at,
        reason=f"found by its token: {became}",
    )


def arrived(db: Database, listed: Mapping[str, float], now: float) -> int:
    """Put in doubt each planned copy whose token is `listed` with its object's time of creation.

    An older database may not know that it was sent: it is looked up, and not sent a second time.
    """
    planned = copies.where(db, "status = 'planned' AND status NOT IN ('live', 'gone')")
    found = [copy for copy in planned if copy.token in listed]
    for copy in found:
        created_at = listed[copy.token]
        copies.move(db, copy, CopyStatus.SENDING, due_at=now, sent_at=created_at)
    return len(found)


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


def claimed(db: Database) -> list[Copy]:
    """Return the copies that should be there: stored, and not known to be gone."""
    return copies.where(
        db,
        "file_uuid IS NOT NULL AND status IN ('live', 'processing', 'retiring', 'failed') "
        "AND in_flight = 0",
    )


def gone(db: Database, lost: Collection[Copy], policies: Policies, now: float) -> int:
    """Record copies that are proven gone remotely; return how many."""
    for copy in lost:
        current = copies.get(db, copy.id)
        file = files.get(db, copy.file_id)
        if current is None or file is None or current.status is not copy.status:
            continue
        copies.move(
            db, current, CopyStatus.GONE, due_at=None, gone_at=now, reason="it was gone remotely"
        )
        history.add(db, file, "lost", now, copy=current, detail="it was gone remotely")
        advance(db, file.id, policies, now)
    return len(lost)
