import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from syncd import disk, mounts
from syncd.state import scan_index
from syncd.state.lifecycle import FileStatus
from syncd.watch.scan_pass import ScanPass
from syncd.watch.standing import RootState


def test_a_file_that_was_just_written_settles_before_it_is_ready(place):
    place.write(b"a")
    report = place.scan()
    assert (report.files, report.changed, report.complete) == (1, 1, True)
    assert place.statuses() == {b"a": "settling"}
    due_at = place.watched.look_due()
    assert 0 < due_at - place.now() <= 5
    place.later()
    assert place.watched.look_due() is None
    assert place.statuses() == {b"a": "ready"}


def test_an_old_file_is_ready_at_its_first_sight(place):
    place.write(b"a")
    place.later()
    place.scan()
    assert place.statuses() == {b"a": "ready"}


def test_a_file_that_grows_keeps_settling(place):
    path = place.write(b"a", b"1")
    place.scan()
    for content in (b"12", b"123"):
        path.write_bytes(content)
        place.watched.look_due()
        place.scan()
        assert place.statuses() == {b"a": "settling"}
    assert place.files()[b"a"].size == 3


def test_a_scan_of_an_unchanged_tree_writes_nothing(place):
    place.synced(b"a", b"d/b", b"d/e/c")
    place.root.joinpath("d/junk.tmp").write_bytes(b"")
    place.scan()
    before = place.commits
    report = place.scan()
    assert (report.files, report.directories, report.changed) == (3, 3, 0)
    assert place.commits == before


def test_a_scan_asks_the_table_for_several_directories_at_a_time(place, monkeypatch):
    place.synced(*(b"%d/a" % number for number in range(20)))
    asked = []
    expected_in = scan_index.expected_in
    monkeypatch.setattr(
        scan_index,
        "expected_in",
        lambda db, folder, parents, **more: (
            asked.append(len(parents)) or expected_in(db, folder, parents, **more)
        ),
    )
    assert place.scan().changed == 0
    assert (sum(asked), max(asked)) == (21, 8)
    assert len(asked) <= 5


def test_what_changes_after_the_table_was_asked_is_judged_by_a_look_of_its_own(place, monkeypatch):
    place.synced(*(b"%d/a" % number for number in range(5)))
    known = ScanPass._known

    def asked(self, directories):
        found = known(self, directories)
        if b"3" in found:
            monkeypatch.undo()
            place.root.joinpath("3/a").rename(place.root / "3/b")
            place.write("4/a", b"longer")
            place.look(b"3/a", b"3/b", b"4/a")
        return found

    monkeypatch.setattr(ScanPass, "_known", asked)
    assert place.scan().changed == 0
    there = (b"0/a", b"1/a", b"2/a", b"3/b", b"4/a")
    assert place.statuses() == {b"3/a": "missing"} | dict.fromkeys(there, "ready")
    assert place.files()[b"4/a"].size == 6


