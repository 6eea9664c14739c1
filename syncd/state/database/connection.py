"""An open database, as every query is handed it: inside a transaction, or on a view of one."""

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """A connection to the state database."""

    conn: sqlite3.Connection

    def close(self) -> None:
        """Close the connection."""
        self.conn.close()
