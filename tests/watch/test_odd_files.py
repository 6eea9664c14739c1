"""One odd file, directory, rule or name stops nothing but itself."""

import os
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from syncd import disk
from syncd.descent import Descent
from syncd.disk import Fingerprint
from syncd.exceptions import StateWriteError
from syncd.listing import Names
from syncd.state import observations
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy
from syncd.watch import known_directory, watched_tree

#: More levels than Python has frames for.
DEPTH = 1200


def make_deep(root, depth, name="d"):
    """Make a tree deeper than one path may say, with a file at its end; return that file's path."""
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    return b"/".join([os.fsencode(name)] * depth + [b"file"])


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def remove(path):
    """Remove a tree of any depth: Python's own rmtree recurses."""
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.mark.row(71)
@pytest.mark.parametrize("year", [1600, 2300])
def test_a_date_that_the_table_cannot_hold_stops_no_file(place, year):
    for number in range(5):
        place.write(b"good%d" % number)
    place.write(b"odd")
    subprocess.run(["touch", "-d", f"{year}-01-01", place.root / "odd"], check=True)
    place.later()
    assert place.scan().complete
    assert set(place.statuses().values()) == {"ready"}
    assert len(place.statuses()) == 6
    assert place.scan().changed == 0
    place.write(b"later")
    place.look(b"odd", b"later")
    assert b"later" in place.statuses()


@pytest.mark.long
@pytest.mark.row(71)
def test_a_tree_of_any_depth_stops_no_file(place):
    path = make_deep(place.root, DEPTH)
    place.write(b"other")
    try:
        place.later()
        report = place.scan()
        assert (report.complete, report.files, report.directories) == (True, 2, DEPTH + 1)
        assert place.statuses() == {path: "ready", b"other": "ready"}
        place.write(b"later")
        place.look(path, b"later", path + b"/no/such")
        assert place.statuses().keys() == {path, b"other", b"later"}
    finally:
        remove(place.root / "d")
    place.scan()
    assert path not in place.statuses()


@pytest.mark.long
@pytest.mark.row(71)
def test_a_deep_tree_that_comes_while_it_is_watched_is_found_and_stops_no_event(place, until):
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    path = make_deep(place.root, DEPTH)
    try:
        place.write(b"other")
        assert until(lambda: (place.watched.look_hints(), b"other" in place.statuses())[1])
        assert place.watched.observer.kind == "native"

        def found():
            place.later(10)
            place.watched.check_all()
            place.watched.scan_if_due()
            return path in place.statuses()

        # Directories too deep for a watch are polled.
        assert until(found, 20)
        assert not place.watched.health().trouble
    finally:
        remove(place.root / "d")


@pytest.mark.row(71)
def test_a_rule_that_is_no_utf8_fails_alone(place):
    place.synced(b"caf\xe9/x.log", b"d/x\xe9.log", b"a")
    place.write(b"caf\xe9/.syncdignore", b"*.log\n")
    place.write(b"d/.syncdignore", b"x\xe9*\n")
    place.write(b"a", b"changed")
    place.write(b"new")
    place.later()
    assert place.scan().complete
    assert place.statuses() == {
        b"caf\xe9/x.log": "ineligible",
        b"d/x\xe9.log": "ineligible",
        b"a": "ready",
        b"new": "ready",
    }
    assert place.files()[b"d/x\xe9.log"].error.endswith("line 1: x\\xe9*")


@pytest.mark.row(71)
def test_a_rule_that_cannot_be_applied_fails_alone(place, monkeypatch):
    place.write(b"bad")
    place.write(b"good")
    entry = place.watched._rules.entry

    def fail(path, **more):
        if path == b"bad":
            raise RecursionError("too deep")
        return entry(path, **more)

    monkeypatch.setattr(place.watched._rules, "entry", fail)
    place.later()
    assert place.scan().complete
    assert place.statuses() == {b"bad": "unreadable", b"good": "ready"}
    assert place.files()[b"bad"].error == "it cannot be judged: too deep"
    place.write(b"more")
    place.look(b"bad", b"more")
    assert b"more" in place.statuses()


