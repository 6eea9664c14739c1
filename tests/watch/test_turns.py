"""The folders on one filesystem share two threads, and nothing else."""

import logging
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent
from watchdog.observers.inotify_move_event_grouper import PathedInotifyEvent

from syncd import mounts
from syncd.watch import inotify
from syncd.watch.turns import Pending, Turns
from syncd.watch.watched_tree import WatchedTree


@pytest.fixture
def elsewhere(root):
    """A directory on another filesystem than the root."""
    places = [place for place in ("/dev/shm", "/var/tmp", "/tmp") if os.access(place, os.W_OK)]
    others = [place for place in places if Path(place).stat().st_dev != root.stat().st_dev]
    if not others:
        pytest.skip("no other filesystem is at hand")
    with tempfile.TemporaryDirectory(prefix="syncd-", dir=others[0]) as path:
        yield Path(path)


@pytest.fixture
def hang(monkeypatch):
    """Let a folder's events hang until `go_on` is set; `is_hanging` tells that one does."""
    go_on = threading.Event()

    def make(observer):
        handler, is_hanging = observer._emitter._handler, threading.Event()
        dispatch = handler.dispatch
        monkeypatch.setattr(
            handler,
            "dispatch",
            lambda event: (is_hanging.set(), go_on.wait(20), dispatch(event)),
        )
        return is_hanging

    make.go_on = go_on
    yield make
    go_on.set()


def event(kind, name=b"f", cookie=1):
    return PathedInotifyEvent(InotifyEvent(1, kind, cookie, name), b"/root/" + name)


MOVED_FROM = event(InotifyConstants.IN_MOVED_FROM, b"a")
MOVED_TO = event(InotifyConstants.IN_MOVED_TO, b"b")
CREATED = event(InotifyConstants.IN_CREATE)


def test_a_file_that_was_moved_away_is_waited_for_and_what_follows_waits_too(until):
    pending = Pending()
    pending.put_event(MOVED_FROM)
    pending.put_event(CREATED)
    assert pending.read_event() is None
    assert until(pending.read_event) == MOVED_FROM
    assert pending.read_event() == CREATED
    assert pending.due_at() is None


def test_a_move_is_handed_on_as_soon_as_both_ends_are_known():
    pending = Pending()
    pending.put_event(MOVED_FROM)
    waits_until = pending.due_at()
    pending.put_event(MOVED_TO)
    assert pending.due_at() < waits_until
    assert pending.read_event() == (MOVED_FROM, MOVED_TO)


def test_another_folder_on_the_same_filesystem_needs_no_other_thread(several, observe, root):
    threads = set(threading.enumerate())
    assert observe(root / "d").kind == "native"
    assert set(threading.enumerate()) <= threads


def test_a_file_that_was_moved_away_holds_up_no_other_folder(several, root, until, monkeypatch):
    first, second, _ = several
    monkeypatch.setattr(first._emitter.tree.pending._queue, "delay", 60.0)
    os.mkfifo(root / "a" / "file")
    assert until(first.hints.take)
    root.joinpath("a", "file").rename(root / "away")
    assert until(first._emitter.tree.pending.due_at)
    root.joinpath("b", "file").write_bytes(b"x")
    assert until(lambda: b"file" in second.hints.take())
    assert not first.hints.take()


def test_a_move_between_two_folders_is_a_removal_in_one_and_a_file_in_the_other(
    several, root, until
):
    first, second, _ = several
    os.mkfifo(root / "a" / "file")
    assert until(first.hints.take)
    root.joinpath("a", "file").rename(root / "b" / "file")
    assert until(second.hints.take) == {b"file": False}
    assert until(first.hints.take) == {b"file": True}


def test_the_events_of_one_folder_keep_their_order(several, root, until, monkeypatch):
    monkeypatch.setattr(inotify, "AT_ONCE", 2)
    told = []
    for number, observer in enumerate(several[:2]):
        monkeypatch.setattr(
            observer.hints, "add", lambda path, n=number, **_: told.append((n, int(path)))
        )
    for number in range(200):
        for name in "ab":
            os.mkfifo(root / name / f"{number}")
    assert until(lambda: len(told) == 400)
    for folder in (0, 1):
        assert [path for n, path in told if n == folder] == list(range(200))


@pytest.mark.row(9)
def test_a_folder_whose_event_cannot_be_handed_on_is_watched_anew_alone(
    several, root, until, monkeypatch
):
    first, second, third = several
    monkeypatch.setattr(first._emitter, "build_and_queue_event", lambda _: 1 / 0)
    root.joinpath("a", "file").write_bytes(b"x")
    assert until(lambda: first.hints.scan_asked)
    assert second.check() == third.check() == ""
    root.joinpath("b", "file").write_bytes(b"x")
    assert until(lambda: b"file" in second.hints.take())
    assert first.hints.take_check()
    assert first.check().startswith("an event could not be handed on")
    root.joinpath("a", "again").write_bytes(b"x")
    assert until(lambda: b"again" in first.hints.take())


