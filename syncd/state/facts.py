"""Facts about this instance and the service: one text each, by key."""

import json
import logging
from collections.abc import Callable
from typing import TypeVar

from syncd.state.database.connection import Database

log = logging.getLogger(__name__)

#: The last pass of `syncd once`, as JSON: ended_at, the seconds since the previous one (every), and
#: what it left undone, in words. A daemon that starts forgets it.
LAST_ONCE = "last_once"
#: The alerts that were told, and those still to be told, as JSON.
ALERTS = "alerts"

T = TypeVar("T")


def fact(db: Database, key: str) -> str | None:
    """Return a fact, or None."""
    value: str | None = db.value("SELECT value FROM service WHERE key = ?", (key,))
    return value


def facts(db: Database, *keys: str) -> dict[str, str]:
    """Return the facts that exist among `keys`."""
    query = "SELECT json_group_object(key, value) FROM service WHERE key IN "
    known: dict[str, str] = json.loads(db.value(f"{query} ({', '.join('?' * len(keys))})", keys))
    return known


def read_fact(db: Database, key: str, read: Callable[[str], T]) -> T | None:
    """Return what `read` makes of a fact; None when it is missing or cannot be read."""
    value = fact(db, key)
    try:
        return None if value is None else read(value)
    except (ValueError, TypeError, KeyError):
        log.warning("the fact %s in the state database cannot be read; it is ignored", key)
        return None


def set_fact(db: Database, key: str, value: str) -> None:
    """Keep a fact; one that is known already is no change, and waits for no disk."""
    db.conn.execute(
        "INSERT INTO service (key, value) VALUES (?, ?) ON CONFLICT (key) "
        "DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
        (key, value),
    )


def forget_fact(db: Database, key: str) -> None:
    """Remove a fact, if there is one."""
    db.conn.execute("DELETE FROM service WHERE key = ?", (key,))
