"""A backup is whole, private, and an error that says so where it cannot be made."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from syncd.exceptions import StateError
from syncd.state import files, folders
from syncd.state.database import backups, instance
from syncd.state.database.store import Store, set_fact
from syncd.state.lifecycle import FileStatus


@pytest.fixture
def store(store):
    """A store whose ledger has something in it."""
    store.write(instance.advance_to, 1)
    return store


def test_a_backup_is_whole_private_and_holds_what_was_committed(store):
    store.write(lambda db: set_fact(db, "known", "yes"))
    store.back_up_if_due(0)
    (backup,) = (store.directory / "backups").iterdir()
    assert backup.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT value FROM service WHERE key = 'known'").fetchone() == ("yes",)


def test_a_backup_and_its_name_are_on_the_disk_before_the_oldest_goes(store, monkeypatch):
    """Else a power cut could take the new one, and the old one be gone as well."""
    for day in range(2):
        store.back_up_if_due(day * 86_400.0)
    done, directory = [], store.directory / "backups"

    def noted(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        return fsync(descriptor)

    fsync, unlink = os.fsync, Path.unlink
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "unlink", lambda path: done.append(path) or unlink(path))
    oldest = min(directory.iterdir())
    backups.make(store.directory / "state.db", 2 * 86_400.0)
    newest = max(directory.iterdir())
    assert done == [newest.with_name(f"{newest.name}.new"), directory, oldest]


def test_a_backup_that_cannot_be_written_is_an_error_that_names_both_files(store):
    (store.directory / "backups").write_text("in the way")
    with pytest.raises(StateError, match=r"cannot back up .*state\.db to .*backups"):
        store.back_up_if_due(0)


def test_an_empty_ledger_takes_no_backup_in_the_place_of_a_full_one(tmp_path):
    with closing(Store(tmp_path)) as store:
        store.open(0)
        store.back_up_if_due(0)
        assert not (tmp_path / "backups").exists()
        store.write(instance.advance_to, 1)
        store.back_up_if_due(1)
    assert len(list((tmp_path / "backups").iterdir())) == 1


def test_a_ledger_that_only_knows_what_to_leave_out_is_backed_up(tmp_path):
    with closing(Store(tmp_path)) as store:
        store.open(0)
        store.write(folders.note, "f", b"/f", None)
        store.write(
            files.insert,
            folder="f",
            path=b"a",
            status=FileStatus.INELIGIBLE,
            fingerprint=None,
            changed_at=0.0,
            is_skipped=True,
        )
        store.back_up_if_due(0)
    assert len(list((tmp_path / "backups").iterdir())) == 1