@pytest.mark.row(78)
def test_a_folder_that_hangs_holds_up_none_on_another_filesystem(
    observe, hang, root, elsewhere, until
):
    first, other = observe(root / "a"), observe(elsewhere / "b")
    is_hanging = hang(first)
    root.joinpath("a", "file").write_bytes(b"x")
    assert is_hanging.wait(5)
    elsewhere.joinpath("b", "file").write_bytes(b"x")
    assert until(lambda: b"file" in other.hints.take())
    other.stop()
    other.start()
    elsewhere.joinpath("b", "again").write_bytes(b"x")
    assert until(lambda: b"again" in other.hints.take())


@pytest.mark.row(78)
def test_beside_a_folder_that_hangs_others_are_stopped_and_started_without_delay(
    several, hang, root, until, monkeypatch, caplog
):
    monkeypatch.setattr(inotify, "JOIN_SECONDS", 0.05)
    first, second, third = several
    is_hanging = hang(first)
    root.joinpath("a", "file").write_bytes(b"x")
    assert is_hanging.wait(5)
    with caplog.at_level(logging.WARNING):
        second.stop()
        second.start()
        assert not caplog.records
        first.stop()
    assert "a thread of the watcher hangs" in caplog.text
    hang.go_on.set()
    for observer, name in ((second, "b"), (third, "c")):
        root.joinpath(name, "file").write_bytes(b"x")
        assert until(lambda o=observer: b"file" in o.hints.take())


def test_a_folder_that_was_stopped_tells_of_nothing_more(several, hang, root, until):
    first, second, _ = several
    is_hanging = hang(first)
    for name in ("told", "untold"):
        os.mkfifo(root / "a" / name)
    assert is_hanging.wait(5)
    stopping = threading.Thread(target=first.stop)
    stopping.start()
    stopping.join(0.1)
    assert stopping.is_alive()
    hang.go_on.set()
    stopping.join(5)
    assert first.hints.take().keys() == {b"told"}
    root.joinpath("b", "file").write_bytes(b"x")
    assert until(lambda: b"file" in second.hints.take())
    assert not first.hints.take()


def a_directory_comes(root):
    root.joinpath("away").mkdir()
    for number in range(20):
        os.mkfifo(root / "away" / f"{number}")
    root.joinpath("away").rename(root / "a" / "came")


def test_a_folder_that_was_stopped_tells_no_more_of_a_directory_that_came(several, hang, root):
    first, *_ = several
    is_hanging = hang(first)
    a_directory_comes(root)
    assert is_hanging.wait(5)
    first._emitter.stop()
    hang.go_on.set()
    first.stop()
    assert not first.hints.take()


def test_the_files_of_a_directory_that_came_are_told_of_before_later_events(
    several, hang, root, until, monkeypatch
):
    first, *_ = several
    told, is_hanging = [], hang(first)
    monkeypatch.setattr(first.hints, "add", lambda path, **_: told.append(path))
    a_directory_comes(root)
    assert is_hanging.wait(5)
    os.mkfifo(root / "a" / "later")
    assert until(first._emitter.tree.pending.due_at)
    hang.go_on.set()
    assert until(lambda: len(told) == 21)
    assert told[-1] == b"later"


def test_an_event_from_before_the_watching_has_begun_is_told_of(observe, root, until, monkeypatch):
    def make(*args, **settings):
        tree = WatchedTree(*args, **settings)
        os.mkfifo(root / "a" / "early")
        assert until(tree.pending.due_at)
        return tree

    monkeypatch.setattr(inotify, "WatchedTree", make)
    assert until(observe(root / "a").hints.take) == {b"early": False}


def test_an_event_that_comes_during_a_turn_is_handed_on_in_the_next():
    turns, again = Turns(), threading.Event()

    class Folder:
        turns_taken = 0

        def take_turn(self):
            self.turns_taken += 1
            if self.turns_taken > 1:
                again.set()
                return None
            turns.ask(self)
            return time.monotonic() + 60

    turns.start()
    try:
        turns.ask(Folder())
        assert again.wait(5)
    finally:
        turns.stop()
        turns.join(5)


def test_a_directory_with_many_files_holds_up_no_other_folder(several, root, until, monkeypatch):
    monkeypatch.setattr(inotify, "AT_ONCE", 2)
    first, second, _ = several
    told = []

    def has_come(path, **_):
        if not told:
            os.mkfifo(root / "b" / "file")
            assert until(second._emitter.tree.pending.due_at)
        told.append(path)

    monkeypatch.setattr(first.hints, "add", has_come)
    monkeypatch.setattr(second.hints, "add", lambda path, **_: told.append(path))
    a_directory_comes(root)
    assert until(lambda: len(told) == 21)
    assert told.index(b"file") <= 2


@pytest.mark.row(78)
def test_a_directory_that_came_with_a_mount_in_it_is_scanned_because_the_mount_may_hang(
    several, root, until, monkeypatch
):
    monkeypatch.setattr(mounts, "beneath", lambda path: {b"disk": ()} if b"/new" in path else {})
    first, *_ = several
    root.joinpath("a", "old").mkdir()
    os.mkfifo(root / "a" / "old" / "file")
    assert until(lambda: b"old/file" in first.hints.take())
    root.joinpath("a", "old").rename(root / "a" / "new")
    assert until(first.hints.take_scan) == "a directory came with what is mounted in it"
    assert first.hints.take() == {b"old": True}
