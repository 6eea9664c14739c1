"""The tables, made and brought up to date by sqlite-utils' migrations: loaded only for that."""

import sqlite3
from contextlib import nullcontext

from sqlite_utils import Database, Migrations

from syncd.state.copies import NEWEST_KEPT
from syncd.state.database.first_tables import STATEMENTS, values_of
from syncd.state.database.schema import LARGE_BYTES, LOST, STANDING
from syncd.state.lifecycle import Verdict, arrows_trigger

migrations = Migrations("syncd")


def apply(connection: sqlite3.Connection, *, is_new: bool = False) -> None:
    """Apply what is missing, each migration in a transaction; to a new database all in one."""
    db = Database(connection, execute_plugins=False)
    # Each commit waits for the disk; but a large database has not the room to be changed at once.
    with db.atomic() if is_new else nullcontext():
        migrations.apply(db)


@migrations()
def first_tables(db: Database) -> None:
    """Create every table as of version 1."""
    for statement in STATEMENTS:
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
        # Mounts beneath a root, and whether they hide known files.
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
        # The decision of a person or a rule on a file, and its hold.
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
    # A removal that was cut short is now due with its copy, and no longer with its file.
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
        # The echo is learned anew, for each method and kind.
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
          verdict TEXT NOT NULL CHECK (verdict IN ({values_of(Verdict)})),
          due_at REAL
        ) STRICT""",
        "CREATE INDEX decisions_hold ON decisions (hold_id)",
        # Files that were decided on, or held because others deleted them.
        """
        INSERT INTO decisions (file_id, hold_id, verdict)
        SELECT files.id, CASE files.verdict WHEN 'gone' THEN holds.id ELSE hold_id END,
          CASE files.verdict WHEN 'gone' THEN 'held' ELSE files.verdict END
        FROM files LEFT JOIN holds ON holds.released_at IS NULL AND stops = 'sending'
          AND reason = 'remote_gone' AND scope = 'folder ' || folder
        WHERE files.verdict <> 'gone' OR (files.verdict = 'gone' AND holds.id IS NOT NULL)""",
        # Files that open holds named without a list, as counted then.
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
        # Recent changes, for folders in which most files may not change unasked.
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


@migrations()
def hooks_told(db: Database) -> None:
    """Keep how far each hook has been told of the history, and which paths it would not take."""
    for statement in (
        """
        CREATE TABLE hooks (
          name TEXT PRIMARY KEY, told INTEGER NOT NULL,
          failures INTEGER NOT NULL DEFAULT 0, due_at REAL NOT NULL DEFAULT 0,
          error TEXT NOT NULL DEFAULT ''
        ) STRICT, WITHOUT ROWID""",
        """
        CREATE TABLE hook_paths (
          hook TEXT NOT NULL, folder TEXT NOT NULL, path BLOB NOT NULL, line INTEGER NOT NULL,
          attempts INTEGER NOT NULL, due_at REAL NOT NULL, error TEXT NOT NULL,
          PRIMARY KEY (hook, folder, path)
        ) STRICT, WITHOUT ROWID""",
    ):
        db.execute(statement)


@migrations()
def ends_of_holds(db: Database) -> None:
    """Keep when a hold ends by itself: a person may pause for a time."""
    db.execute("ALTER TABLE holds ADD COLUMN until REAL")


@migrations()
def workspaces_in_one_spelling(db: Database) -> None:
    """Spell the uuids of workspaces as the configuration spells them now: in lower case."""
    columns = {"folders": "workspace", "copies": "workspace_uuid", "unanswered": "workspace_uuid"}
    for table, column in columns.items():
        db.execute(f"UPDATE {table} SET {column} = lower({column}) WHERE {column} GLOB '*[A-Z]*'")


@migrations()
def standing_files(db: Database) -> None:
    """Index only the files that a scan expects to find: those that are gone outnumber them."""
    db.execute("DROP INDEX files_parent")
    db.execute(f"CREATE INDEX files_standing ON files (folder, parent) WHERE {STANDING}")


@migrations()
def spans_of_holds(db: Database) -> None:
    """Keep whether a hold's end counts the time that passes, rather than what the clock shows.

    And the root of the folder that a person has paused, by which it is known under another name.
    """
    db.execute("ALTER TABLE holds ADD COLUMN is_span INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE holds ADD COLUMN root BLOB")
