"""Applies all local actions that the planner names to the table, in one transaction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from syncd.state import copies, files, folders, history
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus, FileStatus, Keep, Verdict
from syncd.state.planner import LOCAL, Act, Action, Policy, plan

Policies = Mapping[str, Policy]
#: The statuses of copies that have, or may have, a stored object to delete.
_STORED = (CopyStatus.SENDING, CopyStatus.PROCESSING, CopyStatus.LIVE, CopyStatus.RETIRING)


def advance(db: Database, file_id: int, policies: Policies, now: float) -> Action:
    """Apply all local actions due for one file; return the action that is left.

    Every transaction that changes a file or one of its copies ends with this call, so that between
    transactions no local action is due and each `due_at` is correct.
    """
    file = files.get(db, file_id)
    if file is None:
        return Action(Act.NOTHING)
    policy = policies.get(file.folder) or policy_of_before(db, file.folder)
    known = copies.of_file(db, file_id)
    while (action := plan(file, known, policy)).act in LOCAL:
        if action.copy is None:
            raise AssertionError(action)
        _apply(db, file, action.copy, action, now, policy=policy)
        known = copies.of_file(db, file_id)
    if action.act is Act.ASK and action.copy is not None and _is_not_asked_for(action.copy, now):
        copies.update(db, action.copy.id, due_at=now, attempts=0)
    if file.status is FileStatus.MISSING and file.verdict is Verdict.HELD:
        if not any(copy.status in _STORED and copy.consumed_at is None for copy in known):
            # Nothing is left to delete, so the file needs no hold.
            files.update(db, file.id, verdict=None, due_at=now)
        return action
    due_at = _due_at(file, action, now)
    if due_at != file.due_at:
        files.update(db, file_id, due_at=due_at)
    return action


def _is_not_asked_for(copy: Copy, now: float) -> bool:
    """Return whether nobody has begun to ask for a copy: one that retires may be due much later."""
    is_kept_for_now = copy.status is CopyStatus.RETIRING and copy.attempts == 0
    return copy.due_at is None or (is_kept_for_now and copy.due_at > now)


def is_up_to_date(file: File, known: Sequence[Copy], policy: Policy, now: float) -> bool:
    """Return whether `advance` would leave a file with these `known` copies as it is."""
    action = plan(file, known, policy)
    return (
        action.act not in LOCAL
        and action.act is not Act.ASK
        and not (file.status is FileStatus.MISSING and file.verdict is Verdict.HELD)
        and _due_at(file, action, now) == file.due_at
    )


def policy_of_before(db: Database, folder: str) -> Policy:
    """Return the policy of a folder that is not configured now, with its last workspace."""
    return Policy(workspace_uuid=folders.workspaces(db).get(folder) or None)


def _due_at(file: File, action: Action, now: float) -> float | None:
    """Return when a file's own row is due; the rows of its copies have their own times."""
    if file.status is not FileStatus.READY:
        return file.due_at
    return (file.due_at or now) if action.act in (Act.HASH, Act.UPLOAD) else None


def _apply(
    db: Database, file: File, copy: Copy, action: Action, now: float, *, policy: Policy
) -> None:
    match action.act:
        case Act.DROP:
            copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason=action.reason)
        case Act.RETIRE:
            retire_unless_kept(db, copy, now, reason=action.reason)
        case Act.RELEASE:
            kept = copy.kept or policy.keeps(file)
            copies.move(db, copy, CopyStatus.RELEASED, due_at=None, reason=action.reason, kept=kept)
            history.add(db, file, "released", now, copy=copy, detail=action.reason)
        case _:
            raise AssertionError(action)


def retire_unless_kept(
    db: Database, copy: Copy, now: float, *, reason: str, **columns: Any
) -> None:
    """Mark a copy for its soft delete, and set other `columns`.

    This can be undone until the first DELETE is committed. A kept copy is released instead.
    """
    if copy.kept:
        columns |= {"kept": copy.kept}
        copies.move(db, copy, CopyStatus.RELEASED, due_at=None, reason=reason, **columns)
        return
    copies.move(db, copy, CopyStatus.RETIRING, due_at=now, attempts=0, reason=reason, **columns)


def retire_or_release(
    db: Database, copy: Copy, now: float, *, reason: str, empties: bool, **columns: Any
) -> None:
    """Retire a copy that is no longer needed; release it if it is kept or the folder `empties`."""
    retire_unless_kept(
        db, copy._replace(kept=copy.kept or Keep(empties)), now, reason=reason, **columns
    )


def make_live(
    db: Database,
    copy: Copy,
    now: float,
    *,
    others: Iterable[Copy],
    empties: bool = False,
    reason: str | None = None,
    **columns: Any,
) -> None:
    """Make `copy` the live copy of its file, and set other `columns`.

    `others` are the file's other copies: `copy` supersedes them in this transaction.
    """
    supersede(db, others, copy, now, reason="a newer copy is live", empties=empties)
    values: dict[str, Any] = {"due_at": None, "attempts": 0, "live_at": now, "reason": reason}
    # An earlier successor and an unanswered DELETE no longer matter.
    values |= {"superseded_at": None, "delete_sent_at": None}
    # Its file is mirrored again, like any other.
    values["kept"] = copy.kept if copy.kept is Keep.ALWAYS else Keep.NO
    copies.move(db, copy, CopyStatus.LIVE, **values, **columns)


def supersede(
    db: Database, others: Iterable[Copy], by: Copy, now: float, *, reason: str, empties: bool
) -> None:
    """Record that the content of `by` replaces a file's `others`.

    A live copy among them retires, or is released if the folder `empties`.
    """
    for other in others:
        if other.status is CopyStatus.LIVE:
            retire_or_release(db, other, now, reason=reason, empties=empties)
        is_rival = other.live_at is not None and other.workspace_uuid == by.workspace_uuid
        if is_rival and other.superseded_at is None:
            copies.update(db, other.id, superseded_at=now)
