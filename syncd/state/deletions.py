"""The verbs of deletion: each one transaction around a DELETE, before it or after it.

| step    | committed before                | call    | committed after      | cut in between |
|---------|---------------------------------|---------|----------------------|----------------|
| missing | `confirm_missing`: evidence     | none    | the copies retire    | looked again   |
| delete  | `begin_delete`: delete_sent_at  | DELETE  | `deleted`            | DELETE again   |

They run on the writer's thread. Each reads the rows anew and decides on what they say then.
"""

import json
from collections.abc import Sequence

from sqlite_utils import Database

from syncd.state import copies, files, history, holds
from syncd.state.advance import Policies, advance
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.holds import decisions, missing
from syncd.state.ledger import NO_FAILURE, Failure
from syncd.state.lifecycle import CopyStatus, FileStatus, Verdict
from syncd.state.planner import is_superseded

#: What retires when its file is gone: the evidence is kept with it.
_TO_RETIRE = (CopyStatus.LIVE, CopyStatus.PROCESSING, CopyStatus.SENDING, CopyStatus.FAILED)


class Deletions:
    """The verbs, with what they need to know of the folders."""

    def __init__(self, *, policies: Policies) -> None:
        self._policies = policies

    def neighbours(self, folder: str) -> list[str]:
        """Return the folders of its workspace: what is missing here may have moved there."""
        workspace = self._policies[folder].workspace_uuid
        return [name for name, other in self._policies.items() if other.workspace_uuid == workspace]

    # What holds name

    def is_review_due(self, db: Database, folder: str) -> bool:
        """Say whether the holds that name a folder's files are not up to date."""
        policy = self._policies[folder]
        return bool(decisions.stale(db, folder)) or missing.is_review_due(db, folder, policy)

    def review(self, db: Database, folder: str, now: float) -> None:
        """Bring the holds that name a folder's files up to date, and judge what is missing."""
        decisions.refresh(db, folder, now)
        missing.review(db, folder, self._policies[folder], self.neighbours(folder), now)

    # A missing file

    def confirm_missing(
        self, db: Database, file_id: int, now: float, *, checks: Sequence[str] = ()
    ) -> str | None:
        """Record the second look that found a file missing: its copies retire, or are released.

        `checks` are what the look made sure of. Returns why nothing was done, if so; the file
        then keeps its first look.
        """
        file = files.get(db, file_id)
        if file is None or file.status is not FileStatus.MISSING or file.confirmed_at is not None:
            return "it is no longer missing"
        if _is_held(db, file):
            return "deletions are held"
        if file.due_at is None or file.due_at > now:
            return "its grace is not over"
        self._keep_unmirrored(db, file)
        file = files.existing(db, file.id)
        evidence = _evidence(file, now, checks)
        known = copies.of_file(db, file.id)
        files.update(db, file.id, confirmed_at=now, due_at=None, error=None)
        if file.verdict is not Verdict.KEPT:
            db.conn.execute(
                "UPDATE copies SET wanted = 0 "
                "WHERE file_id = ? AND status IN ('sending', 'processing')",
                (file.id,),
            )
            for copy in known:
                is_kept = copy.status is CopyStatus.RELEASED
                if copy.status in _TO_RETIRE or (is_kept and file.verdict is Verdict.APPROVED):
                    copies.update(db, copy.id, evidence=json.dumps(evidence))
        history.add(db, file, "missing", now, detail=evidence_text(evidence))
        advance(db, file.id, self._policies, now)
        return None

    def begin_delete(self, db: Database, copy_id: int, now: float) -> Copy | None:
        """Commit the intent to delete a copy; None where it must not be deleted now.

        Only a retiring copy that nothing needs, and only when no other request for its path is
        under way.
        """
        copy = copies.get(db, copy_id)
        if copy is None or copy.status is not CopyStatus.RETIRING or copy.file_uuid is None:
            return None
        if holds.is_lost(db):
            return None
        if holds.is_held(db, "deletions", holds.EVERYWHERE):
            copies.update(db, copy.id, due_at=now + 10.0)
            return None
        self._keep_unmirrored(db, files.existing(db, copy.file_id))
        advance(db, copy.file_id, self._policies, now)
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        if copy.status is not CopyStatus.RETIRING:
            return None
        if copy.superseded_at is not None and copy.superseded_at > now:
            # The clock was set back: the grace counts from here, and lasts no longer than it is.
            copies.update(db, copy.id, superseded_at=now)
            copy = copies.existing(db, copy.id)
        if copy.delete_sent_at is None and (keep_until := self._keep_until(copy, file)) > now:
            copies.update(db, copy.id, due_at=keep_until)
            return None
        others = copies.of_file(db, file.id)
        if any(other.in_flight for other in others):
            copies.update(db, copy.id, due_at=now + 1.0)
            return None
        if not is_superseded(copy, others) and not _is_needless(db, copy, file):
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

    def _keep_unmirrored(self, db: Database, file: File) -> None:
        """Keep what is stored of a missing file whose folder's deletions are mirrored no more."""
        policy = self._policies.get(file.folder)
        if policy and not policy.mirrors and file.status is FileStatus.MISSING:
            files.update(db, file.id, verdict=Verdict.KEPT)

    def _keep_until(self, copy: Copy, file: File) -> float:
        """Return until when a superseded copy is kept, for those who still use its uuid."""
        policy = self._policies.get(file.folder)
        if policy is None or copy.superseded_at is None or copy.live_at is None:
            return 0.0
        return copy.superseded_at + policy.superseded_grace

    def deleted(self, db: Database, copy_id: int, now: float) -> None:
        """Record that the service has soft-deleted a copy, or never knew it."""
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, **NO_FAILURE)
        history.add(db, file, "deleted", now, copy=copy, detail=copy.reason or "")
        advance(db, file.id, self._policies, now)

    def delete_failed(
        self, db: Database, copy_id: int, failure: Failure, now: float, again_at: float
    ) -> None:
        """Record that a DELETE got no good answer; it is sent again, due `again_at`."""
        copies.update(db, copy_id, in_flight=0, due_at=again_at, **failure.columns())
        advance(db, copies.existing(db, copy_id).file_id, self._policies, now)


