"""Holds: work that is stopped on purpose, why, and how a person can release it."""

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from syncd.exceptions import StateError
from syncd.state import history
from syncd.state.database.connection import Database
from syncd.units import counted

Stops = Literal["deletions", "sending", "folder"]
EVERYWHERE = "*"
#: The reason of the hold on everything while the ledger has forgotten something.
STATE_LOST = "state_lost"
#: The reason of the hold on everything while a person has to say whether a new ledger takes up what
#: another instance of ours sent from the same folders.
OTHER_INSTANCE = "other_instance"
#: The reason of the hold on an upload that may neither be found nor sent again.
NO_ECHO = "no_echo"
#: The reasons of the holds on a folder, or on what is mounted in it, that is not there, or that
#: another one has replaced.
ROOT_MISSING, ROOT_REPLACED = "root_missing", "root_replaced"
#: The reasons of the holds on files that went missing, too many to be deleted unasked: the one that
#: is shown, and the one that collects what goes missing until the first is decided.
MANY_MISSING, MORE_MISSING = "many_missing", "more_missing"
#: The reason of the hold on everything while the key is refused.
KEY_REFUSED = "key_refused"
#: The reason of the hold on everything while nothing shows which organization a new key opens.
UNPROVEN = "organization_unproven"
#: The reason of the hold on everything while a quota is used up.
QUOTA = "quota"
#: The reason of the hold on a workspace that the key may not use.
FORBIDDEN = "workspace_forbidden"
#: The reason of the hold on a workspace whose uploads are refused alike, file after file.
REFUSED = "refused"
#: The reason of the hold on deletions until a listing shows that this state is no older copy.
UNCHECKED = "state_unchecked"
#: The reason of the hold on files whose copies were deleted remotely by others.
REMOTE_GONE = "remote_gone"
#: The reason of the hold on new content where most of a folder changed at once.
MANY_CHANGED = "many_changed"
#: The reason of the hold on a folder, or on everything, that a person has paused.
PAUSED = "paused"
#: The reasons of holds that stop the files they name, and no others.
NAMING_FILES = (MANY_MISSING, MORE_MISSING, REMOTE_GONE, MANY_CHANGED)
_NAMING_FILES = ", ".join(f"'{reason}'" for reason in NAMING_FILES)
#: The reasons of holds that speak of one service, and of no other.
OF_SERVICE = (KEY_REFUSED, UNPROVEN, QUOTA, FORBIDDEN, REFUSED, UNCHECKED, OTHER_INSTANCE)
#: SQL for the holds that stop a folder's deletions whole.
STOPS_DELETIONS = (
    f"stops IN ('deletions', 'folder') AND released_at IS NULL AND reason NOT IN ({_NAMING_FILES})"
)
#: How many of the affected paths a hold names.
FIRST = 10
#: The last advice of a hold on a folder in whose place another one is. It is no command, for that
#: deletes what the other one lacks.
REPLACE = "only if this one is meant to replace the old one: syncd deletes approve {id}"


#: The scope of the workspace that a key has where none is named.
_DEFAULT_WORKSPACE = "default"


def workspace_scope(uuid: str | None) -> str:
    """Return the scope of a workspace."""
    return uuid or _DEFAULT_WORKSPACE


def workspace_of(scope: str) -> str | None:
    """Return the workspace that a scope stands for."""
    return None if scope == _DEFAULT_WORKSPACE else scope


