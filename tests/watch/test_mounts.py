"""Mounts beneath a root: what goes with one is not deleted, what is hidden by one neither."""

import os
from types import SimpleNamespace

import pytest

from syncd import disk, mounts
from syncd.descent import Descent
from syncd.state import folders, inventory, manifest
from syncd.state.holds import decisions
from syncd.watch import roots
from syncd.watch.inotify import Inotify
from syncd.watch.scanner import Scanner

FILES = (b"a", b"disk/x", b"disk/d/y")


@pytest.fixture
def mounted(place, monkeypatch):
    """A place whose mounts are told by hand: `mounted.at` are the paths."""
    place.at = {b"disk": "a disk"}
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
    place.at[b"disk"] = "a disk"


@pytest.mark.row(5)
def test_what_was_on_an_unmounted_disk_is_neither_missing_nor_changed(mounted):
    take_away(mounted)
    mounted.write("disk/x", b"another x, beneath the mount")
    mounted.scan()
    mounted.look(b"disk/x", b"disk/d/y", b"disk", removal_seen=True)
    assert set(mounted.statuses().values()) == {"ready"}
    hold = mounted.holds()["mount_missing"]
    assert (hold.affects, hold.first) == (2, ["disk/d/y", "disk/x"])
    assert "(disk)" in hold.message
    (mounted.root / "disk/x").unlink()
    bring_back(mounted)
    mounted.watched.check()
    assert mounted.holds() == {}
    assert mounted.scan().changed == 0


@pytest.mark.row(5)
def test_the_rest_of_the_folder_is_still_seen(mounted):
    take_away(mounted)
    (mounted.root / "a").unlink()
    mounted.scan()
    assert mounted.missing() == [b"a"]


@pytest.mark.row(5)
def test_what_a_new_mount_hides_is_not_missing_and_its_end_makes_no_change(mounted):
    bring_back_later = mounted.root.parent / "away"
    (mounted.root / "disk").rename(bring_back_later)
    (mounted.root / "disk").mkdir()
    mounted.at.clear()
    mounted.reopen()
    mounted.store.write(lambda db: db.conn.execute("DELETE FROM mounts"))
    mounted.at[b"disk"] = "a disk"
    mounted.write("disk/new")
    mounted.scan()
    assert mounted.missing() == []
    assert set(mounted.holds()) == {"mount_new"}
    (mounted.root / "disk/new").unlink()
    (mounted.root / "disk").rmdir()
    bring_back_later.rename(mounted.root / "disk")
    mounted.at.clear()
    mounted.watched.check()
    mounted.scan()
    assert mounted.holds() == {}
    assert {mounted.statuses()[name] for name in FILES} == {"ready"}


def test_a_new_mount_that_holds_the_known_files_is_like_any_other(mounted):
    mounted.store.write(lambda db: db.conn.execute("DELETE FROM mounts"))
    mounted.scan()
    assert mounted.holds() == {}
    (mounted.root / "disk/x").unlink()
    mounted.scan()
    assert mounted.missing() == [b"disk/x"]


def decide(place, verdict, reason="mount_missing"):
    return place.watched.decide_on_mounts(place.holds()[reason].id, verdict)


def verdicts(place):
    return {path: file.verdict and str(file.verdict) for path, file in place.files().items()}


def listed(place, reason="mount_missing"):
    hold = place.holds()[reason]
    return [entry["path"] for entry in place.store.read(lambda db: [*manifest.held(db, hold.id)])]


@pytest.mark.row(5)
@pytest.mark.parametrize(("verdict", "becomes"), [("approved", "approved"), ("rejected", "kept")])
def test_a_verdict_on_a_mount_that_is_gone_is_on_what_was_on_it_and_on_nothing_else(
    mounted, verdict, becomes
):
    take_away(mounted)
    (mounted.root / "a").unlink()
    mounted.write("disk/x", b"another x, beneath the mount")
    mounted.scan()
    assert listed(mounted) == ["disk/d/y", "disk/x"]
    hold = mounted.holds()["mount_missing"]
    assert hold.commands == [f"syncd deletes {verb} {hold.id}" for verb in ("approve", "reject")]
    assert decide(mounted, verdict).files == 1
    assert mounted.holds() == {}
    assert verdicts(mounted) == {b"a": None, b"disk/d/y": becomes, b"disk/x": None}
    assert sorted(mounted.missing()) == [b"a", b"disk/d/y"]
    file = mounted.files()[b"disk/d/y"]
    assert file.due_at == pytest.approx(
        file.missing_since + (10 if verdict == "approved" else 0), abs=1
    )
    # What stands there now is a file like any other.
    mounted.later()
    mounted.scan()
    assert mounted.files()[b"disk/x"].generation == 2
    assert mounted.store.read(lambda db: decisions.find(db, hold.id)).verdict == verdict