def test_mirroring_that_is_turned_on_begins_with_the_first_whole_scan(place, monkeypatch):
    place.reopen(mirror_deletions=False)
    place.synced(b"before", b"dark/file", b"after")
    place.root.joinpath("before").unlink()
    place.reopen(mirror_deletions=True)
    entries_of = disk.entries_of

    def fail(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "dark":
            raise OSError(errno.EIO, "Input/output error")
        return entries_of(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "entries_of", fail)
        assert place.scan().unreadable
    place.root.joinpath("dark/file").unlink()
    place.scan()
    place.root.joinpath("after").unlink()
    place.scan()
    verdicts = {path: file.verdict for path, file in place.files().items()}
    assert verdicts == {b"before": "kept", b"dark/file": "kept", b"after": None}


def test_changes_made_while_nobody_watched_are_found(place):
    place.synced(b"changed", b"gone", b"same", b"d/gone", b"d/deep/gone")
    place.write(b"changed", b"something else")
    place.write(b"new")
    place.root.joinpath("gone").unlink()
    place.root.joinpath("d/gone").unlink()
    place.root.joinpath("d/deep/gone").unlink()
    place.root.joinpath("d/deep").rmdir()
    place.reopen()
    report = place.scan()
    assert (report.changed, report.missing) == (5, 3)
    assert place.statuses() == {
        b"changed": "ready",
        b"new": "ready",
        b"same": "ready",
        b"gone": "missing",
        b"d/gone": "missing",
        b"d/deep/gone": "missing",
    }


@pytest.mark.row(17)
def test_new_bytes_of_the_same_size_and_mtime_are_a_change(place):
    place.synced(b"a")
    path = place.root / "a"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    place.scan()
    assert place.files()[b"a"].generation == 2


def test_a_renamed_directory_leaves_its_files_missing_and_brings_new_ones(place):
    place.synced(b"d/a", b"d/e/b")
    place.root.joinpath("d").rename(place.root / "n")
    place.scan()
    assert place.statuses() == {
        b"d/a": "missing",
        b"d/e/b": "missing",
        b"n/a": "ready",
        b"n/e/b": "ready",
    }


@pytest.mark.row(21)
def test_a_file_that_became_a_directory_is_missing_and_back_again_it_is_present(place):
    place.synced(b"x", b"keep")
    place.root.joinpath("x").unlink()
    place.write(b"x/y")
    place.scan()
    assert place.statuses() == {b"x": "missing", b"x/y": "ready", b"keep": "ready"}
    place.root.joinpath("x/y").unlink()
    place.root.joinpath("x").rmdir()
    place.write(b"x")
    place.scan()
    # A file that was never sent needs no row once it is missing.
    assert place.statuses() == {b"x": "ready", b"keep": "ready"}


@pytest.mark.row(4)
def test_a_file_that_vanishes_between_listing_and_stat_is_no_error(place, monkeypatch):
    place.synced(b"a", b"b")

    def remove_first(_device):
        place.root.joinpath("a").unlink(missing_ok=True)
        return False

    # Asked between the listing and the first stat.
    monkeypatch.setattr(mounts, "invents", remove_first)
    report = place.scan()
    assert report.complete
    assert place.statuses() == {b"a": "missing", b"b": "ready"}


@pytest.mark.row(4)
def test_a_file_that_is_back_before_the_second_look_is_not_missing(place, monkeypatch):
    place.synced(b"a", b"b")
    place.root.joinpath("a").rename(place.root / "hidden.tmp")
    look = disk.look

    def back(root, paths):
        place.root.joinpath("hidden.tmp").rename(place.root / "a")
        return look(root, paths)

    monkeypatch.setattr(disk, "look", back)
    assert place.scan().missing == 0
    assert place.missing() == []


@pytest.fixture
def open_root():
    """Make a root that nobody, too, comes to."""
    root = Path(tempfile.mkdtemp(prefix="syncd-", dir="/tmp"))
    root.chmod(0o777)
    yield root
    shutil.rmtree(root)


@pytest.mark.row(3)
def test_an_unreadable_directory_keeps_its_files_and_one_without_x_makes_them_unreadable(
    make_place, open_root, as_nobody
):
    root = open_root
    place = make_place(root)
    with as_nobody():
        for name in (b"shut/a", b"shut/deep/b", b"blind/c", b"open/d"):
            place.write(name)
    place.synced()
    with as_nobody():
        _see_shut_directories(place, root)
    place.later(1000)
    place.watched.look_due()
    place.scan()
    assert set(place.statuses().values()) == {"ready"}
    place.found_again()
    assert place.copies() == ["live"] * 4


def _see_shut_directories(place, root):
    try:
        root.joinpath("shut").chmod(0o000)
        root.joinpath("blind").chmod(0o400)
        report = place.scan()
        assert report.unreadable == {b"shut": "Permission denied"}
        assert place.statuses()[b"blind/c"] == "unreadable"
        assert place.statuses()[b"shut/a"] == "ready"
        place.look(b"shut/a", b"shut/deep/b", b"shut", b"blind/c", removal_seen=True)
        assert place.missing() == []
        assert place.statuses()[b"shut/a"] == "unreadable"
        assert place.copies() == ["live"] * 4
    finally:
        root.joinpath("shut").chmod(0o700)
        root.joinpath("blind").chmod(0o700)


@pytest.mark.row(10)
@pytest.mark.row(11)
def test_names_of_any_bytes_are_seen_and_missed_by_their_very_bytes(place):
    names = [
        b"caf\xe9.mp4",
        b"new\nline",
        b"\x1b]0;x\x07",
        b"n" * 255,
        "\u202egpj".encode(),
        b'"q"',
    ]
    place.synced(*names, b"d\xff/\xfe")
    assert set(place.statuses()) == {*names, b"d\xff/\xfe"}
    place.root.joinpath(os.fsdecode(b"caf\xe9.mp4")).unlink()
    place.root.joinpath(os.fsdecode(b"d\xff/\xfe")).unlink()
    place.scan()
    assert set(place.missing()) == {b"caf\xe9.mp4", b"d\xff/\xfe"}


def _make_odd_things(root):
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("a")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "here").symlink_to(".")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)
        listener.bind("socket")
        os.chdir(here)


