import os
import subprocess
import sys
import time

import pytest

from syncd import lease
from syncd.watch.open_files import BELIEVED_SECONDS, OpenFiles


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
        assert until(lambda: started.watched.observer.open_files.has(b"a"))
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
        assert until(lambda: started.watched.observer.open_files.has(b"a"))
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
    assert not started.watched.observer.open_files.has(b"a")


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
        assert until(lambda: place.watched.observer.open_files.has(b"a"))
        assert reaches(place, until, b"a", "settling")
    assert reaches(place, until, b"a", "ready")
    tmp_path.joinpath("done").write_bytes(b"whole")
    tmp_path.joinpath("done").rename(place.root / "b")
    assert reaches(place, until, b"b", "ready")


def test_a_writer_that_is_killed_has_closed_its_file(started, until):
    program = "import sys, time; f = open(sys.argv[1], 'wb', 0); f.write(b'x'); time.sleep(60)"
    writer = subprocess.Popen([sys.executable, "-c", program, started.root / "a"])
    assert until(lambda: started.watched.observer.open_files.has(b"a"))
    writer.kill()
    writer.wait()
    started.closed()
    started.later(60)
    assert reaches(started, until, b"a", "ready")


def test_a_file_that_is_renamed_while_it_is_written_is_still_being_written(started, until):
    with (started.root / "a").open("wb", buffering=0) as file:
        file.write(b"x")
        assert until(lambda: started.watched.observer.open_files.has(b"a"))
        (started.root / "a").rename(started.root / "b")
        assert until(lambda: started.watched.observer.open_files.has(b"b"))
        assert not started.watched.observer.open_files.has(b"a")


def test_lost_events_leave_no_file_open_for_ever(started, until):
    with (started.root / "a").open("wb", buffering=0) as file:
        file.write(b"x")
        assert until(lambda: started.watched.observer.open_files.has(b"a"))
        started.watched.observer._lost("a test")
        assert started.watched.observer.open_files.has(b"a")
        # Its close will not be told of.
        started.watched.observer.open_files.ended = lambda _: None
    assert not started.watched.observer.open_files.has(b"a")


@pytest.mark.row(75)
@pytest.mark.parametrize("way", ["link", "tmpfile", "mknod", "truncate"])
def test_a_file_that_nobody_has_open_is_ready_at_once(started, until, way):
    target = started.root / "a"
    if way == "link":
        draft = started.root / "a.filepart"
        draft.write_bytes(b"whole")
        os.link(draft, target)
        draft.unlink()
    elif way == "tmpfile":
        descriptor = os.open(started.root, os.O_TMPFILE | os.O_WRONLY, 0o644)
        os.write(descriptor, b"whole")
        # With a directory it follows the link, as linkat(2) has to for this.
        os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor)
        os.close(descriptor)
    elif way == "mknod":
        os.mknod(target, 0o100644)
    else:
        started.synced(b"a")
        os.truncate(target, 3)
        assert until(lambda: started.watched.observer.open_files.paths() == [b"a"])
        started.later(60)
        started.scan()
        assert started.statuses() == {b"a": "ready"}
        assert started.files()[b"a"].sha256 is None
        return
    started.later(60)
    began = time.monotonic()
    assert reaches(started, until, b"a", "ready")
    assert time.monotonic() - began < 5


@pytest.mark.row(75)
def test_a_file_that_is_moved_in_while_it_is_written_waits_for_its_close(started, until, tmp_path):
    with (tmp_path / "draft").open("wb", buffering=0) as file:
        file.write(b"first half")
        (tmp_path / "draft").rename(started.root / "a")
        assert until(lambda: started.watched.observer.open_files.paths() == [b"a"])
        for _ in range(3):
            started.later(120)
            started.scan()
            started.watched.look_due()
            assert started.statuses() == {b"a": "settling"}
        file.write(b"second half")
    started.later(60)
    assert reaches(started, until, b"a", "ready")


