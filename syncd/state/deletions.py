"""The verbs of deletion: each one transaction around a DELETE, before it or after it.

| step    | committed before                | call    | committed after      | cut in between |
|---------|---------------------------------|---------|----------------------|----------------|
| missing | `confirm_missing`: evidence     | none    | the copies retire    | looked again   |
| delete  | `begin_delete`: delete_sent_at  | DELETE  | `deleted`            | DELETE again   |

They run on the writer's thread. Each reads the rows anew and decides on what they say then. They
take many files at once, which share their statements; a file that needs more than the usual is
brought up to date on its own.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from syncd.state import copies, files, history, holds
from syncd.state.apply_plan import Policies, advance, is_up_to_date, policy_of_before
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.holds import decisions, missing, pauses
from syncd.state.ledger import Failure
from syncd.state.lifecycle import CopyStatus, FileStatus, Verdict
from syncd.state.planner import FILE_GONE, LOCAL, Act, Policy, is_superseded, plan

#: Seconds for which a pass over some folders leaves the copies of the others alone.
ANOTHER_PASS_SECONDS = 600.0
#: Copies in these states retire when their file is gone, and keep the evidence.
_TO_RETIRE = (CopyStatus.LIVE, CopyStatus.PROCESSING, CopyStatus.SENDING, CopyStatus.FAILED)


class _Case(NamedTuple):
    """A file to be judged: its copies that are not gone, and what its folder's settings say."""

    file: File
    copies: list[Copy]
    policy: Policy
    #: whether a hold keeps its copies from being deleted while it is missing
    is_held: bool

    def copy(self, copy_id: int) -> Copy | None:
        """Return one of its copies; None if it is gone, or another file's by now."""
        return next((copy for copy in self.copies if copy.id == copy_id), None)

    def instead(self, copy: Copy) -> "_Case":
        """Return the same case, with `copy` in place of the one with its id."""
        some = [copy if other.id == copy.id else other for other in self.copies]
        return self._replace(copies=some)

    def is_needed_again(self, copy: Copy) -> bool:
        """Return whether the file holds the content of a retiring copy again."""
        action = plan(self.file, self.copies, self.policy)
        return action.act is Act.ASK and action.copy is not None and action.copy.id == copy.id

    @property
    def is_kept(self) -> bool:
        """Whether it is missing where deletions are not mirrored: its copies stay."""
        return self.file.status is FileStatus.MISSING and not self.policy.mirrors


