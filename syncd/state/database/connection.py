"""An open database, as every query is handed it: inside a transaction, or on a view of one."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """A connection to the state database."""

    conn: sqlite3.Connection

    def value(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """Return the first value of the first row; None if there is no row."""
        row = self.conn.execute(query, parameters).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        """Close the connection."""
        self.conn.close()
