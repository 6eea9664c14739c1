"""Mounts beneath a root: each is a part with an identity of its own."""

import os

import pytest

from syncd import mounts
from syncd.mounts import Mount
from syncd.state import folders, scan_index
from syncd.watch.inotify import Inotify
from syncd.watch.scan_pass import ScanPass
from syncd.watch.standing import Standing

FILES = (b"a", b"disk/x", b"disk/d/y")


def disk_named(source):
    return Mount("1", 1, b"", "nfs4", source=source)


@pytest.fixture
def mounted(place, monkeypatch):
    """A place whose mounts are told by hand: `mounted.at` are the paths."""
    place.at = {b"disk": disk_named(b"a disk")}
    monkeypatch.setattr(mounts, "beneath", lambda _: dict(place.at))
    place.synced(*FILES)
    return place


def take_away(place):
    """Unmount: what is beneath is no longer there."""
    (place.root / "disk").rename(place.root.parent / "away")
    (place.root / "disk").mkdir()
    place.at.clear()


def bring_back(place):
    (place.root / "disk").rmdir()
    (place.root.parent / "away").rename(place.root / "disk")
    place.at[b"disk"] = disk_named(b"a disk")


def never_known(place):
    """Forget what was mounted, as if the files had been there without it."""
    place.store.write(lambda db: folders.forget_part(db, "f", b"disk"))


def part_hold(place):
    """Return the hold on what is mounted at `disk`; no other is open."""
    (hold,) = place.holds().values()
    assert (hold.scope, hold.reason) == ("f/disk", "root_replaced")
    return hold


@pytest.mark.row(5)
@pytest.mark.row(65)
def test_what_was_on_an_unmounted_disk_is_neither_missing_nor_changed(mounted):
    take_away(mounted)
    mounted.write("disk/x", b"another x, beneath the mount")
    mounted.scan()
    mounted.look(b"disk/x", b"disk/d/y", b"disk", removal_seen=True)
    assert set(mounted.statuses().values()) == {"ready"}
    hold = part_hold(mounted)
    assert (hold.stops, hold.affects, hold.first) == ("folder", 2, ["disk/d/y", "disk/x"])
    assert f"{mounted.root}/disk" in hold.message
    (mounted.root / "disk/x").unlink()
    bring_back(mounted)
    mounted.watched.check()
    assert mounted.holds() == {}
    assert mounted.scan().changed == 0


@pytest.mark.row(5)
def test_the_rest_of_the_folder_is_still_seen(mounted):
    take_away(mounted)
    (mounted.root / "a").unlink()
    mounted.write("new")
    mounted.scan()
    assert mounted.missing() == [b"a"]
    assert b"new" in mounted.statuses()


@pytest.mark.row(5)
def test_what_a_new_mount_hides_is_not_missing_and_its_end_makes_no_change(mounted):
    take_away(mounted)
    never_known(mounted)
    mounted.at[b"disk"] = disk_named(b"another")
    mounted.write("disk/new")
    mounted.scan()
    assert mounted.statuses().keys() == set(FILES)
    assert mounted.missing() == []
    part_hold(mounted)
    (mounted.root / "disk/new").unlink()
    bring_back(mounted)
    mounted.at.clear()
    mounted.watched.check()
    mounted.scan()
    assert mounted.holds() == {}
    assert {mounted.statuses()[name] for name in FILES} == {"ready"}


def test_a_new_mount_that_holds_the_known_files_is_like_any_other(mounted):
    never_known(mounted)
    mounted.scan()
    assert mounted.holds() == {}
    (mounted.root / "disk/x").unlink()
    mounted.scan()
    assert mounted.missing() == [b"disk/x"]


def test_a_disk_whose_files_were_copied_beneath_it_is_waited_for_no_more(mounted):
    away = mounted.root.parent / "away"
    take_away(mounted)
    (mounted.root / "disk").rmdir()
    away.rename(mounted.root / "disk")
    mounted.scan()
    assert mounted.holds() == {}
    assert mounted.store.read(lambda db: folders.parts(db, "f")).keys() == {b""}


