"""Files and directories in each other's place: what is deleted remotely of them, and when."""

import shutil
from types import SimpleNamespace

import pytest
from watch_place import POLICIES

from syncd import mounts
from syncd.mounts import Mount
from syncd.state import polls
from syncd.state.deletions import Deletions
from syncd.state.ledger import Ledger
from syncd.workers.clock_seen import ClockWatch
from syncd.workers.deleter import Deleter, MirroredFolder

pytestmark = pytest.mark.row(21)


@pytest.fixture
def swaps(place):
    """A place with a deleter, and what that asked to be deleted: paths, as they were synced."""
    place.synced(b"a", b"d/x", b"d/e/y")
    uuids = place.store.read(
        lambda db: dict(
            db.conn.execute(
                "SELECT file_uuid, path FROM copies JOIN files ON files.id = file_id"
            ).fetchall()
        )
    )
    place.deleted = []
    place.deleter = Deleter(
        store=place.store,
        ledger=Ledger(policies=POLICIES, instance=place.store.instance),
        deletions=Deletions(policies=POLICIES),
        mirrored={"f": MirroredFolder(bytes(place.root), 60.0)},
        policies=POLICIES,
        client=SimpleNamespace(delete=lambda uuid: place.deleted.append(uuids[uuid])),
        gate=SimpleNamespace(
            seconds_shut_for_all=lambda: 0.0, failed=lambda _: None, succeeded=lambda: None
        ),
        clock=place.now,
        steady=place.now,
        clocks=ClockWatch(store=place.store, clock=place.now, steady=place.now, boot="boot"),
        pause=lambda _: False,
    )
    place.deleter.step()
    return place


def work(place, seconds=0.0):
    place.later(seconds)
    place.scan()
    place.deleter.step()


def swap(place, name):
    """Put a directory with a file in a file's place, or the other way round."""
    path = place.root / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_bytes(b"a file where a directory was")
    else:
        path.unlink()
        path.mkdir()
        (path / "inside").write_bytes(b"a directory where a file was")


def test_a_file_that_became_a_directory_is_deleted_after_its_grace(swaps):
    swap(swaps, "a")
    work(swaps)
    work(swaps, 55)
    assert swaps.deleted == []
    work(swaps, 10)
    assert swaps.deleted == [b"a"]
    assert swaps.statuses()[b"a/inside"] == "ready"


def test_a_directory_that_became_a_file_takes_its_files_with_it_after_their_grace(swaps):
    swap(swaps, "d")
    work(swaps)
    work(swaps, 55)
    assert swaps.deleted == []
    work(swaps, 10)
    assert sorted(swaps.deleted) == [b"d/e/y", b"d/x"]
    assert swaps.statuses()[b"d"] == "ready"


@pytest.mark.parametrize("name", ["a", "d"])
def test_swapped_and_back_within_the_grace_nothing_is_deleted(swaps, name):
    path, kept = swaps.root / name, swaps.root.parent / "kept"
    path.rename(kept)
    path.write_bytes(b"x") if kept.is_dir() else path.mkdir()
    work(swaps)
    assert swaps.missing()
    work(swaps, 50)
    path.unlink() if kept.is_dir() else path.rmdir()
    kept.rename(path)
    for _ in range(3):
        work(swaps, 61)
    assert (swaps.deleted, swaps.missing()) == ([], [])


@pytest.mark.parametrize("seconds", [30, 300], ids=["inside", "outside"])
def test_deleted_and_made_again_it_is_deleted_only_if_it_was_gone_for_its_grace(swaps, seconds):
    (swaps.root / "a").unlink()
    work(swaps)
    work(swaps, seconds)
    swaps.write("a", b"made again")
    for _ in range(3):
        work(swaps, 61)
    assert swaps.deleted == ([b"a"] if seconds > 60 else [])
    assert swaps.statuses()[b"a"] == "ready"


@pytest.mark.row(12)
@pytest.mark.row(56)
def test_a_directory_that_was_moved_to_another_disk_and_linked_keeps_its_copies(swaps):
    """Links are not followed; but what is behind this one is not gone."""
    real = swaps.root.parent / "real"
    (swaps.root / "d").rename(real)
    work(swaps)
    (swaps.root / "d").symlink_to(real)
    for _ in range(3):
        work(swaps, 61)
    assert swaps.deleted == []
    assert {swaps.statuses()[path] for path in (b"d/x", b"d/e/y")} == {"ineligible"}
    assert swaps.files()[b"d/x"].error == "beneath a link"
    assert swaps.copies().count("released") == 2
    (swaps.root / "d").unlink()
    real.rename(swaps.root / "d")
    work(swaps, 10)
    work(swaps)
    assert swaps.files()[b"d/x"].status == "ready"
    # They are taken up again as soon as the service says that it still has them.
    assert len(swaps.store.read(lambda db: polls.due(db, swaps.now(), 9))) == 2


@pytest.mark.row(5)
@pytest.mark.parametrize("change", [{b"d"}, set()], ids=["a new mount", "unmounted"])
def test_no_second_look_counts_before_a_change_of_mounts_was_judged(swaps, monkeypatch, change):
    """Missing for a moment, back, and then something is mounted there, or not any more."""
    at = {b"d"} - change
    disk = Mount("1", 1, b"", "nfs4", source=b"a disk")
    monkeypatch.setattr(mounts, "beneath", lambda _: dict.fromkeys(at, disk))
    swaps.scan()
    (swaps.root / "d").rename(swaps.root.parent / "hidden")
    swaps.look(b"d", removal_seen=True)
    # Back, of which nobody has told yet; and hidden by the mount, or gone with it.
    (swaps.root / "d").mkdir()
    at.symmetric_difference_update({b"d"})
    swaps.later(61)
    for _ in range(2):
        swaps.deleter.step()
    assert swaps.deleted == []


@pytest.mark.row(12)
@pytest.mark.parametrize("make", ["symlink_to", "hardlink_to"])
def test_a_file_replaced_by_a_link_is_not_deleted(swaps, make):
    other = swaps.root.parent / "other"
    other.write_bytes(b"elsewhere")
    (swaps.root / "a").unlink()
    getattr(swaps.root / "a", make)(other)
    for _ in range(3):
        work(swaps, 61)
    assert swaps.deleted == []
    assert swaps.statuses()[b"a"] == ("ineligible" if make == "symlink_to" else "ready")
