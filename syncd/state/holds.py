"""What is stopped on purpose, why, and what a person can do about it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlite_utils import Database

Stops = Literal["deletions", "sending"]
EVERYWHERE = "*"
#: The reason of the hold on everything while the ledger has forgotten something.
STATE_LOST = "state_lost"
#: The reason of the hold on an upload that may neither be found nor sent again.
NO_ECHO = "no_echo"
#: The reasons of the holds on a folder whose root is not there, another one, or empty.
ROOT_MISSING, ROOT_REPLACED, ROOT_EMPTY = "root_missing", "root_replaced", "root_empty"
#: The reasons of the holds on a folder in which a mount is gone, or hides what was there before.
MOUNT_MISSING, MOUNT_NEW = "mount_missing", "mount_new"
#: The reason of the hold on the deletions of a folder that lost many files at once.
MANY_MISSING = "many_missing"
#: The reason of the hold on a workspace whose uploads are refused alike, file after file.
REFUSED = "refused"
#: The reason of the hold on files whose copies were deleted remotely by others.
REMOTE_GONE = "remote_gone"
#: How many of the affected paths a hold names.
FIRST = 10


#: The scope of the workspace that a key has where none is named.
_DEFAULT_WORKSPACE = "default"


def workspace(uuid: str | None) -> str:
    """Return the scope of a workspace."""
    return uuid or _DEFAULT_WORKSPACE


def workspace_of(scope: str) -> str | None:
    """Return the workspace that a scope stands for."""
    return None if scope == _DEFAULT_WORKSPACE else scope


@dataclass(frozen=True, slots=True)
class Hold:
    """One thing stopped, for one scope: a folder's name, a workspace, or `EVERYWHERE`."""

    id: int
    stops: Stops
    scope: str
    reason: str
    message: str
    affects: int
    first: list[str]
    commands: list[str]
    since: float
    #: the directory that holds all it affects; None where nobody looked
    parent: str | None = None
    #: approved or rejected, where a person decided
    verdict: str | None = None
    released_at: float | None = None


def place(
    db: Database,
    *,
    stops: Stops,
    scope: str,
    reason: str,
    message: str,
    now: float,
    affects: int = 0,
    first: Sequence[str] = (),
    commands: Sequence[str] = (),
    parent: str | None = None,
) -> bool:
    """Open a hold, or bring the open one up to date; return whether it is new.

    `{id}` in a command stands for the hold's id.
    """
    facts = (message, affects, json.dumps(list(first[:FIRST])), json.dumps(list(commands)), parent)
    known = db.conn.execute(
        "UPDATE holds SET message = ?, affects = ?, first = ?, commands = ?, parent = ? "
        "WHERE stops = ? AND scope = ? AND reason = ? AND released_at IS NULL",
        (*facts, stops, scope, reason),
    ).rowcount
    if known:
        return False
    db.conn.execute(
        "INSERT INTO holds (message, affects, first, commands, parent, "
        "stops, scope, reason, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*facts, stops, scope, reason, now),
    )
    return True


def release(db: Database, *, stops: Stops, scope: str, reason: str, now: float) -> bool:
    """Close a hold whose cause is gone; return whether one was open."""
    return (
        db.conn.execute(
            "UPDATE holds SET released_at = ? "
            "WHERE stops = ? AND scope = ? AND reason = ? AND released_at IS NULL",
            (now, stops, scope, reason),
        ).rowcount
        > 0
    )


def is_held(db: Database, stops: Stops, scope: str) -> bool:
    """Say whether something is stopped for `scope`, or everywhere."""
    row = db.conn.execute(
        "SELECT 1 FROM holds WHERE stops = ? AND scope IN (?, ?) AND released_at IS NULL LIMIT 1",
        (stops, scope, EVERYWHERE),
    ).fetchone()
    return row is not None


def is_lost(db: Database) -> bool:
    """Say whether the ledger has forgotten something: then no request may change anything."""
    return (
        db.conn.execute(
            "SELECT 1 FROM holds WHERE stops = 'sending' AND scope = ? AND reason = ? "
            "AND released_at IS NULL",
            (EVERYWHERE, STATE_LOST),
        ).fetchone()
        is not None
    )


def reasons(db: Database, stops: Stops, scope: str) -> set[str]:
    """Return why something is stopped for `scope`, or everywhere; empty where it is not."""
    rows = db.conn.execute(
        "SELECT reason FROM holds WHERE stops = ? AND scope IN (?, ?) AND released_at IS NULL",
        (stops, scope, EVERYWHERE),
    )
    return {row[0] for row in rows}


def of_folder(folder: str) -> str:
    """Return the scope of a folder's files where sending is held; deletions have its name."""
    return f"folder {folder}"


def open_holds(db: Database) -> list[Hold]:
    """Return what is held now, oldest first."""
    return _where(db, "released_at IS NULL ORDER BY id")


def decided(db: Database, since: float) -> list[Hold]:
    """Return the holds on which a person decided after `since`, oldest first."""
    return _where(db, "verdict IS NOT NULL AND released_at >= ? ORDER BY id", (since,))


def get(db: Database, hold_id: int) -> Hold | None:
    """Return the hold with that id, open or not, or None."""
    return next(iter(_where(db, "id = ?", (hold_id,))), None)


def decide(db: Database, hold_id: int, verdict: str, now: float) -> None:
    """Close a hold by a person's verdict, or change the verdict on one that was closed so."""
    db.conn.execute(
        "UPDATE holds SET verdict = ?, released_at = ? WHERE id = ?", (verdict, now, hold_id)
    )


def _where(db: Database, condition: str, parameters: Sequence[object] = ()) -> list[Hold]:
    rows = db.conn.execute(f"SELECT * FROM holds WHERE {condition}", parameters)
    return [
        Hold(
            id=row["id"],
            stops=row["stops"],
            scope=row["scope"],
            reason=row["reason"],
            message=row["message"],
            affects=row["affects"],
            first=json.loads(row["first"]),
            commands=[
                command.replace("{id}", str(row["id"])) for command in json.loads(row["commands"])
            ],
            since=row["since"],
            parent=row["parent"],
            verdict=row["verdict"],
            released_at=row["released_at"],
        )
        for row in rows
    ]