@pytest.mark.row(71)
def test_a_sighting_that_cannot_be_recorded_fails_alone_and_says_why(place):
    place.scan()
    seen = [
        Observation(b"a", Seen.PRESENT, Fingerprint(1, 1, 1, 1)),
        Observation(b"bad", Seen.PRESENT, Fingerprint(1, 1 << 70, 1, 1)),
        Observation(b"b", Seen.PRESENT, Fingerprint(2, 1, 1, 1)),
    ]
    changed = place.store.write(
        lambda db: observations.record(
            db,
            "f",
            seen,
            settling=Settling(5.0, 60.0),
            policies={"f": Policy()},
            now=place.now(),
        )
    )
    assert changed == 3
    assert place.statuses() == {b"a": "ready", b"bad": "unreadable", b"b": "ready"}
    assert "cannot be recorded" in place.files()[b"bad"].error


# Directories of any size


@pytest.fixture
def small_batches(monkeypatch):
    """Every directory of more than ten files counts as large."""
    monkeypatch.setattr(known_directory, "ROWS", 10)
    monkeypatch.setattr("syncd.watch.scan_pass.ENTRIES", 7)


@pytest.mark.long
@pytest.mark.row(87)
def test_a_large_directory_is_compared_batch_by_batch(place, small_batches, monkeypatch):
    names = [b"d/%02d" % number for number in range(35)]
    place.synced(*names, b"a")
    with monkeypatch.context() as at_rest:
        looked_at = []
        at_rest.setattr(disk, "look", lambda _, paths: looked_at.extend(paths) or {})
        assert place.scan().changed == 0
        assert looked_at == []
    for name in names[3:8]:
        (place.root / os.fsdecode(name)).unlink()
    place.write(names[10], b"new content")
    place.write(b"d/new")
    place.later()
    report = place.scan()
    assert (report.changed, report.missing) == (7, 5)
    assert sorted(place.missing()) == names[3:8]
    (place.root / "d").rename(place.root / "e")
    place.later()
    report = place.scan()
    assert report.missing == 31
    # The new one had no copy: nothing of it is left to know.
    assert len(place.missing()) == 35


@pytest.mark.long
@pytest.mark.row(87)
def test_a_large_directory_that_was_removed_is_missing_with_one_hint(
    place, small_batches, monkeypatch
):
    monkeypatch.setattr("syncd.watch.evidence.BATCH", 10)
    names = [b"d/%02d" % number for number in range(35)]
    place.synced(*names)
    (place.root / "d").rename(place.root.parent / "away")
    place.look(b"d", removal_seen=True)
    assert sorted(place.missing()) == names


@pytest.mark.row(87)
def test_a_large_directory_is_listed_once_while_it_does_not_change(tmp_path, monkeypatch):
    monkeypatch.setattr(Names, "_RUN", 10)
    for number in range(25):
        (tmp_path / f"{number}").touch()
    long_ago = 1_000_000_000
    os.utime(tmp_path, (long_ago, long_ago))
    listed = []
    monkeypatch.setattr(disk._listings, "_read", lambda fd: listed.append(fd) or disk._names(fd))
    root = os.fsencode(tmp_path)
    gone = [b"gone%d" % number for number in range(3)]

    def looks():
        return {disk.look(root, [path])[path].found for path in gone}

    # The change of its times is too fresh to be relied on.
    assert looks() == {disk.Found.ABSENT}
    assert len(listed) == 3
    monkeypatch.setattr(disk._listings, "_TICK_NS", -1_000_000_000)
    assert looks() == {disk.Found.ABSENT}
    assert len(listed) == 4
    (tmp_path / "gone1").touch()
    assert looks() == {disk.Found.ABSENT, disk.Found.FILE}
    assert len(listed) == 5


def test_a_walk_keeps_few_directories_open_and_follows_no_link(tmp_path):
    make_deep(tmp_path, 50)
    (tmp_path / "d/link").symlink_to(tmp_path)
    before = open_descriptors()
    with Descent(os.fsencode(tmp_path)) as descent:
        for path in (b"/".join([b"d"] * 50), b"d/d", b"", b"d/d/d"):
            there = (tmp_path / os.fsdecode(path)).stat()
            assert os.fstat(descent.enter(path)).st_ino == there.st_ino
        assert open_descriptors() < before + 20
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            descent.enter(b"d/link/d")
        assert os.fstat(descent.enter(b"d")).st_ino == (tmp_path / "d").stat().st_ino
    assert open_descriptors() == before


# Directories that cannot be watched or read


@pytest.fixture
def open_root():
    """A root that every user may enter."""
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        yield Path(above) / "in"