class Hold(NamedTuple):
    """One thing stopped, for one scope: a folder's name, a workspace, or `EVERYWHERE`.

    What is mounted in a folder has the scope `NAME/PATH`; `stops` is "folder" where all is stopped.
    """

    id: int
    stops: Stops
    scope: str
    reason: str
    message: str
    affects: int
    first: list[str]
    #: what settles it; the first may be a sentence that says what to do, and no command
    commands: list[str]
    since: float
    #: the directory that holds all it affects; None where nobody looked
    parent: str | None = None
    #: approved or rejected, where a person decided
    verdict: str | None = None
    released_at: float | None = None
    #: when it ends by itself, if it ends at a time
    until: float | None = None
    #: whether `until` stands for a span of time, and moves when the clock is set
    is_span: bool = False
    #: the path of the folder that a person has paused, if it was known
    root: bytes | None = None

    def is_over(self, now: float) -> bool:
        """Say whether the time has come at which it ends by itself."""
        return self.until is not None and self.until <= now


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
    is_told: bool = True,
) -> bool:
    """Open a hold, or bring the open one up to date; return whether it is new.

    The history says so of a new one, unless it `is_told` later.
    `{id}` in a `syncd deletes` command, or in `REPLACE`, stands for the hold's id, and `{files}` at
    the beginning of the message for the number of files.
    """
    columns = (message, affects, json.dumps(list(first[:FIRST])), json.dumps(list(commands)))
    updated = db.conn.execute(
        "UPDATE holds SET message = ?, affects = ?, first = ?, commands = ? "
        "WHERE stops = ? AND scope = ? AND reason = ? AND released_at IS NULL",
        (*columns, stops, scope, reason),
    ).rowcount
    if not updated:
        db.conn.execute(
            "INSERT INTO holds (message, affects, first, commands, stops, scope, reason, since) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*columns, stops, scope, reason, now),
        )
        if is_told:
            tell(db, open_id(db, stops=stops, scope=scope, reason=reason), now)
    return not updated


def tell(db: Database, hold_id: int | None, now: float) -> None:
    """Write into the history that a hold has opened, and how many files it affects."""
    hold = existing(db, hold_id)
    number = f", {counted(hold.affects, 'file')}" if hold.affects else ""
    detail = f"hold {hold.id} ({hold.reason}){number}: {hold.message}"
    history.note(db, history.HELD, now, folder=_folder_of(hold), detail=detail)


def _folder_of(hold: Hold) -> str:
    """Return the folder that a hold is about; empty for none."""
    if hold.stops != "sending":
        return "" if hold.scope == EVERYWHERE else hold.scope.partition("/")[0]
    name = hold.scope.removeprefix(sending_scope(""))
    return "" if name == hold.scope else name


def release(db: Database, *, stops: Stops, scope: str, reason: str, now: float) -> bool:
    """Close a hold whose cause is gone and free the files it names; return whether one was open."""
    hold_id = open_id(db, stops=stops, scope=scope, reason=reason)
    if hold_id is None:
        return False
    db.conn.execute("UPDATE holds SET released_at = ? WHERE id = ?", (now, hold_id))
    free(db, hold_id, now)
    return True


def free(db: Database, hold_id: int, now: float) -> None:
    """Let a hold name no undecided file any more: each is due as if it had not been held."""
    db.conn.execute(
        "UPDATE files SET due_at = max(:now, coalesce("
        "(SELECT due_at FROM decisions WHERE file_id = files.id), :now)) "
        "WHERE id IN (SELECT file_id FROM decisions JOIN holds "
        "ON holds.id = hold_id WHERE hold_id = :hold AND decisions.verdict = 'held' "
        "AND (files.status = 'missing' OR (files.status = 'ready' AND stops = 'sending')))",
        {"now": now, "hold": hold_id},
    )
    db.conn.execute("DELETE FROM decisions WHERE hold_id = ? AND verdict = 'held'", (hold_id,))


def open_id(db: Database, *, stops: Stops, scope: str, reason: str) -> int | None:
    """Return the id of an open hold; None where there is none."""
    row = db.conn.execute(
        "SELECT id FROM holds WHERE stops = ? AND scope = ? AND reason = ? AND released_at IS NULL",
        (stops, scope, reason),
    ).fetchone()
    return None if row is None else int(row[0])


def is_held(db: Database, stops: Stops, scope: str) -> bool:
    """Say whether something is stopped for `scope`, or everywhere."""
    row = db.conn.execute(
        "SELECT 1 FROM holds WHERE stops IN (?, 'folder') AND scope IN (?, ?) "
        "AND released_at IS NULL LIMIT 1",
        (stops, scope, EVERYWHERE),
    ).fetchone()
    return row is not None


def is_ledger_incomplete(db: Database) -> bool:
    """Say whether the ledger does not know all that is ours: then no request changes anything."""
    return (
        db.conn.execute(
            "SELECT 1 FROM holds WHERE stops = 'sending' AND scope = ? AND reason IN (?, ?) "
            "AND released_at IS NULL",
            (EVERYWHERE, STATE_LOST, OTHER_INSTANCE),
        ).fetchone()
        is not None
    )


