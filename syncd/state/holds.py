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
) -> bool:
    """Open a hold, or bring the open one up to date; return whether it is new."""
    facts = (message, affects, json.dumps(list(first[:FIRST])), json.dumps(list(commands)))
    known = db.conn.execute(
        "UPDATE holds SET message = ?, affects = ?, first = ?, commands = ? "
        "WHERE stops = ? AND scope = ? AND reason = ? AND released_at IS NULL",
        (*facts, stops, scope, reason),
    ).rowcount
    if known:
        return False
    db.conn.execute(
        "INSERT INTO holds (message, affects, first, commands, stops, scope, reason, since) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
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


def open_holds(db: Database) -> list[Hold]:
    """Return what is held now, oldest first."""
    rows = db.conn.execute("SELECT * FROM holds WHERE released_at IS NULL ORDER BY id")
    return [
        Hold(
            id=row["id"],
            stops=row["stops"],
            scope=row["scope"],
            reason=row["reason"],
            message=row["message"],
            affects=row["affects"],
            first=json.loads(row["first"]),
            commands=json.loads(row["commands"]),
            since=row["since"],
        )
        for row in rows
    ]