class Deletions:
    """The verbs, with what they need to know of the folders."""

    def __init__(self, *, policies: Policies) -> None:
        self.policies = policies

    def neighbours(self, folder: str) -> list[str]:
        """Return the folders of its workspace: what is missing here may have moved there."""
        workspace = self.policies[folder].workspace_uuid
        return [name for name, other in self.policies.items() if other.workspace_uuid == workspace]

    # Files that holds name

    def is_review_due(self, db: Database, folder: str) -> bool:
        """Return whether the holds that name a folder's files are not up to date."""
        policy = self.policies[folder]
        return bool(decisions.stale(db, folder)) or missing.is_review_due(db, folder, policy)

    def review(self, db: Database, folder: str, now: float) -> None:
        """Bring the holds that name a folder's files up to date, and judge what is missing."""
        decisions.refresh(db, folder, now)
        missing.review(db, folder, self.policies[folder], self.neighbours(folder), now)

    def _cases(self, db: Database, file_ids: Iterable[int]) -> list[_Case]:
        """Return the cases of files, in the order asked."""
        wanted = list(dict.fromkeys(file_ids))
        some, ids = "(SELECT value FROM json_each(?))", (json.dumps(wanted),)
        rows = {file.id: file for file in files.where(db, f"id IN {some}", ids)}
        of_file: dict[int, list[Copy]] = {file_id: [] for file_id in rows}
        for copy in copies.where(db, f"file_id IN {some} AND status <> 'gone' ORDER BY id", ids):
            of_file[copy.file_id].append(copy)
        rules = {
            name: (
                self.policies.get(name) or policy_of_before(db, name),
                holds.stops_deletions(db, name),
            )
            for name in {file.folder for file in rows.values()}
        }
        return [
            _Case(file, of_file[file.id], policy, is_stopped or file.verdict is Verdict.HELD)
            for file in (rows[file_id] for file_id in wanted if file_id in rows)
            for policy, is_stopped in [rules[file.folder]]
        ]

    # A missing file

    def confirm_missing(
        self, db: Database, file_ids: Sequence[int], now: float, *, checks: Sequence[str] = ()
    ) -> None:
        """Record the second look that found files missing: their copies retire, or are released.

        `checks` are what the look made sure of. A file that is not missing any more, whose grace is
        not over, or whose deletion is held keeps its first look.
        """
        cases = [one for one in self._cases(db, file_ids) if _is_to_be_confirmed(one, now)]
        if not cases:
            return
        cases = [self._keep_unmirrored(db, one) for one in cases]
        proofs = {one.file.id: _evidence(one.file, now, checks) for one in cases}
        files.confirm_all(db, list(proofs), now)
        copies.want_no_more(
            db,
            [
                i
                for i, one in zip(proofs, cases, strict=True)
                if one.file.verdict is not Verdict.KEPT
            ],
        )
        copies.set_evidence(
            db,
            [
                (copy.id, json.dumps(proofs[one.file.id]))
                for one in cases
                for copy in one.copies
                if _is_to_retire(one, copy)
            ],
        )
        history.add_all(
            db,
            [
                history.line(one.file, "missing", now, detail=evidence_text(proofs[one.file.id]))
                for one in cases
            ],
        )
        retiring = {one.file.id: one.copies[0].id for one in cases if _only_retires(one, now)}
        copies.retire_all(db, list(retiring.values()), now, reason=FILE_GONE)
        for one in cases:
            if one.file.id not in retiring:
                advance(db, one.file.id, self.policies, now)

    def _keep_unmirrored(self, db: Database, case: _Case) -> _Case:
        """Keep what is stored of a missing file whose folder's deletions are mirrored no more."""
        if case.file.status is not FileStatus.MISSING or case.policy.mirrors:
            return case
        files.update(db, case.file.id, verdict=Verdict.KEPT)
        return case._replace(file=files.existing(db, case.file.id))

    # Before a DELETE

    def needed_again(self, db: Database, retiring: Sequence[Copy]) -> list[Copy]:
        """Return the retiring copies whose file holds their content again: GET them first."""
        cases = {one.file.id: one for one in self._cases(db, (c.file_id for c in retiring))}
        return [
            copy
            for copy in retiring
            if (one := cases.get(copy.file_id)) is not None
            and not self._is_left_to_another_pass(one)
            and one.is_needed_again(copy)
        ]

    def begin_delete(self, db: Database, retiring: Sequence[Copy], now: float) -> list[Copy]:
        """Commit the intents to delete copies; return those that may be deleted now.

        Only retiring copies that nothing needs, and only where no other request for their path is
        under way: of one file, one at a time.
        """
        if holds.is_ledger_incomplete(db) or holds.is_held(db, "deletions", holds.EVERYWHERE):
            copies.put_off_deletes(db, [copy.id for copy in retiring], now + 10.0)
            return []
        paused = pauses.scopes(db)
        cases = self._up_to_date(db, retiring, now)
        begun: list[Copy] = []
        for asked in retiring:
            one = cases.get(asked.file_id)
            copy = one.copy(asked.id) if one else None
            if one is None or copy is None or one.file.folder in paused or not _is_retiring(copy):
                continue
            if self._is_left_to_another_pass(one):
                copies.update(db, copy.id, due_at=now + ANOTHER_PASS_SECONDS)
                continue
            if copy.superseded_at is not None and copy.superseded_at > now:
                # The clock was set back: the grace counts from here, and gets no longer.
                copies.update(db, copy.id, superseded_at=now)
                copy = copy._replace(superseded_at=now)
            if (not_before := _not_before(one, copy, now)) > now:
                copies.update(db, copy.id, due_at=not_before)
                continue
            begun.append(_promised(copy, now))
            cases[asked.file_id] = one.instead(begun[-1])
        copies.promise_deletes(db, [copy.id for copy in begun], now)
        return begun

    def _is_left_to_another_pass(self, case: _Case) -> bool:
        """Return whether a mirrored file is left to passes that know the policy of its folder."""
        is_mirrored = case.file.present and case.file.status is not FileStatus.INELIGIBLE
        return is_mirrored and case.file.folder not in self.policies

    def _up_to_date(self, db: Database, retiring: Sequence[Copy], now: float) -> dict[int, _Case]:
        """Return the cases of the copies' files, once nothing local is due for them."""
        cases = {one.file.id: one for one in self._cases(db, (c.file_id for c in retiring))}
        outdated = [one for one in cases.values() if one.is_kept or not _is_up_to_date(one, now)]
        for one in outdated:
            self._keep_unmirrored(db, one)
            advance(db, one.file.id, self.policies, now)
        cases |= {one.file.id: one for one in self._cases(db, (one.file.id for one in outdated))}
        return cases

    def still_deletable(self, db: Database, retiring: Sequence[Copy], now: float) -> set[int]:
        """Return the ids of promised copies that may be deleted by what the tables say by now.

        Each is given as it was before the promise, and judged as if there were none.
        """
        if holds.is_ledger_incomplete(db) or holds.is_held(db, "deletions", holds.EVERYWHERE):
            return set()
        paused = pauses.scopes(db)
        cases = {one.file.id: one for one in self._cases(db, (c.file_id for c in retiring))}
        found = set[int]()
        for before in retiring:
            one = cases.get(before.file_id)
            copy = one.copy(before.id) if one else None
            if one is None or copy is None or not copy.in_flight or one.file.folder in paused:
                continue
            copy = copy._replace(in_flight=False, delete_sent_at=before.delete_sent_at)
            one = one.instead(copy)
            # Local actions are due first, and may keep the copy.
            is_changing = one.is_kept and one.file.verdict is not Verdict.KEPT
            is_changing = is_changing or plan(one.file, one.copies, one.policy).act in LOCAL
            if not is_changing and _not_before(one, copy, now) <= now:
                found.add(copy.id)
        return found

    def take_back(self, db: Database, retiring: Sequence[Copy], now: float) -> None:
        """Record that promised DELETEs were not sent; each copy is given as it was before.

        They are tried again a second later.
        """
        for before in retiring:
            db.conn.execute(
                "UPDATE copies SET in_flight = 0, delete_sent_at = :sent, due_at = :due_at, "
                "attempts = attempts - 1, evidence = iif(:sent IS NULL AND (SELECT confirmed_at "
                "FROM files WHERE id = file_id) IS NULL, NULL, evidence) "
                "WHERE id = :id AND status = 'retiring' AND in_flight = 1",
                {"sent": before.delete_sent_at, "due_at": now + 1.0, "id": before.id},
            )
            advance(db, before.file_id, self.policies, now)

    def delete_again(self, db: Database, copy_ids: Iterable[int], now: float) -> None:
        """Let DELETEs be sent again that were promised, and may or may not have been sent."""
        db.conn.execute(
            "UPDATE copies SET in_flight = 0, due_at = ?, doubted_at = ? WHERE status = 'retiring' "
            "AND in_flight = 1 AND id IN (SELECT value FROM json_each(?))",
            (now, now, json.dumps(list(copy_ids))),
        )

    # After a DELETE

    def deleted(self, db: Database, gone: Sequence[Copy], now: float) -> None:
        """Record that the service has soft-deleted copies, or never knew them."""
        copies.gone_all(db, gone, now)
        cases = {one.file.id: one for one in self._cases(db, (copy.file_id for copy in gone))}
        history.add_all(
            db,
            [
                history.line(
                    cases[copy.file_id].file, "deleted", now, copy=copy, detail=copy.reason or ""
                )
                for copy in gone
            ],
        )
        for one in cases.values():
            if not _is_up_to_date(one, now):
                advance(db, one.file.id, self.policies, now)

    def delete_failed(
        self, db: Database, copy_id: int, failure: Failure, now: float, again_at: float
    ) -> None:
        """Record that a DELETE got no good answer; it is sent again, due `again_at`."""
        copies.update(db, copy_id, in_flight=0, due_at=again_at, **failure.columns())
        advance(db, copies.existing(db, copy_id).file_id, self.policies, now)