@pytest.mark.row(5)
def test_a_disk_that_is_gone_for_good_is_approved_and_nothing_else_with_it(mounted):
    take_away(mounted)
    mounted.write("disk/x", b"another x, beneath the mount")
    mounted.scan()
    hold = part_hold(mounted)
    assert hold.commands[-1].endswith(f": syncd deletes approve {hold.id}")
    assert mounted.watched.take_root(hold.scope)
    assert mounted.holds() == {}
    assert mounted.missing() == []
    mounted.scan()
    assert mounted.missing() == [b"disk/d/y"]
    assert mounted.files()[b"disk/x"].generation == 2


@pytest.mark.row(5)
@pytest.mark.row(65)
@pytest.mark.parametrize("is_running", [True, False], ids=["under our eyes", "while we were down"])
def test_another_disk_in_the_place_of_one_is_not_looked_into(mounted, is_running):
    take_away(mounted)
    mounted.at[b"disk"] = disk_named(b"another disk")
    mounted.write("disk/x", b"of the other disk")
    mounted.write("disk/new")
    if not is_running:
        mounted.reopen()
    mounted.look(b"disk", b"disk/d/y", removal_seen=True)
    mounted.scan()
    assert mounted.statuses() == dict.fromkeys(FILES, "ready")
    part_hold(mounted)
    for name in ("disk/x", "disk/new"):
        (mounted.root / name).unlink()
    bring_back(mounted)
    mounted.scan()
    assert (mounted.missing(), mounted.holds()) == ([], {})


@pytest.mark.row(5)
def test_a_disk_with_most_of_the_files_is_synced_and_loses_none(make_place, monkeypatch, tmp_path):
    place = make_place(tmp_path / "in")
    place.at = {b"disk": disk_named(b"a disk")}
    monkeypatch.setattr(mounts, "beneath", lambda _: dict(place.at))
    place.synced(*(b"disk/%d" % number for number in range(4)))
    place.at[b"disk"] = disk_named(b"its copy")
    (place.root / "disk/1").unlink()
    place.write("disk/new")
    place.scan()
    hold = part_hold(place)
    assert (hold.stops, hold.affects, hold.first) == ("deletions", 1, ["disk/1"])
    assert (place.missing(), b"disk/new" in place.statuses()) == ([], True)


@pytest.mark.row(5)
@pytest.mark.parametrize("goes", [True, False], ids=["goes", "comes"])
def test_a_mount_that_changes_under_a_scan_is_not_judged_by_it(mounted, monkeypatch, goes):
    """The scan saw its earlier entries on no mount, or on another one."""
    if not goes:
        never_known(mounted)
        mounted.at.clear()
        mounted.reopen()
    run = ScanPass.run

    def run_and_change(self):
        run(self)
        if goes:
            take_away(mounted)
        else:
            mounted.at[b"disk"] = disk_named(b"a disk")
            (mounted.root / "disk/x").unlink()
        mounted.watched.check()

    with monkeypatch.context() as racing:
        racing.setattr(ScanPass, "run", run_and_change)
        mounted.scan()
    part_hold(mounted)
    mounted.scan()
    assert mounted.missing() == []


def test_an_unmounted_disk_that_held_nothing_known_is_forgotten(place, monkeypatch):
    at = {b"disk": disk_named(b"a disk")}
    monkeypatch.setattr(mounts, "beneath", lambda _: dict(at))
    (place.root / "disk").mkdir()
    place.synced(b"a")
    at.clear()
    place.scan()
    assert place.holds() == {}


def test_excluding_the_mount_frees_deletions(mounted):
    take_away(mounted)
    mounted.scan()
    part_hold(mounted)
    mounted.reopen(exclude=("/disk",))
    mounted.scan()
    mounted.watched.check()
    assert mounted.holds() == {}
    assert mounted.statuses()[b"disk/x"] == "ineligible"
    assert mounted.missing() == []


