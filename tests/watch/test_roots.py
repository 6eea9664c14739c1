import os
import shutil
import subprocess

import pytest

from syncd import disk
from syncd.watch.roots import RootState

FILES = (b"a", b"b", b"d/c")


def nothing_is_missed(place, reason):
    """Do all that could take a file for missing; none is, and the hold is there."""
    before = place.copies()
    place.watched.check()
    place.scan()
    place.look(*FILES, b"d", removal_seen=True)
    place.watched.look_due()
    place.scan()
    assert place.missing() == []
    assert set(place.holds()) == {reason}
    assert place.copies() == before


def test_a_root_seen_first_is_accepted_without_a_hold(place):
    assert place.watched.check() is RootState.OK
    assert place.holds() == {}


@pytest.mark.row(6)
def test_a_root_that_is_gone_holds_deletions_and_its_return_releases_them(place, tmp_path):
    place.synced(*FILES)
    place.root.rename(tmp_path / "away")
    nothing_is_missed(place, "root_missing")
    hold = place.holds()["root_missing"]
    assert (hold.stops, hold.scope, hold.affects, hold.first) == (
        "deletions",
        "f",
        3,
        ["a", "b", "d/c"],
    )
    assert str(place.root) in hold.message
    assert all(str(place.root) in command for command in hold.commands)
    tmp_path.joinpath("away").rename(place.root)
    assert place.watched.check() is RootState.OK
    assert place.holds() == {}
    assert place.watched.hints.scan_asked
    assert place.scan().changed == 0


@pytest.mark.row(6)
def test_a_file_in_the_roots_place_is_a_missing_root(place, tmp_path):
    place.synced(*FILES)
    place.root.rename(tmp_path / "away")
    place.root.write_text("")
    nothing_is_missed(place, "root_missing")


def test_a_root_that_is_not_there_at_the_first_start_is_taken_once_it_comes(make_place, tmp_path):
    place = make_place(tmp_path / "late")
    place.root.rmdir()
    place.watched.start()
    assert set(place.holds()) == {"root_missing"}
    place.root.mkdir()
    place.write(b"a")
    place.watched.check()
    place.watched.observer.check()
    assert place.holds() == {}
    assert place.watched.vitals().watch == "native"
    assert place.watched.scan_if_due() > 0
    assert place.statuses() == {b"a": "settling"}


@pytest.mark.row(6)
@pytest.mark.parametrize("content", [(), (b"other",), (b"a",)], ids=["empty", "others", "few"])
def test_another_folder_in_its_place_holds_deletions_until_the_right_one_is_back(
    place, tmp_path, content
):
    place.synced(*FILES)
    place.root.rename(tmp_path / "away")
    place.root.mkdir()
    for name in content:
        place.write(name)
    nothing_is_missed(place, "root_replaced")
    shutil.rmtree(place.root)
    tmp_path.joinpath("away").rename(place.root)
    place.watched.check()
    assert place.holds() == {}


@pytest.mark.row(6)
def test_a_whole_copy_of_the_folder_is_taken_for_it(place, tmp_path):
    place.synced(*FILES)
    shutil.copytree(place.root, tmp_path / "copy")
    place.root.rename(tmp_path / "away")
    tmp_path.joinpath("copy").rename(place.root)
    assert place.watched.check() is RootState.OK
    assert place.holds() == {}
    place.scan()
    assert place.missing() == []


def test_a_folder_that_was_moved_is_the_same_at_its_new_path(place, tmp_path):
    place.synced(*FILES)
    place.root.joinpath("b").unlink()
    place.root.rename(tmp_path / "moved")
    place.reopen(path=tmp_path / "moved")
    assert place.watched.check() is RootState.OK
    place.scan()
    assert place.missing() == [b"b"]


def test_a_new_path_without_the_files_deletes_nothing(place, tmp_path):
    place.synced(*FILES)
    moved = tmp_path / "moved"
    moved.mkdir()
    place.reopen(path=moved)
    nothing_is_missed(place, "root_replaced")


@pytest.mark.row(5)
def test_a_root_swapped_between_the_check_and_the_look_slips_nothing_through(
    place, tmp_path, monkeypatch
):
    place.synced(*FILES)
    look = disk.look

    def swapped(root, paths):
        if place.root.joinpath("a").exists():
            place.root.rename(tmp_path / "away")
            place.root.mkdir()
        return look(root, paths)

    monkeypatch.setattr(disk, "look", swapped)
    place.look(*FILES, removal_seen=True)
    assert place.missing() == []
    assert set(place.holds()) == {"root_replaced"}
    assert place.watched.hints.scan_asked