@pytest.mark.row(75)
@pytest.mark.parametrize("comes", ["is made", "is moved in"])
def test_a_file_that_is_open_in_a_directory_that_just_came_waits_for_its_close(
    started, until, tmp_path, comes
):
    with (tmp_path / "other").open("wb"):
        pass
    (tmp_path / "d").mkdir()
    with (tmp_path / "d/a").open("wb", buffering=0) as file:
        file.write(b"first half")
        if comes == "is moved in":
            (tmp_path / "d").rename(started.root / "d")
        else:
            # The file is there before the directory can be watched: its making gives no event.
            (started.root / "e").mkdir()
            (tmp_path / "d").rename(started.root / "e/d")
        path = b"d/a" if comes == "is moved in" else b"e/d/a"
        assert until(lambda: started.watched.observer.open_files.has(path))
        for _ in range(2):
            started.later(120)
            started.scan()
            assert started.statuses() == {path: "settling"}
    started.later(60)
    assert reaches(started, until, path, "ready")


def test_the_kernel_tells_who_has_a_file_open_for_writing(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    with path.open("rb") as reader:
        assert lease.is_open_for_writing(reader.fileno()) is False
        with path.open("rb"):
            assert lease.is_open_for_writing(reader.fileno()) is False
        with path.open("ab"):
            assert lease.is_open_for_writing(reader.fileno()) is True
        # It is given back: a writer is not kept waiting, and the holder not killed.
        with path.open("ab"):
            pass


@pytest.mark.long
def test_a_writer_that_meets_a_lease_does_no_harm(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    program = (
        "import sys; from syncd import lease\n"
        "file = open(sys.argv[1], 'rb')\n"
        "print('ready', flush=True)\n"
        "for _ in range(20000): lease.is_open_for_writing(file.fileno())\n"
    )
    command = [sys.executable, "-c", program, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as asking:
        assert asking.stdout.readline() == b"ready\n"
        while asking.poll() is None:
            with path.open("ab"):
                pass
    assert asking.returncode == 0


class Kernel:
    """A stand-in for the kernel's word on a file."""

    def __init__(self, answer=None, size=1):
        self.answer, self.size = answer, size

    def __call__(self, root, path):
        return self.answer, self.size


def book(kernel, clock=lambda: 0.0):
    return OpenFiles(b"/r", monotonic=clock, ask=kernel)


def test_where_the_kernel_does_not_tell_what_is_quiet_for_a_minute_is_closed():
    now = 0.0
    files = book(Kernel(None), lambda: now)
    files.written(b"/r/a")
    now = BELIEVED_SECONDS - 1
    assert files.has(b"a")
    now = BELIEVED_SECONDS
    assert not files.has(b"a")
    assert not files.paths()


def test_where_the_kernel_tells_it_is_believed_for_any_time():
    now = 0.0
    kernel = Kernel(True)
    files = book(kernel, lambda: now)
    files.written(b"/r/a")
    now = 100_000.0
    assert files.has(b"a")
    kernel.answer = False
    assert not files.has(b"a")


def test_content_that_nobody_was_told_to_write_was_linked_there():
    now = 0.0
    kernel = Kernel(None, size=0)
    files = book(kernel, lambda: now)
    files.made(b"/r/a")
    now = 2.0
    assert files.has(b"a")
    kernel.size = 5
    assert not files.has(b"a")


def test_what_came_whole_is_not_believed_to_be_open_where_the_kernel_does_not_tell():
    files = book(Kernel(None))
    files.suspect(b"/r/a")
    assert not files.has(b"a")


def test_a_moved_tree_takes_what_is_written_in_it_along():
    files = book(Kernel(True))
    files.written(b"/r/d/a")
    files.written(b"/r/d0")
    files.moved(b"/r/d", b"/r/e")
    assert [files.has(path) for path in (b"d/a", b"e/a", b"d0")] == [False, True, True]


def test_the_book_is_bounded(monkeypatch):
    monkeypatch.setattr("syncd.watch.open_files.LIMIT", 10)
    files = book(Kernel(True))
    for number in range(25):
        files.written(b"/r/%d" % number)
    assert [n for n in range(25) if files.has(b"%d" % n)] == list(range(15, 25))
