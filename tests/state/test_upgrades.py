"""An older state is backed up and brought up to date; a newer or foreign one is not touched."""

import sqlite3
from contextlib import closing

import pytest
from sqlite_utils import Database

from syncd.exceptions import ForeignStateError
from syncd.state import schema
from syncd.state.store import Store


def version(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


@pytest.fixture
def older(tmp_path):
    """The path of a database of version 1."""
    path = tmp_path / schema.FILE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrations.apply(Database(connection), stop_before="crashes_and_unknown_objects")
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
