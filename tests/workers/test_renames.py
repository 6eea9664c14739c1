"""A rename brings a copy along, where the old path is seen to be vacant on the right disk."""

from dataclasses import replace

import pytest

from syncd import mounts
from syncd.identity import RootIdentity
from syncd.mounts import Mount
from syncd.state import folders


@pytest.fixture
def moved(shop):
    """A shop whose one file has left its path, and is there by another name."""
    (shop.root / "d").mkdir()
    shop.drop("d/x", b"content")
    shop.upload()
    shop.upload()
    (shop.root / "d/x").rename(shop.root / "y")
    shop.drop("y", b"content")
    return shop


def uploaded(shop):
    shop.upload()
    shop.upload()
    return len(shop.live()), [copy.status for copy in shop.copies()]


def test_a_renamed_file_takes_its_copy_along(moved):
    assert uploaded(moved) == (1, ["live"])


@pytest.mark.row(5)
def test_no_copy_is_taken_from_a_disk_that_is_not_mounted(moved):
    """The remote file is a copy of the one on that disk: it must not be deleted for this one."""
    gone = RootIdentity("source nfs4 a disk")
    moved.store.write(lambda db: folders.accept_part(db, "f", b"d", gone))
    assert uploaded(moved) == (2, ["live", "live"])


@pytest.mark.row(6)
@pytest.mark.row(65)
def test_nothing_is_taken_or_sent_at_a_root_that_is_not_the_right_one(moved):
    moved.store.write(lambda db: db.conn.execute("UPDATE parts SET inode = '1'"))
    assert uploaded(moved) == (1, ["live"])
    assert moved.file("y").due_at == moved.now + 10


@pytest.mark.row(5)
def test_no_copy_is_taken_from_beneath_what_is_mounted_over_it(moved, monkeypatch):
    """The hidden files come back when the other disk is unmounted."""
    another = Mount("1", 1, b"", "nfs4", source=b"another disk")
    monkeypatch.setattr(mounts, "beneath", lambda _: {b"d": another})
    assert uploaded(moved) == (2, ["live", "live"])


@pytest.mark.row(5)
def test_nothing_is_taken_or_sent_at_a_root_without_its_marker(moved):
    """Its disk may be mounted by halves: what is not seen on it need not be gone."""
    roots = moved.uploader.roots
    roots["f"] = replace(roots["f"], marker=b"marker")
    assert uploaded(moved) == (1, ["live"])
