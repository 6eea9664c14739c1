"""The verbs of deletion: each one transaction around a DELETE, before it or after it.

| step    | committed before                | call    | committed after      | cut in between |
|---------|---------------------------------|---------|----------------------|----------------|
| missing | `confirm_missing`: evidence     | none    | the copies retire    | looked again   |
| delete  | `begin_delete`: delete_sent_at  | DELETE  | `deleted`            | DELETE again   |

They run on the writer's thread. Each reads the rows anew and decides on what they say then.
"""

from sqlite_utils import Database

from syncd.state import copies, files, history, holds
from syncd.state.advance import Policies, advance
from syncd.state.copies import Copy
from syncd.state.ledger import Failure
from syncd.state.lifecycle import CopyStatus, FileStatus

_NO_FAILURE = dict.fromkeys(Failure("").columns())


class Deletions:
    """The verbs, with what they need to know of the folders."""

    def __init__(self, *, policies: Policies) -> None:
        self._policies = policies

    def confirm_missing(self, db: Database, file_id: int, now: float, evidence: str) -> str | None:
        """Record the second look that found a file missing: its copies retire.

        Returns why nothing was done, if so; the file then keeps its first look.
        """
        file = files.get(db, file_id)
        if file is None or file.status is not FileStatus.MISSING or file.confirmed_at is not None:
            return "it is no longer missing"
        if holds.is_held(db, "deletions", file.folder):
            return "deletions are held"
        if file.due_at is None or file.due_at > now:
            return "its grace is not over"
        files.update(db, file.id, confirmed_at=now, due_at=None, error=None)
        db.conn.execute(
            "UPDATE copies SET wanted = 0 WHERE file_id = ? AND status = 'sending'", (file.id,)
        )
        history.add(db, file, "missing", now, detail=evidence)
        advance(db, file.id, self._policies, now)
        return None

    def begin_delete(self, db: Database, copy_id: int, now: float) -> Copy | None:
        """Commit the intent to delete a copy; None where it must not be deleted now.

        Only a retiring copy whose file has a live one, or is proven missing, or never wanted
        this one, and only when no other request for its path is under way.
        """
        copy = copies.get(db, copy_id)
        if copy is None or copy.status is not CopyStatus.RETIRING or copy.file_uuid is None:
            return None
        advance(db, copy.file_id, self._policies, now)
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        if copy.status is not CopyStatus.RETIRING:
            return None
        others = copies.of_file(db, file.id)
        if any(other.in_flight for other in others):
            copies.update(db, copy.id, due_at=now + 1.0)
            return None
        replaced = any(other.status in (CopyStatus.LIVE, CopyStatus.RELEASED) for other in others)
        proven = file.status is FileStatus.MISSING and file.confirmed_at is not None
        if proven and not replaced and holds.is_held(db, "deletions", file.folder):
            copies.update(db, copy.id, due_at=now + 10.0)
            return None
        if not (replaced or proven or copy.live_at is None or not copy.wanted):
            copies.update(db, copy.id, due_at=now + 10.0)
            return None
        copies.update(
            db,
            copy.id,
            in_flight=1,
            delete_sent_at=copy.delete_sent_at or now,
            attempts=copy.attempts + 1,
            due_at=None,
        )
        return copies.existing(db, copy.id)

    def deleted(self, db: Database, copy_id: int, now: float) -> None:
        """Record that the service has soft-deleted a copy, or never knew it."""
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, **_NO_FAILURE)
        history.add(db, file, "deleted", now, copy=copy, detail=copy.reason or "")
        advance(db, file.id, self._policies, now)

    def delete_failed(
        self, db: Database, copy_id: int, failure: Failure, now: float, again_at: float
    ) -> None:
        """Record that a DELETE got no good answer; it is sent again, due `again_at`."""
        copies.update(db, copy_id, in_flight=0, due_at=again_at, **failure.columns())
        advance(db, copies.existing(db, copy_id).file_id, self._policies, now)