@pytest.mark.row(5)
def test_a_verdict_on_a_mount_is_void_once_it_is_back(mounted):
    take_away(mounted)
    mounted.scan()
    decide(mounted, "approved")
    assert sorted(mounted.missing()) == [b"disk/d/y", b"disk/x"]
    bring_back(mounted)
    mounted.scan()
    assert set(mounted.statuses().values()) == {"ready"}
    assert set(verdicts(mounted).values()) == {None}
    assert mounted.holds() == {}


def test_a_verdict_on_mounts_can_be_undone(mounted):
    take_away(mounted)
    mounted.scan()
    hold = mounted.holds()["mount_missing"]
    decide(mounted, "approved")
    undone = mounted.store.write(
        lambda db: decisions.decide(db, hold.id, "rejected", mounted.now())
    )
    assert undone.files == 2
    assert verdicts(mounted) == {b"a": None, b"disk/d/y": "kept", b"disk/x": "kept"}


@pytest.mark.row(5)
def test_a_mount_that_is_back_is_not_decided_on(mounted):
    take_away(mounted)
    mounted.scan()
    hold = mounted.holds()["mount_missing"]
    bring_back(mounted)
    with pytest.raises(decisions.ReviewError, match="ended by itself"):
        mounted.watched.decide_on_mounts(hold.id, "approved")
    assert mounted.missing() == []


@pytest.mark.row(5)
def test_a_mount_that_comes_back_under_the_decision_is_not_decided_on(mounted, monkeypatch):
    take_away(mounted)
    mounted.scan()
    hold = mounted.holds()["mount_missing"]
    look = disk.look

    def back_after_the_look(root, paths):
        seen = look(root, paths)
        bring_back(mounted)
        return seen

    monkeypatch.setattr(disk, "look", back_after_the_look)
    with pytest.raises(decisions.ReviewError):
        mounted.watched.decide_on_mounts(hold.id, "approved")
    assert mounted.missing() == []


@pytest.mark.row(5)
@pytest.mark.parametrize("is_running", [True, False], ids=["under our eyes", "while we were down"])
def test_another_disk_in_the_place_of_one_is_a_new_mount(mounted, is_running):
    take_away(mounted)
    mounted.at[b"disk"] = "another disk"
    mounted.write("disk/x", b"of the other disk")
    if not is_running:
        mounted.reopen()
    mounted.look(b"disk", b"disk/d/y", removal_seen=True)
    mounted.scan()
    assert (mounted.missing(), set(mounted.holds())) == ([], {"mount_new"})
    (mounted.root / "disk/x").unlink()
    (mounted.root / "disk").rmdir()
    mounted.at.clear()
    (mounted.root / "disk").mkdir()
    mounted.scan()
    assert (mounted.missing(), set(mounted.holds())) == ([], {"mount_missing"})
    bring_back(mounted)
    mounted.scan()
    mounted.scan()
    assert (mounted.missing(), mounted.holds()) == ([], {})
    assert mounted.store.read(lambda db: folders.mounts(db, "f")) == {
        b"disk": (folders.MountState.RIGHT, "a disk")
    }


@pytest.mark.row(5)
@pytest.mark.parametrize("goes", [True, False], ids=["goes", "comes"])
def test_a_mount_that_changes_under_a_scan_is_not_judged_by_it(mounted, monkeypatch, goes):
    """What the scan saw before is of no mount, or of another one."""
    if not goes:
        mounted.store.write(lambda db: db.conn.execute("DELETE FROM mounts"))
        mounted.at.clear()
        mounted.reopen()
    look = Scanner._pass

    def change_after(self, *arguments):
        begun = look(self, *arguments)
        run = begun.run

        def run_and_change():
            run()
            if goes:
                take_away(mounted)
            else:
                mounted.at[b"disk"] = "a disk"
                (mounted.root / "disk/x").unlink()
            mounted.watched.check()

        return SimpleNamespace(run=run_and_change)

    with monkeypatch.context() as racing:
        racing.setattr(Scanner, "_pass", change_after)
        mounted.scan()
    assert set(mounted.holds()) == {"mount_missing" if goes else "mount_new"}
    mounted.scan()
    assert mounted.missing() == []


@pytest.mark.row(6)
def test_under_another_root_nothing_is_decided_on(hidden, monkeypatch):
    hold = hidden.holds()["mount_new"]
    look = disk.look

    def replaced_before_the_look(root, paths):
        hidden.root.rename(hidden.root.parent / "another")
        hidden.root.mkdir()
        return look(root, paths)

    monkeypatch.setattr(disk, "look", replaced_before_the_look)
    with pytest.raises(decisions.ReviewError, match="once more"):
        hidden.watched.decide_on_mounts(hold.id, "approved")
    assert hidden.missing() == []


