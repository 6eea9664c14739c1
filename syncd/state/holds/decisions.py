"""The files that holds name, one row each, and what a person decides on them.

| hold                       | names files                     | approved           | rejected     |
|----------------------------|---------------------------------|--------------------|--------------|
| many_missing               | that went missing               | copies are deleted | copies stay  |
| root_replaced, if alike    | that another root lacks         | copies are deleted | copies stay  |
| more_missing               | that went missing since         | not yet            | not yet      |
| remote_gone                | whose copies others deleted     | left alone         | sent again   |
| many_changed               | with new content                | sent               | left alone   |

A file is named by one hold at most. As long as its row says `held`, its copies are not deleted, and
it is not sent. The row goes when the file is back, changes, or is moved. A verdict can be changed
into the other one for as long as there is something left to change.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from syncd.exceptions import SyncdError
from syncd.state import history, holds
from syncd.state.database.connection import Database
from syncd.state.holds import (
    FIRST,
    MANY_CHANGED,
    MORE_MISSING,
    REMOTE_GONE,
    ROOT_REPLACED,
    Hold,
    Stops,
)
from syncd.state.lifecycle import Verdict
from syncd.state.texts import shown
from syncd.units import counted

Decided = Literal["approved", "rejected"]
#: The reasons of holds that a person decides on.
_REVIEWED = (*holds.NAMING_FILES, ROOT_REPLACED)
#: Seconds between an approval and the first deletion: until then all of it can be taken back.
UNDO_SECONDS = 10.0
#: The commands of a hold that can be decided on.
COMMANDS = ("syncd deletes approve {id}", "syncd deletes reject {id}")

#: SQL for a file of which something is stored that could still be deleted, and kept as well.
STORED = (
    "EXISTS (SELECT 1 FROM copies WHERE file_id = files.id AND consumed_at IS NULL "
    "AND (copies.status IN ('live', 'processing') "
    "OR (copies.status = 'retiring' AND delete_sent_at IS NULL AND live_at IS NOT NULL)))"
)
#: SQL for a file whose DELETE is promised: it may not have left, and then it does not.
_PROMISED = (
    "EXISTS (SELECT 1 FROM copies WHERE file_id = files.id AND live_at IS NOT NULL "
    "AND copies.status = 'retiring' AND in_flight = 1)"
)
#: SQL for a file of which an earlier rejection kept copies: the last look comes before they retire.
_KEPT_BEFORE = (
    "EXISTS (SELECT 1 FROM copies WHERE file_id = files.id AND copies.status = 'released' "
    "AND copies.kept = 0)"
)
#: SQL for rows whose verdict can still become the other one.
_CHANGEABLE = (
    "(decisions.verdict = 'forgotten' OR (files.status = 'missing' AND (decisions.verdict = 'kept' "
    f"OR (decisions.verdict = 'approved' AND ({STORED} OR {_PROMISED} OR {_KEPT_BEFORE})))))"
)


class ReviewError(SyncdError):
    """There is no such hold, or nothing to decide on it; the message says what can be done."""


class Decision(NamedTuple):
    """A verdict that was carried out: on which hold, and on how many files.

    They are those that the hold names; or, if it names none, those that the approved folder lacks.
    """

    hold: Hold
    verdict: Decided
    files: int


# Files that a hold names


def name(
    db: Database,
    file_ids: Collection[int],
    *,
    stops: Stops,
    scope: str,
    reason: str,
    message: str,
    now: float,
    commands: Sequence[str] = COMMANDS,
    only: bool = False,
    is_told: bool = True,
) -> Hold:
    """Open a hold, or add to the open one, and let it name files, `only` these if so; return it.

    The history says so of a new hold, unless it `is_told` later.
    Nothing is deleted or sent of a file before the hold that names it ends. What a rule decided,
    or a person under another hold, gives way to the new question.
    """
    key: dict[str, Any] = {"stops": stops, "scope": scope, "reason": reason}
    if is_new := holds.open_id(db, **key) is None:
        holds.place(db, **key, message=message, commands=commands, now=now, is_told=False)
    hold = holds.existing(db, holds.open_id(db, **key))
    hold_id = hold.id
    named = [(hold_id, file_id) for file_id in file_ids]
    db.conn.executemany(
        "INSERT INTO decisions (hold_id, file_id, verdict, due_at) "
        "SELECT ?, id, 'held', due_at FROM files WHERE id = ? "
        "ON CONFLICT (file_id) DO UPDATE SET hold_id = excluded.hold_id, verdict = 'held', "
        "due_at = excluded.due_at WHERE verdict <> 'held'",
        named,
    )
    db.conn.executemany(
        "UPDATE files SET due_at = NULL, confirmed_at = NULL WHERE id IN (SELECT file_id "
        "FROM decisions JOIN holds ON holds.id = hold_id WHERE hold_id = ? AND file_id = ? "
        "AND (files.status = 'missing' OR (files.status = 'ready' AND stops = 'sending')))",
        named,
    )
    if only:
        db.conn.execute(
            "DELETE FROM decisions WHERE hold_id = ? AND verdict = 'held' "
            "AND file_id NOT IN (SELECT value FROM json_each(?))",
            (hold_id, json.dumps(list(file_ids))),
        )
    if only or len(named) > 1 or hold.affects < FIRST:
        recount(db, hold_id)
    else:
        # Files that come one by one are counted one by one.
        holds.note_files(db, hold, affects=hold.affects + len(named))
    if is_new and is_told:
        holds.tell(db, hold_id, now)
    return holds.existing(db, hold_id)


def recount(db: Database, hold_id: int) -> int:
    """Bring what is known of a hold's files up to date; return how many are undecided."""
    rows = (
        "FROM decisions JOIN files ON files.id = file_id "
        "WHERE hold_id = ? AND decisions.verdict = 'held'"
    )
    count, least, greatest = db.conn.execute(
        f"SELECT count(*), min(path), max(path) {rows}", (hold_id,)
    ).fetchone()
    first = db.conn.execute(f"SELECT path {rows} ORDER BY path LIMIT ?", (hold_id, FIRST))
    holds.note_files(
        db,
        holds.existing(db, hold_id),
        affects=count,
        first=[shown(row[0]) for row in first],
        parent=shown(_common_parent(least, greatest)) if count else None,
    )
    return int(count)


