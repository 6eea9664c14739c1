"""The database on disk: how it is opened, and what is refused.

SQLite in WAL mode with `synchronous=FULL`: what was acknowledged survives a power cut.
"""

import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path

from syncd.exceptions import DamagedStateError, ForeignStateError, NoStateError, StateError
from syncd.state.database import backups
from syncd.state.database.connection import Database

FILE_NAME = "state.db"
#: "sync" in ASCII: tells our database from any other SQLite file.
APPLICATION_ID = 0x73796E63
SCHEMA_VERSION = 3
#: A file with more bytes is large: few of them are sent at a time. Part of an index.
LARGE_BYTES = 32 << 20
#: The files whose absence would be news, and those that `skip_existing` leaves out. Of an index.
STANDING = "status IN ('ready', 'settling', 'unreadable') OR is_skipped"
#: The reason of a copy that others deleted.
LOST = "it was deleted remotely by others"
#: Bytes to which the log is cut back once all of it is in the database.
WAL_BYTES = 64 << 20
#: Seconds a statement waits for a lock that another process holds (a backup, an admin's shell).
BUSY_SECONDS = 10.0
#: The last migration: they are applied in order, so that all are applied once it is.
LAST_MIGRATION = "spans_of_holds"


def open_writable(path: Path, *, check: bool = False) -> Database:
    """Open the database at `path` for the one writer, creating or migrating it as needed.

    With `check`, SQLite's own check of every page comes first. Raise DamagedStateError when the
    database is damaged, ForeignStateError when a newer syncd wrote it, and StateError when it
    cannot be opened or does not keep its promises. Call `refuse_foreign` before the first call.
    """
    try:
        with ExitStack() as on_error:
            connection = _connect(path)
            on_error.callback(connection.close)
            db = Database(connection)
            _keep_promises(db, path)
            _refuse_newer(db, path)
            if check:
                refuse_damaged(db, path)
            if not is_current(db):
                _migrate(db, path)
            on_error.pop_all()
            return db
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if is_damage(error):
            raise damaged(path, error) from error
        is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        advice = ": free some space, and start syncd again" if is_full else ""
        raise StateError(f"cannot open the state database {path}: {error}{advice}") from error


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite says that the database is damaged, rather than locked or full."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # Python cannot decode SQLite's message about a damaged schema.
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(
        error, UnicodeDecodeError
    )


def damaged(path: Path, why: object) -> DamagedStateError:
    """Return the error for a damaged database; it names the commands that restore a backup."""
    return DamagedStateError(
        f"the state database {path} is damaged ({why}), so nothing is sent or deleted: "
        f"{backups.how_to_restore(path, time.time())}"
    )


def quick_check(db: Database) -> str:
    """Return `ok`, or the first fault that SQLite finds in its pages, types and constraints."""
    verdict: str = db.value("PRAGMA quick_check(1)")
    return verdict.removeprefix("*** in database main ***\n")


def _migrate(db: Database, path: Path) -> None:
    """Bring an older database up to date, each step in a transaction; a backup comes first."""
    is_new = not db.value("PRAGMA user_version")
    if not is_new:
        backups.make(path, time.time())
    else:
        # First, so that what a failed first start leaves is not taken for another program's.
        db.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    # Only here: its import takes longer than all else that opening a database does.
    from syncd.state.database import migrations  # noqa: PLC0415

    migrations.apply(db.conn, is_new=is_new)


def is_current(db: Database) -> bool:
    """Return whether every migration was applied."""
    book = "SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'"
    applied = "SELECT 1 FROM _sqlite_migrations WHERE migration_set = 'syncd' AND name = ?"
    return bool(db.value(book) and db.value(applied, (LAST_MIGRATION,)))


def refuse_damaged(db: Database, path: Path) -> None:
    """Raise DamagedStateError, or SQLite's own error, when the database is damaged."""
    if (verdict := quick_check(db)) != "ok":
        raise damaged(path, verdict)


def open_readonly(path: Path) -> Database:
    """Open the database at `path` for reading only.

    Raise NoStateError when its first start did not finish, ForeignStateError when it is not ours,
    DamagedStateError when SQLite finds it damaged, and StateError when it cannot be read.
    """
    try:
        with ExitStack() as on_error:
            connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
            on_error.callback(connection.close)
            db = Database(connection)
            _refuse_newer(db, path)
            marks = [db.value(f"PRAGMA {mark}") for mark in ("application_id", "user_version")]
            if marks[0] != APPLICATION_ID or not marks[1]:
                # The migrations' own book is made before the first of them.
                tables = "SELECT 1 FROM sqlite_master WHERE name NOT LIKE '%sqlite_migrations%'"
                if not db.value(tables):
                    raise NoStateError(
                        f"there is no state in {path.parent} yet: it is just being made, or a "
                        "start was cut short (is the disk full?); `syncd run` or `syncd once` "
                        "finishes it"
                    )
                raise _foreign(path)
            on_error.pop_all()
            return db
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            raise _foreign(path) from error
        if is_damage(error):
            raise damaged(path, error) from error
        raise StateError(f"cannot read the state database {path}: {error}") from error


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        uri=isinstance(path, str),
        isolation_level=None,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    return connection


def _keep_promises(db: Database, path: Path) -> None:
    for pragma in (
        *("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"),
        "recursive_triggers = ON",
    ):
        db.conn.execute(f"PRAGMA {pragma}")
    db.conn.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    kept = tuple(
        db.value(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")
    )
    if kept != ("wal", 2, 1):
        raise StateError(
            f"{path}: SQLite did not accept WAL, synchronous=FULL and foreign keys (got {kept}); "
            "put [state] directory on a local filesystem",
        )


def refuse_foreign(path: Path, *, ours_before: bool = False) -> None:
    """Read the header without SQLite, and raise ForeignStateError when the file is not ours.

    A foreign file is not touched at all. When the database was `ours_before`, an unknown header is
    damage: raise DamagedStateError.

    Call this only before this process has a connection to `path`: closing any descriptor of a file
    drops all of the process's locks on it, SQLite's among them, and another process could then take
    the WAL away from under us.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
            size = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot read the state database {path}: {error.strerror}") from error
    if not header:
        return
    application, version = header[68:72], int.from_bytes(header[60:64], "big")
    ours = application == APPLICATION_ID.to_bytes(4, "big")
    # A first start that was cut before its commit leaves one page, without a table or our mark.
    unfinished = application == b"\0\0\0\0" and size <= int.from_bytes(header[16:18], "big")
    if not header.startswith(b"SQLite format 3\0") or not (ours or unfinished):
        raise damaged(path, "it has lost its header") if ours_before else _foreign(path)
    if version > SCHEMA_VERSION:
        raise _newer(path, version)


def _refuse_newer(db: Database, path: Path) -> None:
    version = db.value("PRAGMA user_version")
    if version > SCHEMA_VERSION:
        raise _newer(path, version)


def _foreign(path: Path) -> ForeignStateError:
    return ForeignStateError(
        f"{path} is not a state database of syncd; move it away, or set [state] directory"
    )


def _newer(path: Path, version: int) -> ForeignStateError:
    return ForeignStateError(
        f"{path} was written by a newer syncd (schema {version}, this program knows "
        f"{SCHEMA_VERSION}); nothing was touched: run the newer syncd, or restore a backup"
    )