def _is_retiring(copy: Copy) -> bool:
    return copy.status is CopyStatus.RETIRING and copy.file_uuid is not None


def _promised(copy: Copy, now: float) -> Copy:
    """Return a copy whose DELETE is promised now."""
    return copy._replace(
        in_flight=True,
        delete_sent_at=now if copy.delete_sent_at is None else copy.delete_sent_at,
        attempts=copy.attempts + 1,
        due_at=None,
    )


def _is_to_be_confirmed(case: _Case, now: float) -> bool:
    """Return whether a second look at a file can let its copies retire."""
    file = case.file
    is_due = file.due_at is not None and file.due_at <= now
    is_missing = file.status is FileStatus.MISSING and file.confirmed_at is None
    return is_missing and is_due and not case.is_held


def _is_to_retire(case: _Case, copy: Copy) -> bool:
    """Return whether a copy retires once its file is found missing for good."""
    verdict = case.file.verdict
    is_unkept = copy.status is CopyStatus.RELEASED and verdict is Verdict.APPROVED
    return verdict is not Verdict.KEPT and (copy.status in _TO_RETIRE or is_unkept)


def _only_retires(case: _Case, now: float) -> bool:
    """Return whether `advance` lets a file's one copy retire, and does nothing else."""
    confirmed = case.file._replace(confirmed_at=now, due_at=None)
    return (
        len(case.copies) == 1
        and case.copies[0].status is CopyStatus.LIVE
        and not case.copies[0].kept
        and plan(confirmed, case.copies, case.policy).act is Act.RETIRE
    )


