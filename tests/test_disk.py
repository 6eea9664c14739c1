import os

import pytest

from syncd import disk, mounts
from syncd.disk import Found
from syncd.listing import LargeListings


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "root"
    path.mkdir()
    return path


def look(root, *paths):
    return {path: sight.found for path, sight in disk.look(os.fsencode(root), paths).items()}


def test_a_look_distinguishes_files_from_everything_else(root):
    root.joinpath("a").write_bytes(b"x")
    root.joinpath("d").mkdir()
    root.joinpath("link").symlink_to("a")
    assert look(root, b"a", b"d", b"link", b"gone") == {
        b"a": Found.FILE,
        b"d": Found.ABSENT,
        b"link": Found.OTHER,
        b"gone": Found.ABSENT,
    }


def test_files_in_removed_directories_are_absent_by_the_nearest_existing_ancestor(root):
    root.joinpath("a/b").mkdir(parents=True)
    root.joinpath("file").write_bytes(b"")
    paths = (b"a/x/1", b"a/y/1", b"a/b/c/d/1", b"z/1", b"file/1", b"file/d/1")
    assert set(look(root, *paths).values()) == {Found.ABSENT}


@pytest.mark.parametrize("folds", [True, False])
def test_on_a_case_insensitive_filesystem_only_the_listed_name_exists(root, monkeypatch, folds):
    """A file renamed from `A` to `a` can still be opened as `A`, yet `A` is absent."""
    for name in ("A", "b"):
        (root / name).write_bytes(b"")
    monkeypatch.setattr(mounts, "folds_case", lambda _: folds)
    monkeypatch.setattr(disk, "_names", lambda _: frozenset({b"a", b"b"}))
    found = Found.ABSENT if folds else Found.FILE
    assert look(root, b"A", b"b") == {b"A": found, b"b": Found.FILE}


def test_on_a_case_insensitive_filesystem_a_file_newer_than_the_listing_exists(root, monkeypatch):
    for name in ("a", "b"):
        (root / name).write_bytes(b"")
    listings = [frozenset({b"a"}), frozenset({b"a", b"b"})]
    monkeypatch.setattr(mounts, "folds_case", lambda _: True)
    monkeypatch.setattr(disk, "_names", lambda _: listings.pop(0))
    assert look(root, b"a", b"b") == {b"a": Found.FILE, b"b": Found.FILE}


@pytest.mark.parametrize("path", [b"link/b/1", b"link/1", b"dangling/1", b"link/x/y/1"])
def test_paths_beneath_a_link_are_neither_followed_nor_absent(root, path):
    root.joinpath("a/b").mkdir(parents=True)
    root.joinpath("a/b/1").write_bytes(b"")
    root.joinpath("link").symlink_to("a")
    root.joinpath("dangling").symlink_to("nowhere")
    assert look(root, path) == {path: Found.OTHER}


def test_many_removed_directories_take_one_listing_of_their_parent(root, monkeypatch):
    listed = []
    names = disk._names
    listings = LargeListings(lambda fd: listed.append(fd) or names(fd))
    monkeypatch.setattr(disk, "_listings", listings)
    paths = [b"d%d/a" % number for number in range(100)]
    assert set(look(root, *paths).values()) == {Found.ABSENT}
    assert len(listed) == 1


def test_nothing_is_absent_beneath_a_missing_root(root):
    root.rmdir()
    assert set(look(root, b"a", b"d/b").values()) == {Found.UNREADABLE}


def test_nothing_is_absent_when_listing_and_stat_disagree(root, monkeypatch):
    monkeypatch.setattr(disk, "_listings", LargeListings(lambda _: iter([b"a", b"d"])))
    assert set(look(root, b"a", b"d/b").values()) == {Found.UNREADABLE}


def test_nothing_is_absent_when_the_listing_fails(root, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "_listings", LargeListings(fail))
    sights = disk.look(os.fsencode(root), [b"a", b"d/b"])
    assert {sight.found for sight in sights.values()} == {Found.UNREADABLE}
    assert {sight.error for sight in sights.values()} == {"Input/output error"}