@pytest.mark.row(76)
def test_a_directory_that_cannot_be_read_is_named_at_once_and_watched_once_it_can(
    make_place, until, as_nobody, open_root
):
    if os.geteuid() != 0:
        pytest.skip("needs root, to play another user who lets nobody in")
    place = make_place(open_root)
    open_root.chmod(0o755)
    place.write(b"a").chmod(0o644)
    with as_nobody():
        place.reopen(watch="native", rescan_seconds=100_000.0)
        place.watched.start()
        place.watched.scan_if_due()
        assert place.watched.health().trouble == ""
    with as_nobody():
        # By a process of its own: the watching threads must not see it with root's eyes.
        made = "umask 022; mkdir -m 700 shut && mkdir shut/sub && echo content >shut/sub/file"
        subprocess.run(["sh", "-c", made], user=0, cwd=place.root, check=True)

        def named():
            place.watched.look_hints()
            place.later(2)
            place.watched.scan_if_due()
            return place.watched.health().trouble

        assert until(named).startswith("1 directory cannot be scanned (shut: Permission denied)")
    (place.root / "shut").chmod(0o755)
    with as_nobody():

        def found():
            place.later(6)
            place.watched.scan_if_due()
            return b"shut/sub/file" in place.statuses()

        assert until(found)
        assert place.watched.health().trouble == ""
        watched = place.watched.observer.live_watches
        assert until(lambda: (found(), place.watched.observer.live_watches)[1] >= 3), watched
    place.write(b"shut/another")
    with as_nobody():
        assert until(lambda: (place.watched.look_hints(), b"shut/another" in place.statuses())[1])


@pytest.mark.row(91)
@pytest.mark.parametrize("number", [1, 2])
def test_without_threads_the_folder_is_polled_and_says_so(place, monkeypatch, number):
    start, started = threading.Thread.start, []

    def refuse(thread):
        started.append(thread)
        if len(started) >= number:
            raise RuntimeError("can't start new thread")
        start(thread)

    place.reopen(watch="native")
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        before = open_descriptors()
        place.watched.start()
        assert open_descriptors() == before
    assert (place.watched.observer.kind, place.watched.health().watch) == ("polling", "polling")
    assert "no thread is to be had for watching: raise TasksMax=" in place.watched.health().trouble
    assert not [thread for thread in started if thread.is_alive()]
    place.write(b"a")
    place.watched.scan_if_due()
    assert place.statuses() == {b"a": "settling"}
    place.later(70)
    place.watched.check_all()
    assert place.watched.observer.kind == "native"
    assert place.watched.health().trouble == ""


def test_a_tree_that_is_made_at_once_is_walked_once(place, until, monkeypatch):
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    listed = []
    entries = watched_tree._entries
    monkeypatch.setattr(watched_tree, "_entries", lambda path: listed.append(path) or entries(path))
    deep = "/".join(["d"] * 200)
    place.write(os.fsencode(deep) + b"/file")
    place.write(b"other")
    assert until(lambda: place.watched.observer.live_watches == 201)
    place.caught_up()
    assert len(listed) == len(set(listed)) == 200
    path = os.fsencode(deep) + b"/file"
    assert until(lambda: (place.watched.look_hints(), path in place.statuses())[1])


def test_a_flood_of_files_in_a_new_directory_is_left_to_a_scan(place, until, monkeypatch, tmp_path):
    monkeypatch.setattr(watched_tree, "LIMIT", 20)
    monkeypatch.setattr("syncd.watch.inotify.LIMIT", 20)
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    (tmp_path / "d").mkdir()
    for number in range(50):
        (tmp_path / f"d/{number}").touch()
    (tmp_path / "d").rename(place.root / "d")
    assert until(lambda: place.watched.hints.scan_asked)


@pytest.mark.row(1)
def test_a_scan_that_fails_is_told_and_made_again(place, monkeypatch):
    place.write(b"a")
    with monkeypatch.context() as full:

        def fail(*_):
            raise StateWriteError("database or disk is full")

        full.setattr(place.watched._root, "record", fail)
        with pytest.raises(StateWriteError):
            place.watched.scan_if_due()
    assert place.watched.health().trouble == "the last scan failed: database or disk is full"
    assert place.watched.hints.scan_asked
    place.later(5)
    assert place.watched.scan_if_due() > 0
    assert place.statuses() == {}
    place.later(6)
    place.watched.scan_if_due()
    assert place.statuses() == {b"a": "ready"}
    assert place.watched.health().trouble == ""
