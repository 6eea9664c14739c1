"""Read-only connections to the database, a few for all threads."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from syncd.exceptions import StateError
from syncd.state.database.connection import Database
from syncd.state.database.schema import open_readonly

T = TypeVar("T")
#: Connections for reading; a query usually takes less than a millisecond.
READERS = 4


class Readers:
    """A pool of read-only connections.

    They are opened before anything else may take the last open file, so that a thread that reads
    waits for a free connection and never for the system.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        #: None, for good, once they are closed
        self._free: queue.SimpleQueue[Database | None] = queue.SimpleQueue()
        self._open = 0

    def open(self) -> None:
        """Open every connection; raise StateError when that fails."""
        for _ in range(READERS):
            db = open_readonly(self._path)
            # The first statement opens the WAL, too.
            db.conn.execute("SELECT 1 FROM service LIMIT 1").fetchone()
            self._open += 1
            self._free.put(db)

    def read(self, query: Callable[[Database], T]) -> T:
        """Run `query` on a free connection, on one consistent view; return its result."""
        within: Database | None = getattr(self._local, "db", None)
        if within is not None:
            # A query within a query shares its view.
            return query(within)
        db = self._free.get()
        if db is None:
            self._free.put(None)
            raise StateError("the state database is closed")
        try:
            self._local.db = db
            db.conn.execute("BEGIN")
            try:
                return query(db)
            finally:
                db.conn.execute("COMMIT")
        finally:
            self._local.db = None
            self._free.put(db)

    def close(self) -> None:
        """Wait for every read under way and close every connection; safe to call twice."""
        while self._open:
            db = self._free.get()
            if db is not None:
                db.close()
                self._open -= 1
        self._free.put(None)
