"""The copies that the ledger claims to be remote, for a comparison with the listing."""

from collections.abc import Collection
from typing import NamedTuple

from syncd.state.database.connection import Database
from syncd.state.lifecycle import CopyStatus

#: Copies that are read at once.
BATCH = 1000


class Claim(NamedTuple):
    """A copy that was stored, and its file."""

    copy_id: int
    file_uuid: str
    token: str
    size: int
    status: str
    method: str
    is_video: bool
    folder: str
    path: bytes

    @property
    def is_there(self) -> bool:
        """Whether its object should be there."""
        return self.status in (CopyStatus.LIVE, CopyStatus.PROCESSING, CopyStatus.RELEASED)


_CLAIMS = (
    "SELECT copies.id, file_uuid, token, copies.size, copies.status, method, "
    "content_type LIKE 'video/%', folder, path FROM copies JOIN files ON files.id = file_id "
)


def claims(
    db: Database, workspace: str | None, after: int, *, retiring: bool = False
) -> list[Claim]:
    """Return the next copies in a workspace that should be there, or retire, by id."""
    rows = db.conn.execute(
        f"{_CLAIMS} WHERE copies.id > ? AND file_uuid IS NOT NULL AND workspace_uuid IS ? "
        "AND (copies.status IN ('live', 'processing', 'released') OR (? AND copies.status = "
        "'retiring')) ORDER BY copies.id LIMIT ?",
        (after, workspace, retiring, BATCH),
    )
    return [Claim(*row) for row in rows]


def claimed(db: Database, workspace: str | None) -> int:
    """Return how many copies in a workspace should be there."""
    number: int = db.value(
        "SELECT count(*) FROM copies WHERE file_uuid IS NOT NULL AND workspace_uuid IS ? "
        "AND status IN ('live', 'processing', 'released')",
        (workspace,),
    )
    return number


def live_since(db: Database, workspace: str | None, since: float) -> list[Claim]:
    """Return the newest live copies in a workspace that were sent after `since`."""
    rows = db.conn.execute(
        f"{_CLAIMS} WHERE copies.id > (SELECT coalesce(max(id), 0) - :most FROM copies) "
        "AND copies.status = 'live' AND copies.workspace_uuid IS :workspace "
        "AND copies.sent_at > :since AND file_uuid IS NOT NULL",
        {"most": BATCH, "workspace": workspace, "since": since},
    )
    return [Claim(*row) for row in rows]


def known(db: Database, uuids: Collection[str]) -> dict[str, Claim]:
    """Return the copies with these uuids, in any status."""
    marks = ", ".join("?" * len(uuids))
    rows = db.conn.execute(f"{_CLAIMS} WHERE file_uuid IN ({marks})", tuple(uuids))
    return {claim.file_uuid: claim for claim in (Claim(*row) for row in rows)}


def of_token(db: Database, token: str) -> list[Claim]:
    """Return the stored copies whose last request carried `token`."""
    rows = db.conn.execute(f"{_CLAIMS} WHERE token = ? AND file_uuid IS NOT NULL", (token,))
    return [Claim(*row) for row in rows]


def is_open(db: Database, token: str) -> bool:
    """Return whether the attempt of `token` got no answer, so that its object may be ours."""
    unanswered = db.value(
        "SELECT 1 FROM unanswered WHERE token = :token UNION ALL SELECT 1 FROM copies "
        "WHERE token = :token AND status = 'sending' AND file_uuid IS NULL",
        {"token": token},
    )
    return unanswered is not None


def kept(db: Database, limit: int) -> list[Claim]:
    """Return released copies that syncd does not delete."""
    rows = db.conn.execute(
        f"{_CLAIMS} WHERE kept AND copies.status = 'released' "
        "AND copies.status NOT IN ('live', 'gone') LIMIT ?",
        (limit,),
    )
    return [Claim(*row) for row in rows]


def counts(db: Database) -> dict[str, int]:
    """Return how many copies are kept without being mirrored, on their way out, and so on."""
    row = db.conn.execute(
        "SELECT count(*) FILTER (WHERE status = 'released') AS released, "
        "count(*) FILTER (WHERE status = 'retiring') AS retiring, "
        "count(*) FILTER (WHERE status = 'sending') AS in_doubt, "
        "count(*) FILTER (WHERE status = 'failed') AS failed "
        "FROM copies WHERE status NOT IN ('live', 'gone')"
    ).fetchone()
    return dict(row)
