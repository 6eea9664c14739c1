import os
import subprocess
import sys
import time

import pytest

from syncd.watch.writing import BELIEVED_SECONDS, Writing


@pytest.fixture
def started(place):
    """A place that is watched natively, scanned once."""
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    return place


def reaches(place, until, name, status):
    """Look at what events hint at, and at what is due, until a file has that status."""

    def look():
        place.watched.look_hints()
        place.watched.look_due()
        return place.statuses().get(name) == status

    return until(look)


@pytest.mark.row(19)
def test_a_file_that_is_open_is_not_ready_however_long_its_writer_pauses(started, until):
    with (started.root / "a").open("wb", buffering=0) as file:
        file.write(b"first half")
        assert until(lambda: started.watched.observer.writing.has(b"a"))
        for _ in range(3):
            started.later(60)
            started.scan()
            started.watched.look_due()
            assert started.statuses() == {b"a": "settling"}
        assert started.files()[b"a"].is_open
        file.write(b"second half")
    started.closed()
    started.later(60)
    assert reaches(started, until, b"a", "ready")
    assert not started.files()[b"a"].is_open


@pytest.mark.row(19)
def test_a_known_file_that_is_written_to_in_place_waits_for_its_close(started, until):
    started.synced(b"a")
    with (started.root / "a").open("ab", buffering=0) as file:
        file.write(b"more")
        assert until(lambda: started.watched.observer.writing.has(b"a"))
        started.later(60)
        started.scan()
        started.later(60)
        started.scan()
        assert started.statuses() == {b"a": "settling"}
        assert started.files()[b"a"].settling_since is not None
    started.closed()
    started.later(60)
    assert reaches(started, until, b"a", "ready")
    assert started.files()[b"a"].settling_since is None


@pytest.mark.row(18)
def test_a_file_that_was_moved_in_whole_waits_for_no_close(started, until, tmp_path):
    tmp_path.joinpath("done").write_bytes(b"whole")
    tmp_path.joinpath("done").rename(started.root / "a")
    began = time.monotonic()
    started.later(60)
    assert reaches(started, until, b"a", "ready")
    assert time.monotonic() - began < 5
    assert not started.watched.observer.writing.has(b"a")


def test_a_hard_link_waits_for_no_close(started, until, tmp_path):
    tmp_path.joinpath("done").write_bytes(b"whole")
    os.link(tmp_path / "done", started.root / "a")
    started.later(60)
    assert reaches(started, until, b"a", "ready")


def test_files_of_a_directory_that_was_copied_in_wait_for_no_close_that_was_missed(started, until):
    for number in range(30):
        started.write(b"d%d/e/a" % number)
    started.closed()
    started.later(60)

    def all_ready():
        started.watched.look_hints()
        started.watched.look_due()
        statuses = started.statuses()
        return len(statuses) == 30 and set(statuses.values()) == {"ready"}

    assert until(all_ready)


def test_without_settling_a_file_is_ready_at_its_close_and_not_before(place, until, tmp_path):
    place.reopen(watch="native", settle_seconds=0)
    place.watched.start()
    place.watched.scan_if_due()
    with (place.root / "a").open("wb", buffering=0) as file:
        file.write(b"half")
        assert until(lambda: place.watched.observer.writing.has(b"a"))
        assert reaches(place, until, b"a", "settling")
    assert reaches(place, until, b"a", "ready")
    tmp_path.joinpath("done").write_bytes(b"whole")
    tmp_path.joinpath("done").rename(place.root / "b")
    assert reaches(place, until, b"b", "ready")


def test_a_writer_that_is_killed_has_closed_its_file(started, until):
    program = "import sys, time; f = open(sys.argv[1], 'wb', 0); f.write(b'x'); time.sleep(60)"
    writer = subprocess.Popen([sys.executable, "-c", program, started.root / "a"])
    assert until(lambda: started.watched.observer.writing.has(b"a"))
    writer.kill()
    writer.wait()
    started.closed()
    started.later(60)
    assert reaches(started, until, b"a", "ready")


def test_a_file_that_is_renamed_while_it_is_written_is_still_being_written(started, until):
    with (started.root / "a").open("wb", buffering=0) as file:
        file.write(b"x")
        assert until(lambda: started.watched.observer.writing.has(b"a"))
        (started.root / "a").rename(started.root / "b")
        assert until(lambda: started.watched.observer.writing.has(b"b"))
        assert not started.watched.observer.writing.has(b"a")


def test_lost_events_leave_no_file_open_for_ever(started, until):
    with (started.root / "a").open("wb", buffering=0) as file:
        file.write(b"x")
        assert until(lambda: started.watched.observer.writing.has(b"a"))
        started.watched.observer._lost("a test")
        assert not started.watched.observer.writing.has(b"a")


def test_what_was_not_written_to_for_an_hour_is_no_longer_believed_to_be_open():
    now = 0.0
    writing = Writing(b"/r", monotonic=lambda: now)
    writing.begun(b"/r/a")
    now = BELIEVED_SECONDS - 1
    assert writing.has(b"a")
    now = BELIEVED_SECONDS
    assert not writing.has(b"a")


def test_a_moved_tree_takes_what_is_written_in_it_along():
    writing = Writing(b"/r")
    writing.begun(b"/r/d/a")
    writing.begun(b"/r/d0")
    writing.moved(b"/r/d", b"/r/e")
    assert [writing.has(path) for path in (b"d/a", b"e/a", b"d0")] == [False, True, True]


def test_the_book_is_bounded(monkeypatch):
    monkeypatch.setattr("syncd.watch.writing.LIMIT", 10)
    writing = Writing(b"/r")
    for number in range(25):
        writing.begun(b"/r/%d" % number)
    assert [n for n in range(25) if writing.has(b"%d" % n)] == list(range(15, 25))
