"""Applies to the table, in one transaction, all that the planner says is due locally."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlite_utils import Database

from syncd.state import copies, files, folders, history
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus, FileStatus, Keep, Verdict
from syncd.state.planner import LOCAL, Act, Action, Policy, plan

Policies = Mapping[str, Policy]


def advance(db: Database, file_id: int, policies: Policies, now: float) -> Action:
    """Bring one file as far as the table alone can; return what is left to do.

    Ends every transaction that changed a file or one of its copies, so that between transactions
    nothing local is ever due and each `due_at` tells the truth.
    """
    while True:
        file = files.get(db, file_id)
        if file is None:
            return Action(Act.NOTHING)
        policy = policies.get(file.folder) or _policy_of_before(db, file.folder)
        action = plan(file, copies.of_file(db, file_id), policy)
        if action.act not in LOCAL:
            break
        if action.copy is None:
            raise AssertionError(action)
        _apply(db, file, action.copy, action, now, policy=policy)
    if action.act is Act.ASK and action.copy is not None and action.copy.due_at is None:
        copies.update(db, action.copy.id, due_at=now, attempts=0)
    if file.status is FileStatus.MISSING and file.verdict is Verdict.HELD:
        _end_needless_hold(db, file, now)
        return action
    due_at = _due_at(file, action, now)
    if due_at != file.due_at:
        files.update(db, file_id, due_at=due_at)
    return action


def _end_needless_hold(db: Database, file: File, now: float) -> None:
    """Take a missing file out of its hold once nothing is left that could be deleted."""
    stored = (CopyStatus.SENDING, CopyStatus.PROCESSING, CopyStatus.LIVE, CopyStatus.RETIRING)
    if not any(
        copy.status in stored and copy.consumed_at is None for copy in copies.of_file(db, file.id)
    ):
        files.update(db, file.id, verdict=None, due_at=now)


def _policy_of_before(db: Database, folder: str) -> Policy:
    """Return the policy of a folder that is not worked on now: its copies are where they were."""
    return Policy(workspace_uuid=folders.workspaces(db).get(folder) or None)


def _due_at(file: File, action: Action, now: float) -> float | None:
    """Return when a file's own row is due; what its copies wait for stands in theirs."""
    if file.status is not FileStatus.READY:
        return file.due_at
    return (file.due_at or now) if action.act in (Act.HASH, Act.PLAN) else None


def _apply(
    db: Database, file: File, copy: Copy, action: Action, now: float, *, policy: Policy
) -> None:
    match action.act:
        case Act.DROP:
            copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason=action.reason)
        case Act.RETIRE:
            retire(db, copy, now, reason=action.reason)
        case Act.RELEASE:
            kept = copy.kept or policy.keeps(file)
            copies.move(db, copy, CopyStatus.RELEASED, due_at=None, reason=action.reason, kept=kept)
            history.add(db, file, "released", now, copy=copy, detail=action.reason)
        case Act.REVIVE:
            others = [other for other in copies.of_file(db, file.id) if other.id != copy.id]
            make_live(
                db,
                copy,
                now,
                others=others,
                empties=policy.empties,
                reason=action.reason,
                evidence=None,
            )
            history.add(db, file, "kept", now, copy=copy, detail=action.reason)
        case _:
            raise AssertionError(action)


def retire(db: Database, copy: Copy, now: float, *, reason: str, **facts: Any) -> None:
    """Mark a copy for its soft delete, with `facts` for other columns.

    Revocable until the first DELETE is committed. A copy that is kept is released instead.
    """
    if copy.kept:
        facts |= {"kept": copy.kept}
        copies.move(db, copy, CopyStatus.RELEASED, due_at=None, reason=reason, **facts)
        return
    copies.move(db, copy, CopyStatus.RETIRING, due_at=now, attempts=0, reason=reason, **facts)


def let_go(
    db: Database, copy: Copy, now: float, *, reason: str, empties: bool, **facts: Any
) -> None:
    """Retire a copy that is stored and not needed; keep it where the folder `empties`."""
    retire(db, copy._replace(kept=copy.kept or Keep(empties)), now, reason=reason, **facts)


def make_live(
    db: Database,
    copy: Copy,
    now: float,
    *,
    others: Iterable[Copy],
    empties: bool = False,
    reason: str | None = None,
    **facts: Any,
) -> None:
    """Make `copy` the live copy of its file, with `facts` for other columns.

    `others` are the file's other copies: `copy` supersedes them in this transaction.
    """
    supersede(db, others, copy, now, reason="a newer copy is live", empties=empties)
    values: dict[str, Any] = {"due_at": None, "attempts": 0, "live_at": now, "reason": reason}
    # A copy that took its place, or a DELETE that got no answer, is past.
    values |= {"superseded_at": None, "delete_sent_at": None}
    # Its file is mirrored again, like any other.
    values["kept"] = copy.kept if copy.kept is Keep.ALWAYS else Keep.NO
    copies.move(db, copy, CopyStatus.LIVE, **values, **facts)


def supersede(
    db: Database, others: Iterable[Copy], by: Copy, now: float, *, reason: str, empties: bool
) -> None:
    """Record that the content of `by` takes the place of a file's `others`.

    A live one among them retires, or is released where the folder `empties`.
    """
    for other in others:
        if other.status is CopyStatus.LIVE:
            let_go(db, other, now, reason=reason, empties=empties)
        is_rival = other.live_at is not None and other.workspace_uuid == by.workspace_uuid
        if is_rival and other.superseded_at is None:
            copies.update(db, other.id, superseded_at=now)
