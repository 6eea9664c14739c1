import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent

from syncd.mounts import kind_of, why_polling
from syncd.watch import inotify, observer as observer_module
from syncd.watch.folder import WatchFolder
from syncd.watch.hints import Hints
from syncd.watch.inotify import Inotify
from syncd.watch.observer import FolderObserver


@pytest.fixture
def watching(root):
    """A started observer, with its hints."""
    hints = Hints(lambda: None)
    observer = FolderObserver(
        folder=WatchFolder("f", os.fsencode(root), watch="native"), hints=hints
    )
    observer.hints = hints
    observer.start()
    yield observer
    observer.stop()


class Gathered:
    """Hints as they come, gathered until they hold what a test waits for."""

    def __init__(self, hints, until):
        self.hints, self.until = hints, until

    def has(self, *paths, removed=False):
        seen = {}

        def all_there():
            seen.update(self.hints.take())
            return all(seen.get(path, not removed) == removed for path in paths) and all(
                path in seen for path in paths
            )

        return self.until(all_there)


@pytest.fixture
def gathered(watching, until):
    return Gathered(watching.hints, until)


def test_it_tells_of_files_made_closed_moved_and_removed(watching, root, gathered):
    root.joinpath("a").write_bytes(b"x")
    assert gathered.has(b"a")
    root.joinpath("a").rename(root / "b")
    assert gathered.has(b"a", removed=True)
    root.joinpath("b").unlink()
    assert gathered.has(b"b", removed=True)


def test_a_moved_file_is_told_of_at_its_new_path(watching, root, gathered):
    root.joinpath("a").write_bytes(b"x")
    root.joinpath("a").rename(root / "b")
    assert gathered.has(b"b")


def test_it_tells_of_files_in_new_and_moved_in_directories(watching, root, tmp_path, gathered):
    root.joinpath("n/e/w").mkdir(parents=True)
    root.joinpath("n/e/w/a").write_bytes(b"x")
    tmp_path.joinpath("out/d").mkdir(parents=True)
    tmp_path.joinpath("out/d/b").write_bytes(b"x")
    tmp_path.joinpath("out").rename(root / "in")
    tmp_path.joinpath("c").write_bytes(b"x")
    tmp_path.joinpath("c").rename(root / "c")
    assert gathered.has(b"n/e/w/a", b"in/d/b", b"c")


def test_a_storm_of_writes_is_one_hint_when_the_file_is_closed(watching, root, until):
    with root.joinpath("a").open("wb", buffering=0) as file:
        for _ in range(1000):
            file.write(b"x")
        file.flush()
        assert until(lambda: len(watching.hints) == 1)
        made_at = watching.hints.last_event_at
        file.write(b"x")
        time.sleep(0.05)
        assert watching.hints.last_event_at == made_at
    assert until(lambda: watching.hints.last_event_at > made_at)
    assert watching.hints.take() == {b"a": False}


def test_it_counts_its_live_watches(watching, root, until):
    assert watching.live_watches == 1
    root.joinpath("a/b").mkdir(parents=True)
    assert until(lambda: watching.live_watches == 3)


def test_counting_a_folders_watches_looks_at_no_others(watching):
    class Counted(frozenset):
        def __iter__(self):
            raise AssertionError("every watch is looked at")

    tree = watching._emitter.tree
    watching._inotify._counted = time.monotonic() + 60, Counted({*tree.watches, 1000, 1001})
    assert watching.live_watches == 1


def descriptors_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_stopping_ends_every_thread_and_descriptor(root):
    threads, descriptors = set(threading.enumerate()), descriptors_open()
    observer = FolderObserver(
        folder=WatchFolder("f", os.fsencode(root), watch="native"), hints=Hints(lambda: None)
    )
    assert set(threading.enumerate()) <= threads
    for _ in range(3):
        observer.start()
        assert observer.kind == "native"
        observer.stop()
        observer.stop()
    assert set(threading.enumerate()) <= threads
    assert descriptors_open() == descriptors


def test_a_root_that_is_a_link_is_watched_where_it_leads(root, tmp_path, until):
    link = tmp_path / "link"
    link.symlink_to(root)
    hints = Hints(lambda: None)
    observer = FolderObserver(
        folder=WatchFolder("f", os.fsencode(link), watch="native"), hints=hints
    )
    observer.start()
    root.joinpath("a").write_bytes(b"x")
    assert until(lambda: b"a" in hints.take())
    observer.stop()


@pytest.mark.row(9)
@pytest.mark.parametrize("which", ["turns", "reader"])
def test_a_dead_thread_is_found_and_the_folder_watched_anew(watching, root, gathered, until, which):
    thread = {
        "turns": watching._inotify.turns,
        "reader": watching._inotify,
    }[which]
    assert watching.check() == ""
    thread.stop()
    thread.join(5)
    assert watching.check() == "a thread of the watcher has ended"
    assert watching.hints.take_scan()
    assert watching.check() == ""
    root.joinpath("a").write_bytes(b"x")
    assert gathered.has(b"a")