@pytest.mark.row(5)
def test_the_hold_names_each_mount_that_goes_while_it_is_open(place, monkeypatch):
    at = {b"disk", b"di\xffsk"}
    monkeypatch.setattr(mounts, "beneath", lambda _: dict.fromkeys(at, "a disk"))
    place.synced(b"a", b"disk/x", b"di\xffsk/y")
    for directory, number in ((b"disk", 1), (b"di\xffsk", 2)):
        path = place.root / os.fsdecode(directory)
        path.rename(place.root.parent / str(number))
        at.remove(directory)
        place.watched.check()
        assert place.holds()["mount_missing"].affects == number
    assert "(disk, di\\xffsk)" in place.holds()["mount_missing"].message
    assert listed(place) == ["disk/x", "di\\xffsk/y"]


@pytest.fixture
def hidden(mounted):
    """Something new is mounted over `disk`, in which one of two files is."""
    mounted.store.write(lambda db: db.conn.execute("DELETE FROM mounts"))
    (mounted.root / "disk/d/y").rename(mounted.root.parent / "hidden")
    mounted.scan()
    assert set(mounted.holds()) == {"mount_new"}
    return mounted


@pytest.mark.row(5)
@pytest.mark.parametrize(("verdict", "becomes"), [("approved", "approved"), ("rejected", "kept")])
def test_a_verdict_on_a_new_mount_is_on_what_is_not_in_it(hidden, verdict, becomes):
    assert "over files that are synced and not in it (disk)" in hidden.holds()["mount_new"].message
    (hidden.root / "a").unlink()
    assert listed(hidden, "mount_new") == ["disk/d/y", "disk/x"]
    assert decide(hidden, verdict, "mount_new").files == 1
    assert verdicts(hidden) == {b"a": None, b"disk/d/y": becomes, b"disk/x": None}
    assert hidden.holds() == {}
    hidden.scan()
    assert sorted(hidden.missing()) == [b"a", b"disk/d/y"]
    assert hidden.holds() == {}


@pytest.mark.row(3)
def test_a_new_mount_that_cannot_be_listed_to_its_end_is_not_taken_for_right(hidden, monkeypatch):
    enter = Descent.enter

    def refuse(descent, path):
        if path == b"disk/d":
            raise PermissionError(13, "Permission denied")
        return enter(descent, path)

    with monkeypatch.context() as forbidden:
        forbidden.setattr(Descent, "enter", refuse)
        assert hidden.scan().complete
    assert set(hidden.holds()) == {"mount_new"}
    hidden.scan()
    assert hidden.missing() == []


def test_an_unmounted_disk_that_held_nothing_known_is_forgotten(place, monkeypatch):
    at = {b"disk"}
    monkeypatch.setattr(mounts, "beneath", lambda _: dict.fromkeys(at, "a disk"))
    (place.root / "disk").mkdir()
    place.synced(b"a")
    at.clear()
    place.scan()
    assert place.holds() == {}


def test_excluding_the_mount_frees_deletions(mounted):
    take_away(mounted)
    mounted.scan()
    assert set(mounted.holds()) == {"mount_missing"}
    mounted.reopen(exclude=("/disk",))
    mounted.scan()
    mounted.watched.check()
    assert mounted.holds() == {}
    assert mounted.statuses()[b"disk/x"] == "ineligible"
    assert mounted.missing() == []


@pytest.mark.row(5)
def test_believing_what_is_seen_without_the_mount_loses_files(mounted, monkeypatch):
    """A negative control: the tests above see this bug."""
    monkeypatch.setattr(roots, "_mount_of", lambda *_: None)
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
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    assert mounts.beneath(b"/r t") == {b"a\nb": "fuse.sshfs host: /"}
    monkeypatch.setattr(mounts, "_kinds", mounts._Kinds())
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
            self.refused += 1
            self.out_of_watches = True
            raise OSError(28, "inotify watch limit reached")
        return add(self, path, *more)

    monkeypatch.setattr(Inotify, "add_callback", refuse)
    place.reopen(watch="native")
    place.watched.start()
    pause = place.watched.scan_if_due()
    assert 0 < pause <= 6
    vitals = place.watched.vitals()
    assert (vitals.watch, vitals.watched_directories, vitals.directories) == ("native", 3, 5)
    assert "the directories beyond it are polled; run: sysctl -w fs.inotify" in vitals.trouble
    place.write("blind/a")
    place.write("blind/sub/new/b")
    whole = place.watched.last_scan
    listed = []

    in_directory = inventory.in_directory
    monkeypatch.setattr(
        inventory,
        "in_directory",
        lambda db, f, d, **k: listed.append(d) or in_directory(db, f, d, **k),
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
