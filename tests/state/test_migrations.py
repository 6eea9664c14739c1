import sqlite3

from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.state import files, schema
from syncd.state.lifecycle import FileStatus


def columns(db):
    tables = [
        row[0] for row in db.conn.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    return {
        table: {row[1] for row in db.conn.execute(f"PRAGMA table_info({table})")}
        for table in tables
    }


def test_a_database_of_the_first_version_is_brought_up_to_date_with_its_rows(tmp_path):
    path = tmp_path / schema.FILE_NAME
    old = Database(sqlite3.connect(path, isolation_level=None))
    schema.migrations.apply(old, stop_before="what_is_noticed")
    assert old.conn.execute("PRAGMA user_version").fetchone()[0] == 1
    old.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")
    old.conn.execute(
        "INSERT INTO files (folder, path, parent, status, inode, size, mtime_ns, ctime_ns, "
        "changed_at) VALUES ('f', x'61', x'', 'ready', 1, 2, 3, 4, 5.0)"
    )
    old.conn.close()
    schema.refuse_foreign(path)
    new = schema.open_writable(path)
    file = files.find(new, "f", b"a")
    assert (file.status, file.fingerprint) == (FileStatus.READY, Fingerprint(1, 2, 3, 4))
    assert (file.settling_since, file.is_open, file.is_skipped) == (None, False, False)
    fresh = schema.open_writable(tmp_path / "fresh.db")
    assert columns(new) == columns(fresh)
    assert new.conn.execute("PRAGMA user_version").fetchone()[0] == schema.SCHEMA_VERSION
    new.close()
    fresh.close()