@pytest.mark.row(9)
def test_a_failure_inside_watchdog_does_not_end_its_thread_unseen(
    watching, root, gathered, until, monkeypatch
):
    group = watching._emitter.tree
    monkeypatch.setattr(group, "on_event", lambda event: 1 / 0)
    root.joinpath("a").write_bytes(b"x")
    assert until(lambda: watching.hints.scan_asked)
    assert watching.check().startswith("watchdog failed on an event")
    root.joinpath("b").write_bytes(b"x")
    assert gathered.has(b"b")


def test_watches_that_are_all_lost_are_found(watching):
    group = watching._emitter.tree
    group._remove_callbacks(list(group._active_callbacks_by_watch))
    assert watching.check() == "no directory is watched any more"
    assert watching.live_watches == 1


def test_a_replaced_root_is_watched_anew(watching, root, tmp_path, gathered):
    root.rename(tmp_path / "away")
    assert watching.check() == ""
    root.mkdir()
    assert watching.check() == "the folder is back, or another one is in its place"
    root.joinpath("a").write_bytes(b"x")
    assert gathered.has(b"a")


def test_a_renamed_root_asks_for_a_check(watching, root, until):
    root.joinpath("d").mkdir()
    root.joinpath("d").rename(root / "e")
    assert until(lambda: watching.hints.last_event_at)
    assert not watching.hints.take_check()
    root.rename(root.parent / "away")
    assert until(watching.hints.take_check)


def test_a_removed_root_asks_for_a_check(watching, root, until):
    shutil.rmtree(root)
    assert until(watching.hints.take_check)


@pytest.mark.long
@pytest.mark.row(7)
def test_an_overflow_is_counted_and_asks_for_a_scan(watching, root, until):
    reader = watching._inotify
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text("ascii"))
    if queued > 100_000:
        pytest.skip(f"the queue of {queued} events is too long to fill here")
    # Held here, the reader reads one buffer at most, until the queue is over its limit.
    with reader._lock:
        for number in range(queued + 5000):
            os.close(os.open(root / f"{number % 100}", os.O_CREAT | os.O_WRONLY))
    assert until(lambda: watching.hints.scan_asked, 10)
    assert watching.overflows == 1
    assert watching.hints.take_scan() == "the kernel's queue of events overflowed"
    assert watching.check() == ""
    root.joinpath("after").write_bytes(b"x")
    assert until(lambda: b"after" in watching.hints.take())


@pytest.mark.row(8)
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "sysctl -w fs.inotify.max_user_instances="),
        (errno.ENOSPC, "sysctl -w fs.inotify.max_user_watches="),
    ],
)
def test_without_inotify_it_polls_says_why_once_and_tries_again(
    root, monkeypatch, caplog, number, advice
):
    now = [0.0]
    hints = Hints(lambda: None)
    observer = FolderObserver(
        folder=WatchFolder("f", os.fsencode(root), watch="native"),
        hints=hints,
        monotonic=lambda: now[0],
    )

    def refuse(*_):
        raise OSError(number, "limit reached")

    threads = set(threading.enumerate())
    with monkeypatch.context() as limited, caplog.at_level(logging.WARNING):
        method = "__init__" if number == errno.EMFILE else "add_callback"
        limited.setattr(Inotify, method, refuse)
        observer.start()
        assert (observer.kind, observer.kind) == ("polling", "polling")
        assert advice in observer.trouble
        assert set(threading.enumerate()) <= threads
        assert observer.check() == ""
        now[0] += 61
        assert observer.check()
    assert len(caplog.records) == 1
    assert not hints.scan_asked
    now[0] += 61
    assert observer.check()
    assert (observer.kind, observer.trouble) == ("native", "")
    assert hints.scan_asked
    observer.stop()


_LIMITED = """
import os, sys
from syncd.watch.folder import WatchFolder
from syncd.watch.hints import Hints
from syncd.watch.observer import FolderObserver
observer = FolderObserver(
    folder=WatchFolder("f", os.fsencode(sys.argv[1]), watch="native"), hints=Hints(lambda: None)
)
observer.start()
print(observer.kind, observer.live_watches, observer.trouble)
observer.stop()
"""


