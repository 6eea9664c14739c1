"""An older state is backed up and brought up to date; a newer or foreign one is not touched."""

import sqlite3
from contextlib import closing

import pytest
from sqlite_utils import Database

from syncd.exceptions import ForeignStateError
from syncd.identity import RootIdentity
from syncd.state import copies, folders, holds
from syncd.state.database import schema
from syncd.state.database.migrations import migrations
from syncd.state.database.store import Store


def version(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


@pytest.fixture
def older(tmp_path):
    """The path of a database of version 1."""
    path = tmp_path / schema.FILE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrations.apply(Database(connection), stop_before="crashes_and_unknown_objects")
        connection.execute("INSERT INTO service (key, value) VALUES ('instance', '0123abcd')")
    assert version(path) == 1
    return path


@pytest.mark.row(28)
def test_an_older_state_is_backed_up_and_brought_up_to_date(older):
    with closing(Store(older.parent)) as store:
        store.open(0.0)
        assert store.instance == "0123abcd"
    assert version(older) == schema.SCHEMA_VERSION
    (backup,) = (older.parent / "backups").iterdir()
    assert version(backup) == 1


@pytest.mark.row(28)
@pytest.mark.parametrize("kind", ["newer", "text"])
def test_a_newer_or_foreign_state_is_refused_and_not_touched(older, kind):
    if kind == "newer":
        with closing(sqlite3.connect(older)) as db:
            db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    else:
        older.write_text("dear diary, " * 50)
    before = older.read_bytes()
    with pytest.raises(ForeignStateError):
        Store(older.parent).open(0.0)
    assert older.read_bytes() == before
    assert not (older.parent / "backups").exists()


@pytest.mark.row(28)
def test_what_an_older_state_knew_of_roots_and_mounts_is_kept(tmp_path):
    path = tmp_path / schema.FILE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrations.apply(Database(connection), stop_before="parts_of_folders")
        for statement in (
            "INSERT INTO folders (name, path, filesystem, inode) VALUES ('f', x'2f', '-7', '2')",
            "INSERT INTO folders (name, path) VALUES ('unseen', x'2f')",
            "INSERT INTO mounts (folder, path, hides) VALUES ('f', x'61', 0), ('f', x'62', 1)",
            """
            INSERT INTO holds (stops, scope, reason, message, since)
            VALUES ('deletions', 'f', 'mount_new', 'm', 1.0)""",
        ):
            connection.execute(statement)
    with closing(Store(tmp_path)) as store:
        store.open(0.0)
        known = store.read(lambda db: folders.parts(db, "f"))
        assert known == {
            b"": folders.Part(RootIdentity("-7", 2)),
            b"a": folders.Part(RootIdentity("0", 0)),
        }
        assert all(part.identity.is_of_old for part in known.values())
        assert store.read(lambda db: folders.parts(db, "unseen")) == {}
        assert store.read(holds.open_holds) == []
        hold = {"stops": "folder", "scope": "f", "reason": "r", "message": "m", "now": 1.0}
        assert store.write(lambda db: holds.place(db, **hold))


@pytest.mark.row(28)
def test_what_an_older_version_released_to_be_kept_is_never_deleted(tmp_path):
    reasons = ("another folder is in its place", "the file is no longer mirrored")
    path = tmp_path / schema.FILE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrations.apply(Database(connection), stop_before="released_to_be_kept")
        for statement in (
            "INSERT INTO folders (name, path) VALUES ('f', x'2f')",
            """
            INSERT INTO files (folder, path, parent, status, changed_at)
            VALUES ('f', x'61', x'', 'ready', 1.0)""",
        ):
            connection.execute(statement)
        connection.executemany(
            """
            INSERT INTO copies (file_id, token, status, generation, sha256, size, content_type,
              method, created_at, reason)
            VALUES (1, 't', 'released', 1, 'aa', 1, 'text/plain', 'direct', 1.0, ?)""",
            [(reason,) for reason in reasons],
        )
    with closing(Store(tmp_path)) as store:
        store.open(0.0)
        known = store.read(lambda db: copies.where(db, "1 ORDER BY id"))
        assert [copy.kept for copy in known] == [True, False]