def stale(db: Database, folder: str) -> list[Hold]:
    """Return a folder's open holds of which not as many files are left as they say."""
    rows = db.conn.execute(
        "SELECT id FROM holds WHERE released_at IS NULL AND scope IN (?, ?) "
        f"AND reason IN ({', '.join('?' * len(holds.NAMING_FILES))}) "
        "AND affects <> (SELECT count(*) FROM decisions "
        "WHERE hold_id = holds.id AND verdict = 'held')",
        (folder, holds.sending_scope(folder), *holds.NAMING_FILES),
    )
    ids = {row[0] for row in rows}
    return [hold for hold in holds.open_holds(db) if hold.id in ids]


def refresh(db: Database, folder: str, now: float) -> None:
    """Bring a folder's holds up to date; one that names no file any more is released."""
    for hold in stale(db, folder):
        if not recount(db, hold.id):
            holds.release(db, stops=hold.stops, scope=hold.scope, reason=hold.reason, now=now)


def _common_parent(first: bytes, last: bytes) -> bytes:
    """Return the deepest directory that holds both; and all that is between them by order."""
    one, other = (path.split(b"/")[:-1] for path in (first, last))
    shared: Sequence[bytes] = []
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        shared = [*shared, left]
    return b"/".join(shared)


# Decisions of a person


def find(db: Database, hold_id: int) -> Hold:
    """Return a hold that can be reviewed, open or decided; ReviewError where there is none."""
    hold = holds.get(db, hold_id)
    if hold is None:
        raise ReviewError(f"there is no hold {hold_id}; `syncd deletes list` shows those there are")
    if hold.reason not in _REVIEWED:
        raise ReviewError(
            f"hold {hold_id} ({hold.reason}) cannot be approved or rejected: {hold.message}"
        )
    if hold.released_at is not None and hold.verdict is None:
        raise ReviewError(f"hold {hold_id} has ended by itself: its cause is gone")
    return hold