@pytest.mark.row(5)
def test_believing_what_is_seen_without_the_mount_loses_files(mounted, monkeypatch):
    """A negative control: the tests above see this bug."""
    monkeypatch.setattr(Standing, "believes", lambda *_: True)
    monkeypatch.setattr(Standing, "stopped", ())
    take_away(mounted)
    mounted.scan()
    assert sorted(mounted.missing()) == [b"disk/d/y", b"disk/x"]


def test_the_mount_table_is_read_with_its_escapes(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text(
        "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 29 0:49 / /r\\040t/a\\012b rw shared:1 - fuse.sshfs host: rw\n"
        "31 29 0:50 / /r\\040t/auto rw - autofs systemd-1 rw\n"
        "32 29 0:51 / /r\\040tx rw - nfs4 host:/ rw\n"
    )
    monkeypatch.setattr(mounts, "_table", mounts._Table(table))
    ((path, mount),) = mounts.beneath(b"/r t").items()
    assert (path, mount.kind, mount.source, mount.part) == (b"a\nb", "fuse.sshfs", b"host:", b"/")
    assert mounts.invents(os.makedev(0, 49))
    assert not mounts.has_own_clock(os.makedev(0, 51))
    assert not mounts.invents(os.makedev(0, 51))
    assert mounts.has_own_clock(os.makedev(8, 1))


def test_stamps_that_are_made_up_are_not_compared(place, monkeypatch):
    """A remounted exFAT disk numbers its files anew: nothing is read again for that."""
    monkeypatch.setattr(mounts, "invents", lambda _: True)
    monkeypatch.setattr(mounts, "has_own_clock", lambda _: False)
    place.write("a")
    place.later(1000)
    place.scan()
    assert place.statuses() == {b"a": "settling"}
    place.later()
    place.scan()
    assert place.statuses() == {b"a": "ready"}
    status = (place.root / "a").stat()
    (place.root / "b").write_bytes(b"content")
    (place.root / "b").rename(place.root / "a")
    os.utime(place.root / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert place.scan().changed == 0


@pytest.mark.row(8)
def test_directories_that_could_not_be_watched_are_polled_and_no_others(place, until, monkeypatch):
    (place.root / "seen/sub").mkdir(parents=True)
    (place.root / "blind/sub").mkdir(parents=True)
    add = Inotify.add_callback

    def refuse(self, path, *more):
        if b"/blind" in path:
            raise OSError(28, "inotify watch limit reached")
        return add(self, path, *more)

    monkeypatch.setattr(Inotify, "add_callback", refuse)
    place.reopen(watch="native")
    place.watched.start()
    pause = place.watched.scan_if_due()
    assert 0 < pause <= 6
    heartbeat = place.watched.health()
    assert (heartbeat.watch, heartbeat.watched_directories, heartbeat.directories) == (
        "native",
        3,
        5,
    )
    assert "the directories beyond it are polled; run: sysctl -w fs.inotify" in heartbeat.trouble
    place.write("blind/a")
    place.write("blind/sub/new/b")
    whole = place.watched.last_scan
    listed = []

    expected_in = scan_index.expected_in
    monkeypatch.setattr(
        scan_index,
        "expected_in",
        lambda db, f, d, **k: listed.extend(d) or expected_in(db, f, d, **k),
    )
    place.later(6)
    place.watched.scan_if_due()
    assert place.watched.last_scan is whole
    assert {b"blind/a", b"blind/sub/new/b"} <= place.statuses().keys()
    assert set(listed) == {b"blind", b"blind/sub", b"blind/sub/new"}
    place.later(6)
    place.watched.scan_if_due()
    (place.root / "blind/sub/new/b").unlink()
    (place.root / "blind/sub/new").rmdir()
    place.later(6)
    place.watched.scan_if_due()
    assert b"blind/sub/new/b" not in place.statuses()