@pytest.mark.row(5)
def test_a_root_swapped_under_a_scan_ends_it_with_nothing_missing(place, tmp_path, monkeypatch):
    place.synced(*FILES)
    known = place.watched._rules.entry

    def swap(path, *, is_dir, files=()):
        if place.root.joinpath("a").exists():
            place.root.rename(tmp_path / "away")
            place.root.mkdir()
        return known(path, is_dir=is_dir, files=files)

    monkeypatch.setattr(place.watched._rules, "entry", swap)
    report = place.scan()
    assert not report.complete
    assert place.missing() == []
    assert set(place.holds()) == {"root_replaced"}


# Real mounts


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def mounts():
    """Mount and unmount; the test is skipped where that is not permitted."""
    made = []

    class Mounts:
        def mount(self, *arguments):
            done = run("mount", *map(str, arguments))
            if done.returncode:
                pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
            made.append(str(arguments[-1]))

        def umount(self, *arguments):
            assert run("umount", *map(str, arguments)).returncode == 0
            made.remove(str(arguments[-1]))

    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    yield Mounts()
    for target in reversed(made):
        run("umount", "-l", target)


@pytest.fixture
def mounted(make_place, mounts, tmp_path):
    """A place on a tmpfs of its own, watched, its files synced; the tmpfs can be mounted again."""
    source, root = tmp_path / "source", tmp_path / "mnt"
    source.mkdir()
    root.mkdir()
    mounts.mount("-t", "tmpfs", "tmpfs", source)
    mounts.mount("--bind", source, root)
    place = make_place(root, watch="native")
    place.watched.start()
    place.synced(*FILES)
    place.remount = lambda: mounts.mount("--bind", source, root)
    return place


@pytest.mark.row(5)
@pytest.mark.parametrize("lazily", [[], ["-l"]], ids=["umount", "umount -l"])
def test_an_unmounted_root_loses_nothing_and_its_remount_makes_no_change(mounted, mounts, lazily):
    mounts.umount(*lazily, mounted.root)
    nothing_is_missed(mounted, "root_replaced")
    mounted.remount()
    mounted.watched.check()
    assert mounted.holds() == {}
    assert mounted.scan().changed == 0
    assert set(mounted.statuses().values()) == {"ready"}


@pytest.mark.row(5)
@pytest.mark.parametrize("others", [(), (b"x", b"y")], ids=["an empty mount", "another folder"])
def test_a_mount_over_the_root_loses_nothing(mounted, mounts, tmp_path, others):
    over = tmp_path / "over"
    over.mkdir()
    for name in others:
        over.joinpath(os.fsdecode(name)).write_bytes(b"x")
    if others:
        mounts.mount("--bind", over, mounted.root)
    else:
        mounts.mount("-t", "tmpfs", "tmpfs", mounted.root)
    nothing_is_missed(mounted, "root_replaced")
    mounts.umount(mounted.root)
    mounted.watched.check()
    assert mounted.holds() == {}
    assert {mounted.statuses()[name] for name in FILES} == {"ready"}


@pytest.mark.row(5)
def test_a_remounted_root_is_watched_again(mounted, mounts, until):
    mounts.umount(mounted.root)
    mounted.watched.check()
    mounted.watched.observer.check()
    mounted.remount()
    mounted.watched.check()
    assert mounted.watched.observer.check()
    mounted.watched.hints.take()
    mounted.write(b"new")
    assert until(lambda: b"new" in mounted.watched.hints.take())


# Markers


@pytest.mark.row(5)
def test_a_root_without_its_marker_is_not_there(place):
    place.write(b".here")
    place.reopen(marker=b".here")
    place.synced(*FILES)
    (place.root / ".here").unlink()
    nothing_is_missed(place, "root_missing")
    assert ".here" in place.holds()["root_missing"].message
    place.write(b".here")
    assert place.watched.check() is RootState.OK
    assert (place.holds(), place.scan().changed) == ({}, 0)


@pytest.mark.row(6)
def test_a_marker_vouches_for_its_folder_on_whatever_mount_it_comes(place, tmp_path):
    place.write(b".here")
    place.reopen(marker=b".here")
    place.synced(*FILES)
    shutil.copytree(place.root, tmp_path / "copy")
    place.root.rename(tmp_path / "away")
    tmp_path.joinpath("copy").rename(place.root)
    assert place.watched.check() is RootState.OK
    place.scan()
    assert (place.holds(), place.missing()) == ({}, [])


def test_another_root_is_taken_when_a_person_says_so(place, tmp_path):
    place.synced(*FILES)
    place.root.rename(tmp_path / "away")
    place.root.mkdir()
    place.write(b"x")
    place.watched.check()
    assert set(place.holds()) == {"root_replaced"}
    assert place.watched.take_root("f")
    assert place.holds() == {}
    place.scan()
    assert sorted(place.missing()) == sorted(FILES)
    place.root.joinpath("x").unlink()
    place.root.rmdir()
    assert not place.watched.take_root("f")
