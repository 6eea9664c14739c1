"""The ledger's part in noticing that the state is an older copy of itself."""

from syncd.state import echo, history, holds, tokens
from syncd.state.database.connection import Database
from syncd.state.facts import fact, forget_fact, set_fact

_UNCHECKED = "rollback_unchecked"


def is_needed(db: Database) -> bool:
    """Return whether the service could show that this ledger is an older copy.

    It cannot when the ledger never sent anything or is known to have lost something, or when the
    service echoes nothing.
    """
    known = echo.echoes(db).values()
    return has_sent(db) and not holds.is_ledger_incomplete(db) and (not known or any(known))


def has_sent(db: Database) -> bool:
    """Return whether this ledger ever sent, or adopted, anything."""
    if tokens.last_attempt(db):
        return True
    sent = "SELECT 1 FROM copies WHERE sent_at IS NOT NULL OR file_uuid IS NOT NULL LIMIT 1"
    return db.value(sent) is not None


def last_commit(db: Database) -> float:
    """Return when the ledger was last written to, as far as it shows, in seconds."""
    stops = ", ".join(f"'{event}'" for event in history.STOPS)
    last = f"SELECT at FROM history WHERE event NOT IN ({stops}) ORDER BY id DESC LIMIT 1"
    last_at = db.value(last) or 0.0
    return max(last_at, tokens.last_attempt(db) / 1000)


def note_unchecked(db: Database, why: str) -> None:
    """Keep why the last start could not be checked; an empty text when it could."""
    if why:
        set_fact(db, _UNCHECKED, why)
    else:
        forget_fact(db, _UNCHECKED)


def unchecked(db: Database) -> str:
    """Return why the last start could not be checked; empty when it could."""
    return fact(db, _UNCHECKED) or ""
