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


def current(db: Database, now: float) -> Limit | None:
    """Return the limit that a person has set, unless its time is over."""
    limit = read_fact(db, LIMIT, lambda text: Limit(*json.loads(text)))
    return None if limit is None or limit.is_over(now) else limit


def mind_the_clock(db: Database, now: float) -> None:
    """Let a limit have its length at most once more where the clock was set back before it."""
    limit = current(db, now)
    if limit is not None and limit.until is not None and now < limit.since:
        set_limit(db, Limit(limit.rate, now, now + limit.until - limit.since))
