"""Pauses: holds that a person places on a folder, or on everything, and that may end by themselves.

Under a pause nothing is sent, deleted or taken away; watching, confirming and polling go on. One
that was placed for a span of time has its end moved whenever the clock is set; one that was placed
until a time ends when the clock shows it.
"""

from collections.abc import Mapping

from syncd.state import history
from syncd.state.database.connection import Database
from syncd.state.holds import EVERYWHERE, PAUSED, Hold, open_holds, place, release
from syncd.state.holds.standstill import covers
from syncd.state.texts import argument
from syncd.units import clock


def pause(
    db: Database,
    scope: str,
    until: float | None,
    now: float,
    *,
    is_span: bool = False,
    root: bytes | None = None,
) -> None:
    """Pause a folder, or `EVERYWHERE`, until a time or until `resume`; replace an earlier end.

    With `is_span`, the time from `now` to `until` is to pass, whatever the clock will show. The
    folder is the one at `root`.
    """
    end = "`syncd resume`" if until is None else clock(until)
    which = "" if scope == EVERYWHERE else f" {argument(scope.encode())}"
    place(
        db,
        stops="folder",
        scope=scope,
        reason=PAUSED,
        message=f"nothing is sent or deleted until {end}",
        commands=(f"syncd resume{which}",),
        now=now,
        is_told=False,
    )
    db.conn.execute(
        "UPDATE holds SET since = ?, until = ?, is_span = ?, root = ? "
        "WHERE stops = 'folder' AND scope = ? AND reason = ? AND released_at IS NULL",
        (now, until, is_span, root, scope, PAUSED),
    )


def move_spans(db: Database, jump: float) -> None:
    """Let each pause that counts a span of time last as long as before the clock jumped."""
    for hold in open_pauses(db):
        if hold.is_span and hold.until is not None:
            _place(db, hold.scope, hold._replace(until=hold.until + jump, since=hold.since + jump))


def astray(db: Database, roots: Mapping[str, bytes]) -> list[Hold]:
    """Return the pauses whose folder has another name or root among `roots`, by name, than then.

    A folder is known by its root, or, where no folder has that any more, by its name.
    """
    names = {root: name for name, root in roots.items()}
    return [
        hold
        for hold in open_pauses(db)
        if hold.root is not None
        and (hold.root in names or hold.scope in roots)
        and (roots.get(hold.scope), names.get(hold.root)) != (hold.root, hold.scope)
    ]


def follow(db: Database, roots: Mapping[str, bytes], now: float) -> list[str]:
    """Let each pause go with its folder; return the names of those it has now."""
    names = {root: name for name, root in roots.items()}
    moved = astray(db, roots)
    for hold in moved:
        release(db, stops="folder", scope=hold.scope, reason=PAUSED, now=now)
    went = {hold.id: names.get(hold.root or b"", hold.scope) for hold in moved}
    for hold in moved:
        _place(db, went[hold.id], hold._replace(root=roots[went[hold.id]]))
    return list(went.values())


def _place(db: Database, scope: str, like: Hold) -> None:
    pause(db, scope, like.until, like.since, is_span=like.is_span, root=like.root)


def resume(db: Database, scope: str | None, now: float) -> list[str]:
    """End the pause of a scope, or every pause; return the scopes of those that were open."""
    ended = [hold.scope for hold in open_pauses(db) if scope in (None, hold.scope)]
    for one in ended:
        release(db, stops="folder", scope=one, reason=PAUSED, now=now)
    return ended


def open_pauses(db: Database) -> list[Hold]:
    """Return the pauses that are in force, oldest first."""
    return [hold for hold in open_holds(db) if hold.reason == PAUSED]


def scopes(db: Database) -> frozenset[str]:
    """Return the folders that are paused, and `EVERYWHERE` if everything is."""
    rows = db.conn.execute(
        "SELECT scope FROM holds WHERE stops = 'folder' AND reason = ? AND released_at IS NULL",
        (PAUSED,),
    )
    return frozenset(row[0] for row in rows)


def is_paused(db: Database, folder: str) -> bool:
    """Say whether a folder is paused, alone or with everything."""
    return covers(scopes(db), folder)


def next_end(db: Database) -> float | None:
    """Return when the next pause ends by itself, in seconds since the epoch."""
    return min((hold.until for hold in open_pauses(db) if hold.until), default=None)


def is_end_due(db: Database, now: float) -> bool:
    """Say whether the time of any pause has come."""
    return any(hold.is_over(now) for hold in open_pauses(db))


def end_due(db: Database, now: float) -> list[str]:
    """End the pauses whose time has come; return their scopes."""
    over = [hold.scope for hold in open_pauses(db) if hold.is_over(now)]
    for scope in over:
        resume(db, scope, now)
        tell(db, history.RESUMED, scope, now, "the time of the pause is over")
    return over


def tell(db: Database, event: str, scope: str, now: float, detail: str, by: str = "") -> None:
    """Write into the history that a folder, or everything, was paused or goes on."""
    folder, all_of_it = ("", "everything: ") if scope == EVERYWHERE else (scope, "")
    history.note(db, event, now, folder=folder, detail=f"{all_of_it}{detail}", by=by)
