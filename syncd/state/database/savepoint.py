"""Savepoints undo one row's writes and keep the rest of a transaction."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from syncd.state.database.connection import Database


@contextmanager
def savepoint(db: Database) -> Iterator[None]:
    """Undo what is written within when it raises; the transaction around it goes on."""
    db.conn.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        # A failing disk may have rolled back the whole transaction already.
        if db.conn.in_transaction:
            db.conn.execute("ROLLBACK TO part")
            db.conn.execute("RELEASE part")
        raise
    db.conn.execute("RELEASE part")


def is_of_the_disk(error: BaseException) -> bool:
    """Return whether `error` concerns the whole database rather than the values of one row."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError
    )
