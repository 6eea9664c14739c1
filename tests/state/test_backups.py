"""A damaged database is noticed before it is used, kept aside, and its newest backup put back."""

import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest

from syncd.exceptions import ForeignStateError, StateError
from syncd.state import holds, schema
from syncd.state.store import Store

DAY = 86_400.0


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state"


def opened(directory, now=0.0):
    store = Store(directory)
    store.open(now)
    return store


def fill(store, count=300):
    def work(db):
        db.conn.execute("INSERT OR IGNORE INTO folders (name, path) VALUES ('f', x'2f')")
        for number in range(count):
            db.conn.execute(
                "INSERT INTO files (folder, path, parent, status, changed_at, sha256) "
                "VALUES ('f', ?, x'', 'ready', 0, ?)",
                (b"file %d" % number, f"{number:064x}"),
            )

    store.write(work)


def count(store):
    return store.read(lambda db: db.conn.execute("SELECT count(*) FROM files").fetchone()[0])


def kept(directory):
    return sorted(path.name for path in (directory / "backups").iterdir())


def test_a_backup_is_made_once_a_day_and_two_are_kept(directory):
    store = opened(directory)
    for now in (0, 10, DAY - 1, DAY, DAY + 5, 2 * DAY, 3 * DAY):
        store.back_up_if_due(now)
    store.close()
    assert kept(directory) == ["state-19700103T000000Z.db", "state-19700104T000000Z.db"]


def test_a_backup_is_whole_private_and_holds_what_was_committed(directory):
    store = opened(directory)
    fill(store, 7)
    store.back_up_if_due(0)
    store.close()
    (backup,) = (directory / "backups").iterdir()
    assert schema.is_whole(backup)
    assert backup.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("SELECT count(*) FROM files").fetchone() == (7,)


def test_without_room_there_is_a_warning_and_no_backup(directory, monkeypatch, caplog):
    store = opened(directory)
    usage = shutil.disk_usage(directory)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    store.back_up_if_due(0)
    store.close()
    assert kept(directory) == []
    assert "too little room" in caplog.text


def test_a_backup_that_cannot_be_written_is_an_error_that_names_both_files(directory):
    store = opened(directory)
    (directory / "backups").write_text("in the way")
    with pytest.raises(StateError, match=r"cannot back up .*state\.db to .*backups"):
        store.back_up_if_due(0)
    store.close()


@pytest.mark.row(26)
def test_a_damaged_database_is_kept_aside_and_its_backup_put_back_under_a_hold(directory):
    store = opened(directory)
    fill(store)
    store.back_up_if_due(0)
    store.close()
    damage(directory / "state.db", 5000, 4000)
    broken = (directory / "state.db").read_bytes()
    store = opened(directory, now=DAY)
    assert count(store) == 300
    assert store.read(holds.is_lost)
    store.close()
    assert (directory / "damaged-19700102T000000Z" / "state.db").read_bytes() == broken


@pytest.mark.row(26)
def test_a_damaged_backup_is_passed_over_for_an_older_one(directory):
    store = opened(directory)
    fill(store, 10)
    store.back_up_if_due(0)
    store.back_up_if_due(DAY)
    store.close()
    damage(directory / "state.db", 0, 4000)
    damage(directory / "backups" / "state-19700102T000000Z.db", 4096, 4000)
    store = opened(directory, now=2 * DAY)
    assert count(store) == 10
    store.close()


@pytest.mark.row(26)
def test_without_a_whole_backup_a_damaged_database_leaves_an_empty_one_under_a_hold(directory):
    store = opened(directory)
    fill(store)
    store.close()
    damage(directory / "state.db", 5000, 4000)
    store = opened(directory)
    assert count(store) == 0
    assert store.read(holds.is_lost)
    store.close()


@pytest.mark.row(26)
def test_wherever_bytes_are_flipped_the_state_opens_whole_or_held_and_never_otherwise(
    directory, tmp_path
):
    store = opened(directory)
    fill(store)
    store.close()
    size = (directory / "state.db").stat().st_size
    chance = random.Random(26)
    outcomes = set()
    for number in range(40):
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        damage(copy / "state.db", chance.randrange(size), 64)
        try:
            store = opened(copy)
        except ForeignStateError:
            outcomes.add("refused")
            continue
        lost = store.read(holds.is_lost)
        assert lost or count(store) == 300
        outcomes.add("held" if lost else "harmless")
        store.close()
        shutil.rmtree(copy)
    assert "held" in outcomes


@pytest.mark.row(28)
def test_an_older_schema_is_backed_up_and_migrated(directory):
    make_version_1(directory)
    store = opened(directory, now=DAY)
    version = store.read(lambda db: db.conn.execute("PRAGMA user_version").fetchone()[0])
    assert (version, count(store)) == (schema.SCHEMA_VERSION, 1)
    assert not store.read(holds.is_lost)
    store.close()
    (backup,) = (directory / "backups").iterdir()
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)


def make_version_1(directory):
    directory.mkdir()
    db = schema._connect(directory / "state.db")
    database = schema.Database(db)
    db.execute("PRAGMA journal_mode = WAL")
    second = schema.crashes_and_unknown_objects.__name__
    schema.migrations.apply(database, stop_before=second)
    db.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f')")
    db.execute(
        "INSERT INTO files (folder, path, parent, status, changed_at) "
        "VALUES ('f', x'61', x'', 'ready', 0)"
    )
    db.close()


def damage(path, offset, length):
    with path.open("r+b") as file:
        file.seek(offset)
        before = file.read(length)
        file.seek(offset)
        file.write(bytes(byte ^ 0x5A for byte in before))
        os.fsync(file.fileno())
