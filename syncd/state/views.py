"""Reads of the database without a daemon: one consistent view, read-only."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from syncd.exceptions import ForeignStateError, NoStateError, StateError
from syncd.state.database import owner, schema
from syncd.state.database.connection import Database

T = TypeVar("T")
SQLITE_VERSION = sqlite3.sqlite_version


def read(directory: Path, query: Callable[[Database], T]) -> T:
    """Run `query` on the database in `directory`, on one consistent view, daemon or not.

    Raise NoStateError when there is none, ForeignStateError when it is not ours, DamagedStateError
    when SQLite finds it damaged, and StateError when it cannot be read.
    """
    path = directory / schema.FILE_NAME
    try:
        owner.refuse_to_read(directory)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ForeignStateError(f"{path} is not a file: remove it")
    except FileNotFoundError as error:
        raise NoStateError(
            f"there is no state in {directory}: syncd has not run with this configuration; name "
            "its file with -c, or its state directory with SYNCD_STATE__DIRECTORY"
        ) from error
    except NotADirectoryError as error:
        raise StateError(
            f"the state directory {directory} is a file, or lies beneath one; name the right one "
            "with SYNCD_STATE__DIRECTORY, or in [state] directory"
        ) from error
    except OSError as error:
        raise StateError(
            f"cannot read the state directory {directory}: {error.strerror}; ask as the user that "
            "syncd runs as"
        ) from error
    if not os.access(path, os.R_OK):
        raise StateError(
            f"user {os.getuid()} may not read the state database {path}; ask as the user that "
            "syncd runs as"
        )
    db = schema.open_readonly(path)
    try:
        db.conn.execute("BEGIN")
        if not schema.is_current(db):
            raise NoStateError(
                f"the state in {directory} is just being made, or is of an earlier syncd: "
                "`syncd run` or `syncd once` brings it up to date"
            )
        return query(db)
    except sqlite3.Error as error:
        if schema.is_damage(error):
            raise schema.damaged(path, error) from error
        raise StateError(f"cannot read the state database {path}: {error}") from error
    finally:
        db.close()


def roots(db: Database) -> dict[str, bytes]:
    """Return the root of each folder that was ever watched, by name."""
    return {row["name"]: row["path"] for row in db.conn.execute("SELECT name, path FROM folders")}


def names_in_use(directory: Path) -> dict[bytes, str]:
    """Return the name of each folder that was ever watched, by its root; none without a state."""
    query = "SELECT path, name FROM folders ORDER BY last_scan_at"
    try:
        return read(directory, lambda db: {row[0]: row[1] for row in db.conn.execute(query)})
    except StateError:
        return {}