def stops_deletions(db: Database, folder: str) -> bool:
    """Say whether all deletions of missing files of a folder are stopped, or everywhere."""
    row = db.conn.execute(
        f"SELECT 1 FROM holds WHERE {STOPS_DELETIONS} AND scope IN (?, ?) LIMIT 1",
        (folder, EVERYWHERE),
    ).fetchone()
    return row is not None


def sending_scope(folder: str) -> str:
    """Return the scope of a hold on sending that concerns one folder.

    A hold that stops its deletions, or all of it, has the folder's name as its scope.
    """
    return f"folder {folder}"


def paused(folder: str) -> str:
    """Return SQL that says whether a person has paused a folder, or everything.

    `folder` is SQL for the folder's name.
    """
    return (
        f"EXISTS (SELECT 1 FROM holds WHERE stops = 'folder' AND scope IN ('{EVERYWHERE}', "
        f"{folder}) AND reason = '{PAUSED}' AND released_at IS NULL)"
    )


def open_holds(db: Database) -> list[Hold]:
    """Return what is held now, oldest first."""
    return _where(db, "released_at IS NULL ORDER BY id")


def decided(db: Database, since: float) -> list[Hold]:
    """Return the holds on which a person decided after `since`, oldest first."""
    return _where(db, "verdict IS NOT NULL AND released_at >= ? ORDER BY id", (since,))


def get(db: Database, hold_id: int | None) -> Hold | None:
    """Return the hold with that id, open or not, or None."""
    return next(iter(_where(db, "id = ?", (hold_id,))), None)


def existing(db: Database, hold_id: int | None) -> Hold:
    """Return the hold with that id; StateError where its row has vanished."""
    if (hold := get(db, hold_id)) is None:
        raise StateError("a hold's row has vanished from the table")
    return hold


def decide(db: Database, hold_id: int, verdict: str, now: float) -> None:
    """Close a hold by a person's verdict, or change the verdict on one that was closed so."""
    db.conn.execute(
        "UPDATE holds SET verdict = ?, released_at = ? WHERE id = ?", (verdict, now, hold_id)
    )


def note_files(
    db: Database,
    hold: Hold,
    *,
    affects: int,
    first: Sequence[str] | None = None,
    parent: str | None = None,
) -> None:
    """Note how many files a hold names; and the first of them, and what holds them all."""
    if first is None:
        first, parent = hold.first, hold.parent
    db.conn.execute(
        "UPDATE holds SET affects = ?, first = ?, parent = ? WHERE id = ?",
        (affects, json.dumps(list(first)), parent, hold.id),
    )


def describe(db: Database, hold_id: int, message: str, commands: Sequence[str]) -> None:
    """Say anew what a hold is about, and what can be done."""
    db.conn.execute(
        "UPDATE holds SET message = ?, commands = ? WHERE id = ?",
        (message, json.dumps(list(commands)), hold_id),
    )


def rename(db: Database, hold_id: int, reason: str) -> None:
    """Give an open hold another reason."""
    db.conn.execute("UPDATE holds SET reason = ? WHERE id = ?", (reason, hold_id))


def _where(db: Database, condition: str, parameters: Sequence[object] = ()) -> list[Hold]:
    rows = db.conn.execute(f"SELECT * FROM holds WHERE {condition}", parameters)
    return [
        Hold(
            id=row["id"],
            stops=row["stops"],
            scope=row["scope"],
            reason=row["reason"],
            message=_numbered(row["message"], row["affects"]),
            affects=row["affects"],
            first=json.loads(row["first"]),
            commands=[
                # Other commands hold paths, which may have braces.
                command.replace("{id}", str(row["id"]))
                if command.startswith("syncd deletes ") or command == REPLACE
                else command
                for command in json.loads(row["commands"])
            ],
            since=row["since"],
            parent=row["parent"],
            verdict=row["verdict"],
            released_at=row["released_at"],
            until=row["until"],
            is_span=bool(row["is_span"]),
            root=row["root"],
        )
        for row in rows
    ]


def _numbered(message: str, affects: int) -> str:
    # Only at the beginning: elsewhere a path may have such braces.
    text = message.removeprefix("{files}")
    return message if text == message else counted(affects, "file") + text
