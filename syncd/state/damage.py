"""Damage to the database: a page that SQLite cannot read, or a value that is none any more.

A flipped byte within a value leaves the database whole for SQLite. Of the small tables, and of the
copies under way, all is read at each start; the rest where it is met, and once a day.
"""

import sqlite3
from collections import deque

from sqlite_utils import Database

#: The tables with a row for each file or more: to read them whole takes seconds for a million.
_LARGE = frozenset({"files", "copies", "history"})
#: What of the copies is asked or decided on at any time: few, as a rule.
_UNDER_WAY = "status NOT IN ('live', 'gone')"
#: The columns that hold JSON.
_JSON = frozenset({"first", "commands", "evidence", "video_metadata"})
#: The first and the last second that is a date; the service's own times stand in the table, too.
_SECONDS = "-62135596800 AND 253402300800"
#: SQL for what is wrong with a few values besides, by table.
_WRONG = {
    "parts": "inode GLOB '*[^0-9-]*' OR alike_inode GLOB '*[^0-9-]*'",
    "service": "key = 'instance' AND (length(value) <> 8 OR value GLOB '*[^0-9a-f]*')",
}


def is_damage(error: BaseException) -> bool:
    """Say whether an error of SQLite's tells of damage, as against a lock or a full disk."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    # Python's own, without a code: of SQLite's message about a damaged schema, and of a value.
    if isinstance(error, UnicodeDecodeError):
        return True
    return isinstance(error, sqlite3.OperationalError) and "decode to UTF-8" in str(error)


def found(db: Database, *, thorough: bool = False) -> str:
    """Return the first thing that is wrong with the database; empty where it is whole.

    All pages, their order, types and constraints; if `thorough`, every value and every index, too,
    which may take a minute for a million files. What SQLite cannot go on with is raised: see
    `is_damage`.
    """
    check = "integrity_check" if thorough else "quick_check"
    verdict: str = db.conn.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if verdict != "ok":
        return verdict
    tables = [
        row[0] for row in db.conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    for table in tables:
        if thorough or table not in _LARGE:
            wrong = _wrong(db, table, "1")
        else:
            wrong = _wrong(db, table, _UNDER_WAY) if table == "copies" else ""
        if wrong:
            return wrong
    return ""


def _wrong(db: Database, table: str, rows: str) -> str:
    """Return what is wrong with the values of some rows; sqlite3.Error where one is no text."""
    columns = db.conn.execute(f"PRAGMA table_info({table})").fetchall()
    texts = [column["name"] for column in columns if column["type"] == "TEXT"]
    if texts:
        cursor = db.conn.cursor()
        cursor.row_factory = None
        deque(cursor.execute(f"SELECT {', '.join(texts)} FROM {table} WHERE {rows}"), maxlen=0)
    wrong = [_WRONG.get(table, "0")]
    for _, name, kind, *_ in columns:
        if name == "file_uuid":
            wrong.append("length(file_uuid) <> 36 OR file_uuid GLOB '*[^0-9a-fA-F-]*'")
        elif name in _JSON:
            wrong.append(f"{name} IS NOT NULL AND NOT json_valid({name})")
        elif kind == "REAL":
            wrong.append(f"{name} NOT BETWEEN {_SECONDS}")
    query = f"SELECT 1 FROM {table} WHERE {rows} AND ({' OR '.join(wrong)}) LIMIT 1"
    if db.conn.execute(query).fetchone():
        return f"a value in {table} cannot be what was written"
    return ""
