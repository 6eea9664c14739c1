"""Whose the state directory is, and what may be in it."""

import os
from contextlib import closing

import pytest

from syncd.exceptions import StateError
from syncd.state.database.lock import LOCK_NAME
from syncd.state.database.store import Store

THEIRS = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def opening(directory):
    store = Store(directory)
    try:
        store.open(1.0)
    finally:
        store.close()


@pytest.mark.row(83)
@needs_root
def test_a_directory_of_another_user_is_refused_and_left_as_it_is(tmp_path):
    theirs = tmp_path / "state"
    theirs.mkdir()
    theirs.chmod(0o777)
    os.chown(theirs, THEIRS, THEIRS)
    with pytest.raises(StateError, match=f"belongs to user {THEIRS}, and syncd runs as user 0"):
        opening(theirs)
    assert list(theirs.iterdir()) == []
    assert theirs.stat().st_mode & 0o777 == 0o777


@pytest.mark.row(83)
@pytest.mark.parametrize(
    "name", ["lock", "backups", "instance.json", "state.db", "control.sock", "any"]
)
def test_a_link_in_it_is_refused_and_not_followed(tmp_path, name):
    target = tmp_path / "target"
    target.write_text("of somebody else's")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / name).symlink_to(target)
    with pytest.raises(StateError, match=f"{name} is a link"):
        opening(state)
    assert target.read_text() == "of somebody else's"
    assert [entry.name for entry in state.iterdir()] == [name]


@pytest.mark.row(83)
def test_a_link_that_comes_in_the_last_moment_does_not_have_its_target_cut(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_text("of somebody else's")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / LOCK_NAME).symlink_to(target)
    monkeypatch.setattr("syncd.state.database.directory.prepare", lambda _: None)
    with pytest.raises(StateError, match="cannot use the state directory"):
        opening(state)
    assert target.read_text() == "of somebody else's"


@pytest.mark.row(83)
@needs_root
def test_a_file_of_another_user_in_it_is_refused(tmp_path):
    state = tmp_path / "state"
    opening(state)
    os.chown(state / "state.db", THEIRS, THEIRS)
    with pytest.raises(StateError, match=rf"state\.db belongs to user {THEIRS}"):
        opening(state)


def test_the_directory_itself_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "private")
    opening(tmp_path / "state")
    assert (tmp_path / "private" / "state.db").exists()


def test_a_start_that_finds_all_as_it_was_left_writes_nothing(tmp_path, monkeypatch):
    def changes():
        store = Store(tmp_path / "state")
        with closing(store):
            store.open(1.0)
            store.bind("https://a.example", 1.0, sandbox=False, advice="")
            return store.write(lambda db: db.conn.total_changes)

    assert changes() > 0
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(descriptor) or fsync(descriptor)
    )
    assert (changes(), synced) == (0, [])
