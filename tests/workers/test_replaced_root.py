"""No worker touches a folder whose root, or whose part, is not the one that is known."""

import pytest

from syncd import disk, mounts
from syncd.identity import RootIdentity, identify
from syncd.mounts import Mount
from syncd.state import due, folders
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.workers import path_check, preparation
from syncd.workers.after_upload import AfterUpload
from syncd.workers.emptied_folder import EmptiedFolder

BYTES = b"content of the folder"


@pytest.fixture
def dropped(shop):
    shop.drop("a", BYTES)
    return shop


def replaced(shop, *, by=("a",)):
    """Put another folder in the root's place, with these of its files moved to it."""
    right = shop.root.with_name("right")
    shop.root.rename(right)
    shop.root.mkdir()
    for name in by:
        (right / name).rename(shop.root / name)
        known(shop, name)


def known(shop, name):
    """Let a file be known as it is: a rename has changed it."""
    changed_at = (shop.root / name).stat().st_ctime_ns
    shop.store.write(lambda db: db.conn.execute("UPDATE files SET ctime_ns = ?", (changed_at,)))


def back(shop):
    """Bring the right folder back, and its files into it."""
    right = shop.root.with_name("right")
    for path in shop.root.iterdir():
        path.rename(right / path.name)
    shop.root.rmdir()
    right.rename(shop.root)
    for path in shop.root.iterdir():
        known(shop, path.name)


@pytest.mark.row(65)
def test_a_file_beneath_another_root_is_neither_hashed_nor_sent(dropped):
    replaced(dropped)
    file = dropped.file("a")
    dropped.upload()
    again_at = dropped.now + preparation.ROOT_SECONDS
    assert dropped.file("a") == file._replace(due_at=again_at, attempts=1)
    assert dropped.live() == {}
    back(dropped)
    dropped.now += preparation.ROOT_SECONDS
    dropped.upload()
    assert len(dropped.live()) == 1


def judged(shop, part, **how):
    """Let a known part be judged so."""
    shop.store.write(
        lambda db: folders.note_judged(db, "f", part, folders.parts(db, "f")[part]._replace(**how))
    )


@pytest.mark.row(65)
def test_beneath_one_that_is_alike_it_is_sent(dropped):
    replaced(dropped, by=())
    dropped.drop("b", BYTES)
    seen = identify(bytes(dropped.root))
    judged(dropped, b"", alike=seen)
    dropped.upload()
    assert len(dropped.live()) == 1


@pytest.mark.row(65)
def test_the_root_is_looked_at_before_the_last_chunk_of_a_transfer(dropped, monkeypatch):
    """The file that is being read stays open, wherever its folder went."""
    may_be_sent, looked = preparation.may_be_sent, []

    def replaced_under_way(*place, **more):
        looked.append(place)
        if len(looked) == 2:
            replaced(dropped, by=())
        return may_be_sent(*place, **more)

    monkeypatch.setattr(preparation, "may_be_sent", replaced_under_way)
    dropped.upload()
    assert len(looked) == 2
    assert dropped.live() == {}
    assert dropped.copy("a").status is CopyStatus.PLANNED


@pytest.fixture
def emptied(dropped):
    dropped.upload()
    dropped.after_upload = AfterUpload(
        store=dropped.store,
        ledger=dropped.ledger,
        client=dropped.client,
        gate=dropped.gate,
        emptied={"f": EmptiedFolder(bytes(dropped.root), None)},
        policies=dropped.policies,
        clock=dropped.clock,
    )
    return dropped


@pytest.mark.row(65)
def test_nothing_is_taken_away_from_another_root(emptied):
    replaced(emptied)
    emptied.after_upload.step()
    assert (emptied.root / "a").read_bytes() == BYTES
    assert emptied.file("a").status is FileStatus.READY


@pytest.mark.row(65)
@pytest.mark.parametrize("swap", [back, replaced], ids=["before it", "after it"])
def test_a_look_counts_only_where_the_root_is_the_known_one_before_it_and_after_it(
    dropped, monkeypatch, swap
):
    if swap is back:
        replaced(dropped, by=())
    look = disk.look

    def swapped(root, paths):
        if swap is replaced:
            replaced(dropped, by=())
        seen = look(root, paths)
        if swap is back:
            back(dropped)
        return seen

    monkeypatch.setattr(disk, "look", swapped)
    assert path_check.look(dropped.store, "f", bytes(dropped.root), [b"a"]) == {}


@pytest.mark.row(65)
def test_what_is_mounted_in_another_root_is_not_looked_at_either(dropped, monkeypatch):
    mount = Mount("1", 1, b"", "nfs4", source=b"a disk")
    monkeypatch.setattr(mounts, "beneath", lambda _: {b"disk": mount})
    part = RootIdentity("source nfs4 a disk")
    dropped.store.write(lambda db: folders.accept_part(db, "f", b"disk", part))
    place = (dropped.store, "f", bytes(dropped.root), [b"disk/x"])
    assert path_check.look(*place).keys() == {b"disk/x"}
    replaced(dropped, by=())
    assert path_check.look(*place) == {}


@pytest.mark.row(65)
@pytest.mark.parametrize(("part", "waits"), [(b"", 0), (b"disk", 1)], ids=["root", "part"])
def test_what_is_stopped_is_neither_due_nor_waited_for(dropped, part, waits):
    (dropped.root / "disk").mkdir()
    dropped.drop("disk/b", BYTES)

    def waiting():
        return dropped.store.read(
            lambda db: (
                due.pass_counts(db, attempts=1, deletions=False, now=dropped.now).waiting,
                len(due.uploads(db, dropped.now, 9)),
            )
        )

    assert waiting() == (2, 2)
    dropped.store.write(lambda db: folders.accept_part(db, "f", b"disk", RootIdentity("uuid 2")))
    judged(dropped, part, is_stopped=True)
    assert waiting() == (waits, waits)
