"""A ledger that has lost something is noticed before anything is sent or deleted on it."""

import json
import shutil

import pytest

from syncd.exceptions import ForeignStateError
from syncd.state import copies, holds, instance
from syncd.state.lifecycle import CopyStatus
from syncd.state.store import Store


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state"


def opened(directory, now=0.0):
    store = Store(directory)
    store.open(now)
    return store


def send_something(store, times=1):
    """Let the ledger have a copy more."""

    def work(db):
        db.conn.execute("INSERT OR IGNORE INTO folders (name, path) VALUES ('f', x'2f')")
        db.conn.execute(
            "INSERT OR IGNORE INTO files (id, folder, path, parent, status, changed_at) "
            "VALUES (1, 'f', x'61', x'', 'ready', 0)"
        )
        for _ in range(times):
            copies.insert(
                db,
                copies.Copy(
                    0, 1, "sy1-x", None, CopyStatus.PLANNED, True, False, 1, "ab", 1, "x/y",
                    None, "direct",
                ),
            )  # fmt: skip

    store.write(work)


def is_lost(store):
    return store.read(holds.is_lost)


def session(directory, times=1):
    store = opened(directory)
    send_something(store, times)
    store.close()
    return store


def remove_database(directory):
    for part in directory.glob("state.db*"):
        part.unlink()


def test_the_same_state_opened_again_has_lost_nothing_and_is_the_same_instance(directory):
    first = opened(directory)
    send_something(first)
    known = first.instance
    first.close()
    again = opened(directory)
    assert (again.instance, is_lost(again)) == (known, False)
    again.close()


@pytest.mark.row(27)
def test_a_database_that_is_gone_holds_everything_and_keeps_the_instance(directory):
    session(directory)
    known = instance.read(directory)
    remove_database(directory)
    store = opened(directory)
    assert is_lost(store)
    assert store.instance == known.id
    store.close()
    assert instance.read(directory) == known, "what was known is not overwritten by what is left"
    # The hold stays from start to start.
    again = opened(directory)
    assert is_lost(again)
    again.close()


@pytest.mark.row(30)
def test_an_older_database_put_back_holds_everything(directory, tmp_path):
    session(directory)
    shutil.copytree(directory, tmp_path / "backup")
    session(directory)
    shutil.copy(tmp_path / "backup" / "state.db", directory)
    store = opened(directory)
    assert is_lost(store)
    store.close()


@pytest.mark.row(30)
def test_no_database_from_before_an_adoption_passes_for_the_one_after_it(directory, tmp_path):
    session(directory, times=50)
    shutil.copytree(directory, tmp_path / "backup")
    remove_database(directory)
    store = opened(directory)
    store.write(lambda db: store.recovered(db, 1.0))
    assert not is_lost(store)
    store.close()
    shutil.copy(tmp_path / "backup" / "state.db", directory)
    store = opened(directory)
    assert is_lost(store)
    store.close()


@pytest.mark.row(29)
def test_a_state_directory_that_was_moved_just_works(directory, tmp_path):
    known = session(directory).instance
    directory.rename(tmp_path / "elsewhere")
    store = opened(tmp_path / "elsewhere")
    assert not is_lost(store)
    assert store.instance != known == ""
    store.close()


def test_a_database_of_another_instance_is_refused_and_neither_file_is_touched(directory, tmp_path):
    session(directory)
    session(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "state.db", directory)
    before = (directory / "instance.json").read_text()
    with pytest.raises(ForeignStateError, match=r"remove instance\.json"):
        opened(directory)
    assert (directory / "instance.json").read_text() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 1}', "\0" * 40])
def test_an_instance_file_that_cannot_be_read_is_written_anew(directory, content):
    session(directory)
    known = json.loads((directory / "instance.json").read_text())
    (directory / "instance.json").write_text(content)
    store = opened(directory)
    assert not is_lost(store)
    store.close()
    assert json.loads((directory / "instance.json").read_text()) == known


def test_the_instance_file_tells_how_far_the_ledger_is_at_its_end(directory):
    session(directory, times=3)
    assert instance.read(directory).progress == 3
