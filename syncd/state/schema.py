"""The database on disk: its tables, how it is opened, and what is refused.

SQLite in WAL mode with `synchronous=FULL`: what was acknowledged survives a power cut.
"""

import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path

from sqlite_utils import Database, Migrations

from syncd.exceptions import DamagedStateError, ForeignStateError, NoStateError, StateError
from syncd.state import backups, damage
from syncd.state.copies import NEWEST_KEPT
from syncd.state.lifecycle import CopyStatus, FileStatus, Verdict, arrows_trigger

FILE_NAME = "state.db"
#: "sync" in ASCII: tells our database from any other SQLite file.
APPLICATION_ID = 0x73796E63
SCHEMA_VERSION = 3
#: A file with more bytes is large: few of them are sent at a time. Part of an index.
LARGE_BYTES = 32 << 20
#: The reason of a copy that others deleted.
LOST = "it was deleted remotely by others"
#: Bytes to which the log is cut back once all of it is in the database.
WAL_BYTES = 64 << 20
#: Seconds a statement waits for a lock that another process holds (a backup, an admin's shell).
BUSY_SECONDS = 10.0

migrations = Migrations("syncd")


def _values(statuses: type[FileStatus] | type[CopyStatus] | type[Verdict]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)


@migrations()
def first_tables(db: Database) -> None:
    """Create every table as of version 1."""
    for statement in (
        """
        CREATE TABLE service (
          key TEXT PRIMARY KEY, value TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """
        CREATE TABLE folders (
          name TEXT PRIMARY KEY,
          path BLOB NOT NULL,
          filesystem TEXT, inode TEXT,
          first_scan_at REAL, last_scan_at REAL, last_scan_seconds REAL,
          directories INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
        f"""
        CREATE TABLE files (
          id INTEGER PRIMARY KEY,
          folder TEXT NOT NULL REFERENCES folders(name),
          path BLOB NOT NULL, parent BLOB NOT NULL,
          status TEXT NOT NULL CHECK (status IN ({_values(FileStatus)})),
          inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
          generation INTEGER NOT NULL DEFAULT 1,
          sha256 TEXT, hashed_generation INTEGER,
          changed_at REAL NOT NULL,
          missing_since REAL, removal_seen INTEGER NOT NULL DEFAULT 0, confirmed_at REAL,
          due_at REAL,
          attempts INTEGER NOT NULL DEFAULT 0, error TEXT,
          UNIQUE (folder, path)
        ) STRICT""",
        "CREATE INDEX files_parent ON files (folder, parent)",
        "CREATE INDEX files_due ON files (status, due_at) WHERE due_at IS NOT NULL",
        "CREATE INDEX files_unhashed ON files (size) WHERE sha256 IS NULL",
        "CREATE INDEX files_missing ON files (folder, missing_since) WHERE status = 'missing'",
        f"""
        CREATE TABLE copies (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          file_id INTEGER NOT NULL REFERENCES files(id),
          token TEXT NOT NULL, file_uuid TEXT,
          status TEXT NOT NULL CHECK (status IN ({_values(CopyStatus)})),
          wanted INTEGER NOT NULL DEFAULT 1, in_flight INTEGER NOT NULL DEFAULT 0,
          generation INTEGER NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
          content_type TEXT NOT NULL, workspace_uuid TEXT, method TEXT NOT NULL,
          sent_name TEXT, remote_file_path TEXT,
          attempts INTEGER NOT NULL DEFAULT 0, due_at REAL,
          sent_at REAL, delete_sent_at REAL, reason TEXT,
          error_status INTEGER, error_code TEXT, error_message TEXT, error_request_id TEXT,
          processing_status TEXT, frame_count INTEGER, video_metadata TEXT,
          created_at REAL NOT NULL, stored_at REAL, live_at REAL, gone_at REAL
        ) STRICT""",
        "CREATE UNIQUE INDEX copies_one_live ON copies (file_id) WHERE status = 'live'",
        "CREATE UNIQUE INDEX copies_uuid ON copies (file_uuid) WHERE file_uuid IS NOT NULL",
        "CREATE INDEX copies_file ON copies (file_id)",
        "CREATE INDEX copies_token ON copies (token)",
        "CREATE INDEX copies_due ON copies (status, due_at) WHERE due_at IS NOT NULL",
        "CREATE INDEX copies_open ON copies (status) WHERE status NOT IN ('live', 'gone')",
        "CREATE INDEX copies_content ON copies (sha256, status)",
        arrows_trigger(),
        """
        CREATE TABLE holds (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          stops TEXT NOT NULL CHECK (stops IN ('deletions', 'sending')),
          scope TEXT NOT NULL, reason TEXT NOT NULL,
          message TEXT NOT NULL, affects INTEGER NOT NULL DEFAULT 0,
          first TEXT NOT NULL DEFAULT '[]', commands TEXT NOT NULL DEFAULT '[]',
          since REAL NOT NULL, released_at REAL
        ) STRICT""",
        """
        CREATE UNIQUE INDEX holds_open ON holds (stops, scope, reason)
          WHERE released_at IS NULL""",
        """
        CREATE TABLE history (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          at REAL NOT NULL, folder TEXT NOT NULL, path BLOB NOT NULL,
          event TEXT NOT NULL, file_uuid TEXT, detail TEXT NOT NULL DEFAULT ''
        ) STRICT""",
        "CREATE INDEX history_path ON history (folder, path, at)",
        f"PRAGMA application_id = {APPLICATION_ID}",
        "PRAGMA user_version = 1",
    ):
        db.execute(statement)


@migrations()
def what_is_noticed(db: Database) -> None:
    """Keep what else is noticed of files and folders, and find what is due folder by folder."""
    for statement in (
        # Since when a file settles, and whether it was seen to be open for writing.
        "ALTER TABLE files ADD COLUMN settling_since REAL",
        "ALTER TABLE files ADD COLUMN is_open INTEGER NOT NULL DEFAULT 0",
        # Whether it was there before the folder's first scan, and is left out for that.
        "ALTER TABLE files ADD COLUMN is_skipped INTEGER NOT NULL DEFAULT 0",
        # When the root was first seen: what is older was there before.
        "ALTER TABLE folders ADD COLUMN since REAL",
        # Where beneath a root something is mounted, and whether it hides files that are known.
        """
        CREATE TABLE mounts (
          folder TEXT NOT NULL REFERENCES folders(name), path BLOB NOT NULL,
          hides INTEGER NOT NULL DEFAULT 0,
          PRIMARY KEY (folder, path)
        ) STRICT, WITHOUT ROWID""",
        # Whole, so that files are counted by it, and by folder, so that none starves another.
        "DROP INDEX files_due",
        "CREATE INDEX files_due ON files (status, folder, due_at)",
    ):
        db.execute(statement)


@migrations()
def deletions_reviewed(db: Database) -> None:
    """Add what was decided on held deletions, their evidence, and what syncd took away."""
    for statement in (
        # What a person or a rule decided on a file, and under which hold.
        """
        ALTER TABLE files ADD COLUMN verdict TEXT
          CHECK (verdict IN ('approved', 'kept', 'gone', 'forgotten'))""",
        "ALTER TABLE files ADD COLUMN hold_id INTEGER",
        "CREATE INDEX files_decided ON files (hold_id) WHERE hold_id IS NOT NULL",
        # Why a missing file's copy was deleted, as JSON; when its file was taken away by syncd.
        "ALTER TABLE copies ADD COLUMN evidence TEXT",
        "ALTER TABLE copies ADD COLUMN consumed_at REAL",
        # Whether deletions were mirrored at the last whole scan; the workspace of its copies
        # (empty: the default one), unknown before the first start that looked.
        f"CREATE INDEX copies_lost ON copies (gone_at) WHERE reason = '{LOST}'",
        "CREATE INDEX files_gone ON files (folder, path) WHERE verdict = 'gone'",
        "ALTER TABLE folders ADD COLUMN mirrored INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE folders ADD COLUMN workspace TEXT",
        "ALTER TABLE holds ADD COLUMN parent TEXT",
        "ALTER TABLE holds ADD COLUMN verdict TEXT",
    ):
        db.execute(statement)


@migrations()
def crashes_and_unknown_objects(db: Database) -> None:
    """Add crashes over a file, when a doubt arose, and remote objects without a copy."""
    for statement in (
        "ALTER TABLE files ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE copies ADD COLUMN doubted_at REAL",
        "CREATE INDEX files_crashed ON files (crashes) WHERE crashes > 0",
        """
        CREATE TABLE unknown_objects (
          file_uuid TEXT PRIMARY KEY, token TEXT NOT NULL,
          workspace_uuid TEXT, size INTEGER, remote_file_path TEXT,
          found_at REAL NOT NULL, accepted_at REAL
        ) STRICT, WITHOUT ROWID""",
        "PRAGMA user_version = 2",
    ):
        db.execute(statement)


@migrations()
def mounts_marked(db: Database) -> None:
    """Keep what tells the thing that is mounted beneath a root from another one."""
    db.execute("ALTER TABLE mounts ADD COLUMN mark TEXT NOT NULL DEFAULT ''")


@migrations()
def arrows_to_released_and_gone(db: Database) -> None:
    """Let a copy be released from any status, and let a released one be gone."""
    db.execute("DROP TRIGGER copies_arrows")
    db.execute(arrows_trigger())
    db.execute("PRAGMA user_version = 3")


@migrations()
def files_set_aside(db: Database) -> None:
    """Keep where a file is that is being taken away, and why a folder's files are not."""
    # The private directory that holds it until it is moved or deleted.
    db.execute("ALTER TABLE copies ADD COLUMN aside TEXT")
    db.execute("ALTER TABLE folders ADD COLUMN obstacle TEXT NOT NULL DEFAULT ''")
    # What a cut left half taken is due with its copy, and no longer with its file.
    db.execute(
        "UPDATE copies SET due_at = 0 WHERE status = 'released' AND consumed_at IS NOT NULL "
        "AND EXISTS (SELECT 1 FROM files WHERE files.id = file_id AND files.status = 'consumed' "
        "AND files.due_at IS NOT NULL AND files.sha256 = copies.sha256)"
    )
    db.execute("UPDATE files SET due_at = NULL WHERE status = 'consumed' AND due_at IS NOT NULL")


@migrations()
def unanswered_attempts(db: Database) -> None:
    """Remember attempts that got no answer, and copies that syncd never deletes."""
    for statement in (
        """
        CREATE TABLE unanswered (
          token TEXT PRIMARY KEY,
          copy_id INTEGER NOT NULL, file_id INTEGER NOT NULL, generation INTEGER NOT NULL,
          workspace_uuid TEXT, method TEXT NOT NULL, content_type TEXT NOT NULL,
          sha256 TEXT NOT NULL, size INTEGER NOT NULL,
          sent_at REAL NOT NULL, looks INTEGER NOT NULL DEFAULT 0, look_at REAL NOT NULL
        ) STRICT, WITHOUT ROWID""",
        "ALTER TABLE copies ADD COLUMN kept INTEGER NOT NULL DEFAULT 0",
        # Copies that an older syncd was to send again with the token of the first try.
        """
        INSERT OR IGNORE INTO unanswered
          SELECT token, id, file_id, generation, workspace_uuid, method, content_type, sha256,
            size, created_at, 0, sent_at + 600 FROM copies
          WHERE status = 'planned' AND status NOT IN ('live', 'gone') AND sent_at IS NOT NULL""",
        # What a service echoes is learned anew, for each method and kind.
        "DELETE FROM service WHERE key IN ('echo', 'sweep_at', 'look_back')",
        "DROP TABLE unknown_objects",
        # While `adopt` reads: remote objects with our token and without a copy.
        """
        CREATE TABLE listed (
          file_uuid TEXT PRIMARY KEY, token TEXT NOT NULL, workspace_uuid TEXT,
          created_at REAL NOT NULL, size INTEGER, content_type TEXT, remote_file_path TEXT
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX listed_token ON listed (token, created_at)",
    ):
        db.execute(statement)


@migrations()
def refusals_and_waits(db: Database) -> None:
    """Count refusals, keep since when a file waits, and find small and large files apart."""
    for statement in (
        "ALTER TABLE copies ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE copies ADD COLUMN refused_at REAL",
        # When a file that was put off became due first; what is older than its content is void.
        "ALTER TABLE files ADD COLUMN waits_since REAL",
        f"CREATE INDEX files_large ON files (status, folder, due_at) WHERE size > {LARGE_BYTES}",
    ):
        db.execute(statement)


@migrations()
def costs_kept_flat(db: Database) -> None:
    """Keep costs flat a version and an equal content: bound what is kept, and index it."""
    for statement in (
        "CREATE INDEX copies_of_file ON copies (file_id, id) WHERE status <> 'gone'",
        "CREATE INDEX copies_gone ON copies (file_id, id) WHERE status = 'gone'",
        "CREATE INDEX copies_forgotten ON copies (gone_at) WHERE status = 'gone'",
        "CREATE INDEX files_vacated ON files (sha256) WHERE status = 'missing'",
        "CREATE INDEX history_age ON history ((event = 'deleted'), at)",
        (
            "DELETE FROM copies WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER "
            "(PARTITION BY file_id ORDER BY id DESC) AS age FROM copies WHERE status = 'gone') "
            f"WHERE age > {NEWEST_KEPT})"
        ),
        (
            "DELETE FROM history WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER "
            "(PARTITION BY folder, path ORDER BY id DESC) AS age FROM history) "
            f"WHERE age > {NEWEST_KEPT})"
        ),
    ):
        db.execute(statement)


@migrations()
def decisions_named(db: Database) -> None:
    """Keep what each hold names, and what is decided on it, row by row in one table."""
    stored = (
        "EXISTS (SELECT 1 FROM copies WHERE file_id = files.id AND consumed_at IS NULL "
        "AND (copies.status IN ('live', 'processing') "
        "OR (copies.status = 'retiring' AND delete_sent_at IS NULL AND live_at IS NOT NULL)))"
    )
    columns = (
        "id, stops, scope, reason, message, affects, first, commands, since, released_at, parent, "
        "verdict"
    )
    for statement in (
        # A hold may stop a folder whole; SQLite changes no CHECK in place.
        "ALTER TABLE holds RENAME TO old_holds",
        "DROP INDEX holds_open",
        """
        CREATE TABLE holds (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          stops TEXT NOT NULL CHECK (stops IN ('deletions', 'sending', 'folder')),
          scope TEXT NOT NULL, reason TEXT NOT NULL,
          message TEXT NOT NULL, affects INTEGER NOT NULL DEFAULT 0,
          first TEXT NOT NULL DEFAULT '[]', commands TEXT NOT NULL DEFAULT '[]',
          since REAL NOT NULL, released_at REAL, parent TEXT, verdict TEXT
        ) STRICT""",
        f"INSERT INTO holds ({columns}) SELECT {columns} FROM old_holds",
        "DROP TABLE old_holds",
        """
        CREATE UNIQUE INDEX holds_open ON holds (stops, scope, reason)
          WHERE released_at IS NULL""",
        f"""
        CREATE TABLE decisions (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          file_id INTEGER NOT NULL UNIQUE REFERENCES files(id) ON DELETE CASCADE,
          hold_id INTEGER REFERENCES holds(id),
          verdict TEXT NOT NULL CHECK (verdict IN ({_values(Verdict)})),
          due_at REAL
        ) STRICT""",
        "CREATE INDEX decisions_hold ON decisions (hold_id)",
        # What was decided, or held because others deleted it.
        """
        INSERT INTO decisions (file_id, hold_id, verdict)
        SELECT files.id, CASE files.verdict WHEN 'gone' THEN holds.id ELSE hold_id END,
          CASE files.verdict WHEN 'gone' THEN 'held' ELSE files.verdict END
        FROM files LEFT JOIN holds ON holds.released_at IS NULL AND stops = 'sending'
          AND reason = 'remote_gone' AND scope = 'folder ' || folder
        WHERE files.verdict <> 'gone' OR (files.verdict = 'gone' AND holds.id IS NOT NULL)""",
        # What open holds named without a list, as it was counted then.
        f"""
        INSERT INTO decisions (file_id, hold_id, verdict, due_at)
        SELECT files.id, holds.id, 'held', files.due_at
        FROM holds JOIN files ON folder = scope WHERE holds.released_at IS NULL
          AND stops = 'deletions' AND reason = 'many_missing' AND files.status = 'missing'
          AND files.verdict IS NULL AND {stored}""",
        """
        UPDATE files SET due_at = NULL, confirmed_at = NULL WHERE status = 'missing'
          AND id IN (SELECT file_id FROM decisions WHERE verdict = 'held')""",
        "DROP INDEX files_decided",
        "DROP INDEX files_gone",
        "ALTER TABLE files DROP COLUMN verdict",
        "ALTER TABLE files DROP COLUMN hold_id",
        # Recent deletions are counted by their copies, not by when the file was missed.
        "DROP INDEX files_missing",
        # What changed lately, where most of a folder may not change unasked.
        "CREATE INDEX files_changed ON files (folder, changed_at) WHERE generation > 1",
    ):
        db.execute(statement)


@migrations()
def parts_of_folders(db: Database) -> None:
    """Keep the identity of each part of a folder."""
    for statement in (
        # A part is a root (path empty), or a directory beneath it on which something is mounted.
        """
        CREATE TABLE parts (
          folder TEXT NOT NULL REFERENCES folders(name), path BLOB NOT NULL,
          filesystem TEXT NOT NULL, inode TEXT NOT NULL, alike TEXT, alike_inode TEXT,
          is_stopped INTEGER NOT NULL DEFAULT 0,
          PRIMARY KEY (folder, path)
        ) STRICT, WITHOUT ROWID""",
        """
        INSERT INTO parts (folder, path, filesystem, inode)
        SELECT name, x'', filesystem, inode FROM folders WHERE filesystem IS NOT NULL""",
        # A number stands for an identity of an earlier version, which proves nothing by itself.
        """
        INSERT INTO parts (folder, path, filesystem, inode)
        SELECT folder, path, '0', '0' FROM mounts WHERE hides <> 1""",
        "DROP TABLE mounts",
        "ALTER TABLE folders DROP COLUMN filesystem",
        "ALTER TABLE folders DROP COLUMN inode",
        # Their causes are judged anew.
        """
        UPDATE holds SET released_at = since WHERE released_at IS NULL
        AND reason IN ('root_replaced', 'root_empty', 'mount_missing', 'mount_new')""",
    ):
        db.execute(statement)


@migrations()
def disks_put_back(db: Database) -> None:
    """Tell a disk that is as it was earlier by the files that changed last."""
    for statement in (
        # A file's state from before a person, or a comparison, took the disk for the right one is
        # no evidence against that disk.
        "ALTER TABLE parts ADD COLUMN believed_at REAL NOT NULL DEFAULT 0",
        "DROP INDEX files_changed",
        "CREATE INDEX files_changed ON files (folder, changed_at, generation)",
    ):
        db.execute(statement)


@migrations()
def released_to_be_kept(db: Database) -> None:
    """Mark the released copies that stay whatever is configured: a rule of then kept them."""
    db.execute(
        """
        UPDATE copies SET kept = 1 WHERE status = 'released' AND reason IN (
          'another folder is in its place', 'the file is gone, and its copy is kept',
          'a newer copy is live', 'another copy is live')
        AND file_id NOT IN (
          SELECT file_id FROM decisions WHERE verdict = 'kept' AND hold_id IS NOT NULL)"""
    )


@migrations()
def superseded_copies(db: Database) -> None:
    """Keep when newer content took a copy's place; let what retires be kept after all."""
    for statement in (
        "DROP TRIGGER copies_arrows",
        arrows_trigger(),
        "ALTER TABLE copies ADD COLUMN superseded_at REAL",
        """
        UPDATE copies SET superseded_at = (SELECT min(newer.live_at) FROM copies AS newer
          WHERE newer.file_id = copies.file_id AND newer.id > copies.id
          AND newer.workspace_uuid IS copies.workspace_uuid)
        WHERE status NOT IN ('live', 'gone') AND status = 'retiring' AND live_at IS NOT NULL""",
    ):
        db.execute(statement)


@migrations()
def mounts_of_parts(db: Database) -> None:
    """Keep the mount on which each part was judged: a disk may be swapped for a copy of it.

    And whether a copy is kept only as long as its file is gone.
    """
    db.execute("ALTER TABLE parts ADD COLUMN mount TEXT NOT NULL DEFAULT ''")
    db.execute(
        "UPDATE copies SET kept = 2 WHERE kept = 1 AND status = 'released' "
        "AND reason = 'the file is gone, and its copy is kept'"
    )


def open_writable(path: Path, *, check: bool = False, thorough: bool = False) -> Database:
    """Open the database at `path` for the one writer, creating or migrating it as needed.

    With `check`, DamagedStateError where it is not whole (see `damage.found`). ForeignStateError
    where it is a newer syncd's; StateError where it cannot be opened or does not keep to its
    promises. `refuse_foreign` comes before the first call.
    """
    try:
        with ExitStack() as on_error:
            connection = _connect(path)
            on_error.callback(connection.close)
            db = Database(connection, execute_plugins=False)
            _keep_promises(db, path)
            _refuse_newer(db, path)
            if check:
                refuse_damaged(db, path, thorough=thorough)
            if migrations.pending(db):
                _migrate(db, path)
            on_error.pop_all()
            return db
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if damage.is_damage(error):
            raise DamagedStateError(f"the state database {path} is damaged: {error}") from error
        is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        advice = ": free some space, and start syncd again" if is_full else ""
        raise StateError(f"cannot open the state database {path}: {error}{advice}") from error


def is_whole(path: Path) -> bool:
    """Say whether the database at `path`, which nobody has open, can be relied on."""
    try:
        db = open_readonly(path)
    except StateError:
        return False
    try:
        refuse_damaged(db, path, thorough=True)
    except (StateError, sqlite3.Error, UnicodeDecodeError):
        return False
    finally:
        db.close()
    return True


def _migrate(db: Database, path: Path) -> None:
    """Bring an older database up to date, each step in a transaction; a backup comes first."""
    if db.conn.execute("PRAGMA user_version").fetchone()[0]:
        backups.make(path, time.time())
    else:
        # First, so that what a first start leaves that failed is not taken for another program's.
        db.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrations.apply(db)


def refuse_damaged(db: Database, path: Path, *, thorough: bool) -> None:
    """DamagedStateError, or SQLite's own error, where the database is not whole."""
    if wrong := damage.found(db, thorough=thorough):
        raise DamagedStateError(f"the state database {path} is damaged: {wrong}")


def open_readonly(path: Path) -> Database:
    """Open the database at `path` for reading only.

    StateError where there is none to read, NoStateError where it was not made to its end,
    ForeignStateError where it is not ours.
    """
    try:
        with ExitStack() as on_error:
            connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
            on_error.callback(connection.close)
            db = Database(connection, recursive_triggers=False, execute_plugins=False)
            _refuse_newer(db, path)
            marks = [
                db.conn.execute(f"PRAGMA {mark}").fetchone()[0]
                for mark in ("application_id", "user_version")
            ]
            if marks[0] != APPLICATION_ID or not marks[1]:
                # The migrations' own book is made before the first of them.
                tables = "SELECT 1 FROM sqlite_master WHERE name NOT LIKE '%sqlite_migrations%'"
                if not db.conn.execute(tables).fetchone():
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
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        db.conn.execute(f"PRAGMA {pragma}")
    db.conn.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    kept = tuple(
        db.conn.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys")
    )
    if kept != ("wal", 2, 1):
        raise StateError(
            f"{path}: SQLite did not accept WAL, synchronous=FULL and foreign keys (got {kept}); "
            "put [state] directory on a local filesystem",
        )


def refuse_foreign(path: Path, *, ours_before: bool = False) -> None:
    """Read the header without SQLite, so that a foreign file is not touched at all.

    A header that is none is damage, and not foreign, where the database was `ours_before`.

    Only before this process has a connection to `path`: closing any descriptor of a file drops
    all of the process's locks on it, SQLite's among them, and another process could then take
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
        if ours_before:
            raise DamagedStateError(f"the state database {path} has lost its header")
        raise _foreign(path)
    if version > SCHEMA_VERSION:
        raise _newer(path, version)


def _refuse_newer(db: Database, path: Path) -> None:
    version = db.conn.execute("PRAGMA user_version").fetchone()[0]
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
