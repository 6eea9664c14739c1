"""Pauses: holds that a person places on a folder, or on everything, and that may end at a time.

Under a pause nothing is sent, deleted or taken away; watching, confirming and polling go on.
"""

from collections.abc import Collection

from syncd.state.database.connection import Database
from syncd.state.holds import EVERYWHERE, PAUSED, Hold, open_holds, place, release
from syncd.state.texts import argument
from syncd.units import clock

#: Seconds by which the rest of a pause may exceed its length before the clock counts as set back.
SET_BACK_SECONDS = 1.0


def pause(db: Database, scope: str, until: float | None, now: float) -> None:
    """Pause a folder, or `EVERYWHERE`, until a time or until `resume`; replace an earlier end."""
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
    )
    db.conn.execute(
        "UPDATE holds SET since = ?, until = ? WHERE stops = 'folder' AND scope = ? "
        "AND reason = ? AND released_at IS NULL",
        (now, until, scope, PAUSED),
    )


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


def covers(paused: Collection[str], folder: str) -> bool:
    """Say whether the scopes that are paused include a folder."""
    return folder in paused or EVERYWHERE in paused


def is_paused(db: Database, folder: str) -> bool:
    """Say whether a folder is paused, alone or with everything."""
    return covers(scopes(db), folder)


def next_end(db: Database) -> float | None:
    """Return when the next pause ends by itself, in seconds since the epoch."""
    return min((hold.until for hold in open_pauses(db) if hold.until), default=None)


def is_change_due(db: Database, now: float) -> bool:
    """Say whether `end_due` has anything to do."""
    return any(hold.is_over(now) or _is_too_long(hold, now) for hold in open_pauses(db))


def end_due(db: Database, now: float) -> list[str]:
    """End the pauses whose time has come; return their scopes.

    A pause never has more time left than its whole length. Otherwise a clock that was wrong when
    the pause began, or is set back later, could make it last for years.
    """
    ended = []
    for hold in open_pauses(db):
        if hold.is_over(now):
            ended += resume(db, hold.scope, now)
        elif hold.until is not None and _is_too_long(hold, now):
            pause(db, hold.scope, now + (hold.until - hold.since), now)
    return ended


def _is_too_long(hold: Hold, now: float) -> bool:
    return hold.until is not None and now < hold.since - SET_BACK_SECONDS