def _is_needless(db: Database, copy: Copy, file: File) -> bool:
    """Say whether a copy goes although nothing newer is stored: its file is gone, or it is useless.

    What a person or a rule keeps outweighs a DELETE that got no answer.
    """
    is_missing = file.status is FileStatus.MISSING
    if is_missing and _is_held(db, file):
        return False
    if copy.live_at is None or not copy.wanted:
        return True
    if is_missing:
        return file.confirmed_at is not None and file.verdict is not Verdict.KEPT
    # It was proven missing when its first DELETE was sent, and nothing will replace it.
    is_unmirrored = file.status in (FileStatus.INELIGIBLE, FileStatus.CONSUMED)
    return is_unmirrored and copy.delete_sent_at is not None


def _is_held(db: Database, file: File) -> bool:
    """Say whether a hold keeps a missing file's copies from being deleted."""
    return file.verdict is Verdict.HELD or holds.stops_deletions(db, file.folder)


def _evidence(file: File, now: float, checks: Sequence[str]) -> dict[str, object]:
    return {
        "first_look_at": file.missing_since,
        "first_look_by": "event" if file.removal_seen else "scan",
        "second_look_at": now,
        "missing_seconds": now - (file.missing_since or now),
        "checks": list(checks),
        "approved_in_hold": file.hold_id if file.verdict is Verdict.APPROVED else None,
    }


def evidence_text(evidence: dict[str, object]) -> str:
    """Return evidence of an absence in one line."""
    by = "an event told of it" if evidence["first_look_by"] == "event" else "a scan found it"
    parts = [f"missing for {evidence['missing_seconds']:.0f} s, seen twice", by]
    checks = evidence["checks"]
    parts += [str(check) for check in checks] if isinstance(checks, list) else []
    if evidence["approved_in_hold"] is not None:
        parts.append(f"approved (hold {evidence['approved_in_hold']})")
    return "; ".join(parts)