@pytest.mark.row(12)
def test_links_fifos_and_sockets_are_passed_over(place):
    place.synced(b"a")
    _make_odd_things(place.root)
    report = place.scan()
    assert (report.files, report.directories) == (1, 1)
    assert place.statuses() == {b"a": "ready"}


@pytest.mark.row(12)
def test_a_link_in_a_known_files_place_releases_its_copy(place):
    place.synced(b"a", b"b")
    place.root.joinpath("a").unlink()
    (place.root / "a").symlink_to("b")
    place.scan()
    assert place.statuses() == {b"a": "ineligible", b"b": "ready"}
    assert sorted(place.copies()) == ["live", "released"]


@pytest.mark.row(56)
def test_a_directory_that_became_a_link_is_not_followed(place, tmp_path):
    place.synced(b"d/a")
    outside = tmp_path / "outside"
    place.root.joinpath("d").rename(outside)
    (place.root / "d").symlink_to(outside)
    report = place.scan()
    assert report.files == 0
    assert (place.statuses(), place.copies()) == ({b"d/a": "ineligible"}, ["released"])


def test_a_file_newly_excluded_is_released_and_taken_up_again(place):
    place.synced(b"a.log", b"cache/b", b"cache/c/d", b"keep")
    place.reopen(exclude=("*.log", "cache/"))
    report = place.scan()
    assert report.files == 1
    assert place.statuses() == {
        b"a.log": "ineligible",
        b"cache/b": "ineligible",
        b"cache/c/d": "ineligible",
        b"keep": "ready",
    }
    assert sorted(place.copies()) == ["live", "released", "released", "released"]
    before = place.commits
    assert place.scan().changed == 0
    assert place.commits == before
    place.reopen()
    place.scan()
    assert set(place.statuses().values()) == {"ready"}
    place.found_again()
    assert place.copies() == ["live"] * 4


def test_an_excluded_file_that_is_gone_is_not_missing(place):
    place.synced(b"a.log", b"cache/b", b"keep")
    place.root.joinpath("a.log").unlink()
    place.root.joinpath("cache/b").unlink()
    place.root.joinpath("cache").rmdir()
    place.reopen(exclude=("*.log", "cache/"))
    place.scan()
    place.look(b"a.log", b"cache/b", removal_seen=True)
    assert place.missing() == []
    assert sorted(place.copies()) == ["live", "released", "released"]


def test_a_scan_that_is_stopped_takes_nothing_for_missing(place):
    place.synced(b"a", b"d/b")
    place.root.joinpath("d/b").unlink()
    place.root.joinpath("d").rmdir()
    place.stopped = True
    assert not place.scan().complete
    assert place.missing() == []


def test_a_scan_notes_itself_in_the_table(place):
    place.synced(b"a", b"d/b")
    row = place.store.read(lambda db: db.conn.execute("SELECT * FROM folders").fetchone())
    assert row["directories"] == 2
    assert row["first_scan_at"] == row["last_scan_at"] == pytest.approx(place.now(), abs=5)
    assert row["last_scan_seconds"] > 0


def test_a_listing_that_breaks_off_takes_nothing_for_missing(place, monkeypatch):
    place.synced(b"d/a", b"d/e/b")
    place.root.joinpath("d/a").unlink()
    scandir = os.scandir

    class Breaking:
        def __init__(self, descriptor):
            self.entries = scandir(descriptor)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.entries.close()

        def __iter__(self):
            raise OSError(5, "Input/output error")

        def __next__(self):
            return next(self.entries)

    inode = place.root.joinpath("d").stat().st_ino
    monkeypatch.setattr(
        os, "scandir", lambda d: Breaking(d) if os.fstat(d).st_ino == inode else scandir(d)
    )
    report = place.scan()
    assert report.unreadable == {b"d": "Input/output error"}
    assert report.state is RootState.OK
    assert place.missing() == []
    assert place.files()[b"d/a"].status is FileStatus.READY