def decidable(db: Database, hold_id: int, verdict: Decided, *, up_to: int | None = None) -> Hold:
    """Return a hold on which `verdict` can be given now; ReviewError where there is none."""
    hold = find(db, hold_id)
    if hold.reason == MORE_MISSING:
        raise ReviewError(
            f"hold {hold_id} still collects what goes missing in {hold.scope}: decide on its other "
            "hold first, then this one is judged anew (syncd deletes list)"
        )
    if hold.verdict is not None and not _reached(db, hold, verdict, up_to):
        raise ReviewError(
            f"hold {hold_id} was {hold.verdict}, and there is nothing left of it to change"
        )
    return hold


def reviewable(known: Iterable[Hold]) -> list[Hold]:
    """Return those holds that name files, or that a person decides on."""
    return [hold for hold in known if hold.reason in _REVIEWED]


def is_about_root(hold: Hold) -> bool:
    """Say whether the verdict on a hold is on a folder's root, and not on the files it names."""
    return hold.reason == ROOT_REPLACED and hold.stops != "deletions"


def of_folder(db: Database, folder: str, verdict: Decided = "approved") -> list[Hold]:
    """Return a folder's holds that can be decided so; ReviewError where there is none.

    Open ones, and to be rejected also approved ones of which something is still to be deleted.
    Where none can be rejected, those that there are: each says why not.
    """
    known = holds.open_holds(db)
    if verdict == "rejected":
        approved = (hold for hold in holds.decided(db, 0.0) if hold.verdict == "approved")
        known += [hold for hold in approved if is_changeable(db, hold.id)]
    found = [
        hold
        for hold in reviewable(known)
        if folder_of(hold) == folder and hold.reason != MORE_MISSING
    ]
    if not found:
        raise ReviewError(f"no deletions of {folder} are held; `syncd status` shows how it is")
    if verdict == "rejected":
        return [hold for hold in found if not is_about_root(hold)] or found
    return found


def folder_of(hold: Hold) -> str:
    """Return the folder whose files a hold names."""
    if hold.stops == "sending":
        return hold.scope.removeprefix(holds.sending_scope(""))
    return hold.scope.partition("/")[0]


def last_named(db: Database, hold_id: int) -> int:
    """Return the number of the row that a hold named last: what it names later has a higher one."""
    row = db.conn.execute("SELECT max(id) FROM decisions WHERE hold_id = ?", (hold_id,))
    return int(row.fetchone()[0] or 0)


def decide(
    db: Database,
    hold_id: int,
    verdict: Decided,
    now: float,
    *,
    up_to: int | None = None,
    by: str = "",
    lacking: int | None = None,
) -> Decision:
    """Carry a verdict out, or change the one there was, in the caller's transaction.

    It reaches the files that the hold names, up to the row `up_to`; for what it named since there
    is a new hold. What is approved is deleted `UNDO_SECONDS` later, after a last look. The history
    of the folder says `by` whom. Of a hold that names no files, `lacking` says how many synced
    files the folder lacks that is approved, if that is known.
    """
    hold = decidable(db, hold_id, verdict, up_to=up_to)
    number = lacking
    if not is_about_root(hold):
        number = _carry_out(
            db, hold, verdict, now, last_named(db, hold_id) if up_to is None else up_to
        )
    elif verdict == "rejected":
        raise ReviewError(
            f"nothing beneath {folder_of(hold)} is taken for deleted while another folder is in "
            f"its place; bring the right one back, and hold {hold_id} ends by itself"
        )
    holds.decide(db, hold_id, verdict, now)
    what = f"hold {hold_id} ({hold.reason})"
    if number is not None:
        what += f", {counted(number, 'file')}"
    history.note(db, verdict, now, folder=folder_of(hold), detail=what, by=by)
    _split(db, hold, now)
    return Decision(hold, verdict, number or 0)