def _is_up_to_date(case: _Case, now: float) -> bool:
    """Return whether nothing local is due for a file."""
    return is_up_to_date(case.file, case.copies, case.policy, now)


def _not_before(case: _Case, copy: Copy, now: float) -> float:
    """Return from when on a retiring copy may be deleted, or is to be judged anew."""
    if case.is_needed_again(copy):
        return now + 10.0
    if copy.delete_sent_at is None and (keep_until := _keep_until(case, copy)) > now:
        return keep_until
    if any(other.in_flight for other in case.copies):
        return now + 1.0
    is_needed = not is_superseded(copy, case.copies) and not _is_needless(copy, case)
    return now + 10.0 if is_needed else now


def _keep_until(case: _Case, copy: Copy) -> float:
    """Return until when a superseded copy is kept, for those who still use its uuid."""
    if copy.superseded_at is None or copy.live_at is None:
        return 0.0
    return copy.superseded_at + case.policy.superseded_grace


def _is_needless(copy: Copy, case: _Case) -> bool:
    """Return whether a copy is needless, though nothing newer is stored: its file is gone, for one.

    What a person or a rule keeps outweighs a DELETE that got no answer.
    """
    file = case.file
    is_missing = file.status is FileStatus.MISSING
    if is_missing and case.is_held:
        return False
    if copy.live_at is None or not copy.wanted:
        return True
    if is_missing:
        return file.confirmed_at is not None and file.verdict is not Verdict.KEPT
    # It was proven missing when its first DELETE was sent, and nothing will replace it.
    is_unmirrored = file.status in (FileStatus.INELIGIBLE, FileStatus.CONSUMED)
    return is_unmirrored and copy.delete_sent_at is not None


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
