"""The bandwidth limit that a person has set, and may have set for a time."""

import json
from typing import NamedTuple

from syncd.state.database.connection import Database
from syncd.state.facts import forget_fact, read_fact, set_fact

#: The fact that keeps the limit across a restart.
LIMIT = "limit"


class Limit(NamedTuple):
    """A limit: bytes a second, None for none; since when, and until when if it ends at a time."""

    rate: int | None
    since: float
    until: float | None

    def is_over(self, now: float) -> bool:
        """Say whether its time has passed."""
        return self.until is not None and self.until <= now


def set_limit(db: Database, limit: Limit) -> None:
    """Set the limit, in place of an earlier one."""
    set_fact(db, LIMIT, json.dumps(limit))


def forget(db: Database) -> None:
    """Let the configuration say again what the limit is."""
    forget_fact(db, LIMIT)


def kept(db: Database) -> Limit | None:
    """Return the limit that a person has set, also one whose time has come."""
    return read_fact(db, LIMIT, lambda text: Limit(*json.loads(text)))


def current(db: Database, now: float) -> Limit | None:
    """Return the limit that a person has set, unless its time is over."""
    limit = kept(db)
    return None if limit is None or limit.is_over(now) else limit


def end_due(db: Database, now: float) -> None:
    """Forget a limit whose time has come."""
    limit = kept(db)
    if limit is not None and limit.is_over(now):
        forget(db)


def move_span(db: Database, jump: float) -> None:
    """Let a limit that was set for a time last as long as before the clock jumped."""
    limit = kept(db)
    if limit is not None and limit.until is not None:
        set_limit(db, Limit(limit.rate, limit.since + jump, limit.until + jump))