@pytest.mark.row(8)
def test_the_real_watch_limit_below_the_root_is_told_with_its_remedy(root):
    for number in range(6):
        root.joinpath(f"d{number}").mkdir()
    done = subprocess.run(
        [
            *("unshare", "-U", "-r", "sh", "-c"),
            'echo 4 > /proc/sys/user/max_inotify_watches && exec "$0" "$@"',
            *(sys.executable, "-c", _LIMITED, str(root)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if "unshare" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip(f"user namespaces are not permitted here: {done.stderr[-200:]}")
    kind, watches, trouble = done.stdout.split(" ", 2)
    assert (kind, watches) == ("native", "4"), done.stderr
    assert "sysctl -w fs.inotify.max_user_watches=" in trouble


def test_watchdogs_warnings_do_not_become_errors(root, until):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hints = Hints(lambda: None)
        observer = FolderObserver(
            folder=WatchFolder("f", os.fsencode(root), watch="native"), hints=hints
        )
        observer.start()
        group = observer._emitter.tree
        # It warns that the watch exists already; an error would come out here.
        group._add_callback(group.path)
        observer.stop()


@pytest.mark.row(91)
def test_folders_on_one_filesystem_share_an_instance_and_each_has_its_own_events(
    several, root, until
):
    first, second, third = several
    assert first._inotify is second._inotify is third._inotify
    for name in "abc":
        root.joinpath(name, f"file-{name}").write_bytes(b"x")
    for observer, name in zip(several, "abc", strict=True):
        assert until(lambda o=observer: len(o.hints))
        assert observer.hints.take().keys() == {b"file-" + name.encode()}
        assert observer.live_watches == 1


@pytest.mark.row(91)
def test_a_folder_that_is_watched_no_more_takes_no_event_from_another(several, root, until):
    first, second, third = several
    reader = first._inotify
    first.stop()
    third.stop()
    root.joinpath("b", "new").mkdir()
    root.joinpath("b", "new", "file").write_bytes(b"x")
    assert until(lambda: b"new/file" in second.hints.take())
    assert reader.is_alive()
    second.stop()
    assert not reader.is_alive()


@pytest.mark.row(9)
def test_a_failure_over_one_folders_event_has_that_one_watched_anew(
    several, root, monkeypatch, until
):
    first, second, _ = several
    monkeypatch.setattr(first._emitter.tree, "on_event", lambda event: 1 / 0)
    root.joinpath("a", "file").write_bytes(b"x")
    assert until(lambda: first.hints.scan_asked)
    assert first.check().startswith("watchdog failed on an event")
    assert second.check() == ""
    root.joinpath("a", "again").write_bytes(b"x")
    assert until(lambda: b"again" in first.hints.take())


@pytest.mark.row(9)
def test_a_failure_over_a_directory_that_is_watched_no_more_concerns_no_folder(
    several, root, monkeypatch, until
):
    first, second, third = several
    tried = threading.Event()

    def end_and_fail(event):
        first._inotify._watch_for_wd.pop(event.wd, None)
        tried.set()
        raise ZeroDivisionError

    monkeypatch.setattr(first._emitter.tree, "on_event", end_and_fail)
    root.joinpath("a", "file").write_bytes(b"x")
    assert tried.wait(5)
    root.joinpath("b", "file").write_bytes(b"x")
    assert until(lambda: b"file" in second.hints.take())
    assert second.check() == third.check() == ""


@pytest.mark.row(7)
def test_an_overflow_has_every_folder_that_shares_the_instance_scanned(several):
    several[0]._inotify.handle_event(InotifyEvent(-1, InotifyConstants.IN_Q_OVERFLOW, 0, b""))
    reasons = {observer.hints.take_scan() for observer in several}
    assert reasons == {"the kernel's queue of events overflowed"}
    assert [observer.overflows for observer in several] == [1, 1, 1]


@pytest.mark.row(78)
def test_a_directory_that_hangs_while_it_is_watched_holds_up_no_other_folder(
    several, root, until, monkeypatch
):
    add, go_on = inotify.inotify_add_watch, threading.Event()
    monkeypatch.setattr(
        inotify,
        "inotify_add_watch",
        lambda number, path, mask: (
            path.endswith(b"/a") and go_on.wait(10),
            add(number, path, mask),
        )[1],
    )
    first, second, _ = several
    again = threading.Thread(target=lambda: (first.stop(), first.start()))
    again.start()
    try:
        time.sleep(0.2)
        root.joinpath("b", "file").write_bytes(b"x")
        assert until(lambda: b"file" in second.hints.take())
        assert again.is_alive()
    finally:
        go_on.set()
        again.join()


def test_a_polled_folder_has_no_thread(root):
    threads = set(threading.enumerate())
    observer = FolderObserver(
        folder=WatchFolder("f", os.fsencode(root), watch="polling"), hints=Hints(lambda: None)
    )
    observer.start()
    assert (observer.kind, observer.reason) == ("polling", "by configuration")
    assert observer.check() == ""
    assert set(threading.enumerate()) <= threads


def test_the_filesystem_is_known_by_its_mount():
    assert kind_of(b"/proc/self") == "proc"
    assert kind_of(b"/no/such/thing") == ""


@pytest.mark.parametrize(
    ("kind", "polled"),
    [
        *(("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("fuseblk", True)),
        *(
            ("overlay", True),
            ("9p", True),
            ("lustre", True),
            ("ext4", False),
            ("xfs", False),
            ("tmpfs", False),
        ),
    ],
)
def test_filesystems_that_change_unseen_are_polled_with_a_reason(monkeypatch, root, kind, polled):
    monkeypatch.setattr("syncd.mounts.kind_of", lambda _: kind)
    reason = why_polling(os.fsencode(root))
    assert bool(reason) == polled
    assert not polled or reason.startswith(f"{kind}: ")
    assert observer_module.why_polling is why_polling