def _outcomes(reason: str) -> tuple[Verdict, Verdict | None]:
    """Return what becomes of a file that a hold names: approved, and rejected."""
    if reason == REMOTE_GONE:
        return Verdict.FORGOTTEN, None
    return Verdict.APPROVED, Verdict.FORGOTTEN if reason == MANY_CHANGED else Verdict.KEPT


def _outcome(hold: Hold, verdict: Decided) -> Verdict | None:
    approved, rejected = _outcomes(hold.reason)
    return approved if verdict == "approved" else rejected


def _decides_on_missing(hold: Hold) -> bool:
    """Say whether only what is missing is decided on; what is back is freed."""
    return Verdict.KEPT in _outcomes(hold.reason)


def _reached(
    db: Database, hold: Hold, verdict: Decided, up_to: int | None = None
) -> list[tuple[int, int]]:
    """Return the rows that a verdict changes, with their files."""
    if is_about_root(hold):
        return []
    condition = "AND files.status = 'missing'" if _decides_on_missing(hold) else ""
    return db.conn.execute(
        "SELECT decisions.id, file_id FROM decisions JOIN files ON files.id = file_id "
        f"WHERE hold_id = ? AND decisions.id <= ? AND decisions.verdict IS NOT ? {condition} "
        f"AND (decisions.verdict = 'held' OR {_CHANGEABLE})",
        (hold.id, last_named(db, hold.id) if up_to is None else up_to, _outcome(hold, verdict)),
    ).fetchall()


def _carry_out(db: Database, hold: Hold, verdict: Decided, now: float, up_to: int) -> int:
    outcome = _outcome(hold, verdict)
    deletes = outcome is Verdict.APPROVED and hold.reason != MANY_CHANGED
    if hold.reason == ROOT_REPLACED:
        # They were seen to be missing in what a person now says is the folder.
        db.conn.execute(
            "UPDATE files SET status = 'missing', missing_since = ? WHERE status IN ('ready', "
            "'settling', 'unreadable') AND id IN (SELECT file_id FROM decisions "
            "WHERE hold_id = ? AND id <= ? AND verdict = 'held')",
            (now, hold.id, up_to),
        )
    rows = _reached(db, hold, verdict, up_to)
    if outcome is None:
        change = "DELETE FROM decisions WHERE id = ?"
        db.conn.executemany(change, ((row[0],) for row in rows))
    else:
        change = "UPDATE decisions SET verdict = ? WHERE id = ?"
        db.conn.executemany(change, ((outcome, row[0]) for row in rows))
    db.conn.executemany(
        "UPDATE files SET due_at = ?, confirmed_at = NULL, removal_seen = status = 'missing' "
        "WHERE id = ? AND status IN ('missing', 'ready')",
        ((now + UNDO_SECONDS if deletes else now, row[1]) for row in rows),
    )
    if _decides_on_missing(hold):
        db.conn.execute(
            "DELETE FROM decisions WHERE hold_id = ? AND id <= ? AND verdict = 'held'",
            (hold.id, up_to),
        )
    return len(rows)


def _split(db: Database, hold: Hold, now: float) -> None:
    """Let a new hold name what the decided one named after somebody had looked at it."""
    late = db.conn.execute(
        "SELECT file_id FROM decisions WHERE hold_id = ? AND verdict = 'held'", (hold.id,)
    ).fetchall()
    if late:
        db.conn.execute("DELETE FROM decisions WHERE hold_id = ? AND verdict = 'held'", (hold.id,))
        key: dict[str, Any] = {"stops": hold.stops, "scope": hold.scope, "reason": hold.reason}
        name(db, [row[0] for row in late], **key, message=hold.message, now=now)


def is_changeable(db: Database, hold_id: int) -> bool:
    """Say whether the verdict on a hold can still become the other one for some file."""
    row = db.conn.execute(
        "SELECT 1 FROM decisions JOIN files ON files.id = file_id "
        f"WHERE hold_id = ? AND {_CHANGEABLE} LIMIT 1",
        (hold_id,),
    ).fetchone()
    return row is not None
