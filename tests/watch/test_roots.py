import os
import shutil
import subprocess
import time

import pytest
from watch_place import POLICIES, wait_for

from syncd import disk, identity
from syncd.identity import RootIdentity
from syncd.state import folders, manifest, scan_index
from syncd.state.holds import decisions
from syncd.state.planner import Limits, Policy
from syncd.watch import likeness
from syncd.watch.standing import RootState
from syncd.workers import path_check

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
@pytest.mark.row(81)
def test_what_a_root_once_held_is_not_asked_while_it_is_the_known_one(place, monkeypatch):
    place.synced(b"a")
    asked = []
    monkeypatch.setattr(scan_index, "synced_in", lambda *_: asked.append(_))
    monkeypatch.setattr(scan_index, "ever_held", lambda *_: asked.append(_))
    place.write("b")
    place.look(b"b")
    place.later()
    place.scan()
    assert place.statuses() == {b"a": "ready", b"b": "ready"}
    assert asked == []


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
    assert place.watched.health().watch == "native"
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
    replaced(place, tmp_path, FILES)
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


def replaced(place, tmp_path, names):
    """Put another directory in the root's place, with copies of these of its files in it."""
    place.root.rename(tmp_path / "right")
    place.root.mkdir()
    for name in names:
        target = place.root / os.fsdecode(name)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(tmp_path / "right" / os.fsdecode(name), target)


@pytest.mark.row(65)
def test_beneath_a_replaced_root_nothing_is_recorded(place, tmp_path):
    place.synced(*FILES)
    replaced(place, tmp_path, ())
    place.write(b"a", b"another a")
    place.write(b"new")
    before = place.files()
    place.scan()
    place.look(*FILES, b"new", removal_seen=True)
    place.watched.look_due()
    assert place.files() == before
    hold = place.holds()["root_replaced"]
    assert (hold.stops, hold.scope, hold.affects, hold.first) == (
        "folder",
        "f",
        3,
        ["a", "b", "d/c"],
    )


@pytest.mark.row(6)
@pytest.mark.row(65)
def test_the_first_advice_on_a_replaced_root_deletes_nothing(place, tmp_path):
    place.synced(*FILES)
    replaced(place, tmp_path, ())
    place.write(b"a", b"another a")
    place.scan()
    hold = place.holds()["root_replaced"]
    assert "mount the right disk" in hold.message
    assert "2 of 3 synced files are not in it: their remote copies are then deleted" in hold.message
    # A command that can be typed begins with syncd, and is marked as such.
    assert not any(command.startswith("syncd ") for command in hold.commands)
    assert hold.commands[0] == f"findmnt --target {place.root}"
    assert hold.commands[-1].endswith(f": syncd deletes approve {hold.id}")
    # The number follows the folder.
    place.write(b"b")
    place.scan()
    assert "1 of 3 synced files are not in it" in place.holds()["root_replaced"].message
    place.write(b"d/c")
    place.scan()
    assert "it lacks none of the synced files" in place.holds()["root_replaced"].message


def test_where_nothing_is_mirrored_an_approval_is_said_to_delete_nothing(
    place, tmp_path, monkeypatch
):
    monkeypatch.setitem(POLICIES, "f", Policy(mirror_deletions=False))
    place.synced(*FILES)
    replaced(place, tmp_path, ())
    place.scan()
    assert "no remote copy of what it lacks is deleted" in place.holds()["root_replaced"].message


@pytest.mark.row(65)
def test_one_that_has_most_of_the_files_is_synced_and_loses_none(place, tmp_path):
    place.synced(*FILES, b"e")
    replaced(place, tmp_path, (b"a", b"d/c", b"e"))
    place.write(b"new")
    assert place.watched.check() is RootState.ALIKE
    place.scan()
    hold = place.holds()["root_replaced"]
    assert (hold.stops, hold.affects, hold.first) == ("deletions", 1, ["b"])
    assert b"new" in place.statuses()
    assert place.missing() == []
    place.root.joinpath("a").unlink()
    place.look(b"a", removal_seen=True)
    assert place.missing() == []
    # As soon as all is there it is the folder.
    for name in ("a", "b"):
        shutil.copy2(tmp_path / "right" / name, place.root / name)
    place.scan()
    assert place.holds() == {}
    assert place.watched.check() is RootState.OK


@pytest.fixture
def alike(place, tmp_path):
    """A place in whose root's place another one stands, which lacks b and d/c."""
    there = (b"a", b"e", b"g", b"h", b"i")
    place.synced(b"b", b"d/c", *there)
    replaced(place, tmp_path, there)
    assert place.watched.check() is RootState.ALIKE
    return place


def verdicts(place):
    return {p: (str(f.status), f.verdict) for p, f in place.files().items() if f.verdict}


@pytest.mark.row(65)
def test_the_files_that_it_lacks_are_named_row_by_row(alike, tmp_path):
    assert verdicts(alike) == dict.fromkeys((b"b", b"d/c"), ("ready", "held"))
    hold = alike.holds()["root_replaced"]
    commands = [f"syncd deletes {verb} {hold.id}" for verb in ("approve", "reject")]
    assert hold.commands == commands
    listed = alike.store.read(lambda db: [*manifest.held(db, hold.id)])
    assert [(row["path"], row["status"]) for row in listed] == [("b", "held"), ("d/c", "held")]
    # Files that are back are no longer named; files that go missing are.
    shutil.copy2(tmp_path / "right" / "b", alike.root / "b")
    (alike.root / "e").unlink()
    alike.scan()
    assert verdicts(alike).keys() == {b"d/c", b"e"}
    assert alike.holds()["root_replaced"].first == ["d/c", "e"]
    shutil.rmtree(alike.root)
    (tmp_path / "right").rename(alike.root)
    assert (alike.watched.check(), verdicts(alike)) == (RootState.OK, {})


@pytest.mark.row(65)
@pytest.mark.parametrize("verdict", ["approved", "rejected"])
def test_a_verdict_on_it_reaches_exactly_the_files_that_were_shown(alike, verdict):
    hold = alike.holds()["root_replaced"]
    shown = alike.store.read(lambda db: decisions.last_named(db, hold.id))
    (alike.root / "e").unlink()
    alike.scan()
    now = alike.now()
    decided = alike.store.write(lambda db: decisions.decide(db, hold.id, verdict, now, up_to=shown))
    assert decided.files == 2
    assert alike.watched.take_root(hold.scope)
    alike.scan()
    files, outcome = alike.files(), {"approved": "approved", "rejected": "kept"}[verdict]
    assert (alike.holds(), alike.watched.check()) == ({}, RootState.OK)
    assert verdicts(alike) == dict.fromkeys((b"b", b"d/c"), ("missing", outcome))
    waits = decisions.UNDO_SECONDS if verdict == "approved" else 0.0
    assert files[b"b"].due_at == now + waits
    # Files that went missing later are judged on their own.
    assert (files[b"e"].status, files[b"e"].verdict) == ("missing", None)


@pytest.mark.row(65)
@pytest.mark.parametrize("older", [b"a", b"b"])
def test_a_backup_with_an_older_version_of_a_file_is_not_the_folder(place, tmp_path, older):
    place.synced(*FILES, b"e")
    names = (b"a", b"b", b"d/c", b"e")
    replaced(place, tmp_path, names)
    path = place.root / os.fsdecode(older)
    days_ago = path.stat().st_mtime - 3 * 86_400
    os.utime(path, (days_ago, days_ago))
    assert place.watched.check() is RootState.REPLACED
    before = place.files()
    place.scan()
    assert place.files() == before


@pytest.mark.row(65)
@pytest.mark.parametrize(
    ("limits", "state"), [(Limits(), RootState.ALIKE), (Limits(files=1), RootState.REPLACED)]
)
def test_one_that_lacks_more_than_may_vanish_at_once_is_not_the_folder(
    place, tmp_path, monkeypatch, limits, state
):
    monkeypatch.setitem(POLICIES, "f", Policy(limits=limits))
    place.synced(*(b"%d" % number for number in range(5)))
    replaced(place, tmp_path, (b"0", b"1", b"2"))
    assert place.watched.check() is state


@pytest.mark.row(65)
def test_one_that_has_fewer_than_half_of_the_files_is_not_the_folder(place, tmp_path):
    place.synced(*(b"%d" % number for number in range(5)))
    replaced(place, tmp_path, (b"0", b"1"))
    assert place.watched.check() is RootState.REPLACED


@pytest.mark.row(65)
def test_the_right_root_is_back_and_nothing_was_lost(place, tmp_path):
    place.synced(*FILES)
    before = place.files()
    replaced(place, tmp_path, (b"a",))
    place.scan()
    shutil.rmtree(place.root)
    (tmp_path / "right").rename(place.root)
    assert place.watched.check() is RootState.OK
    assert (place.holds(), place.scan().changed) == ({}, 0)
    assert place.files() == before


@pytest.mark.row(65)
def test_a_folder_whose_files_were_all_taken_away_keeps_its_identity(place, tmp_path):
    place.synced(b"a")
    place.store.write(lambda db: db.conn.execute("UPDATE files SET status = 'consumed'"))
    place.store.write(lambda db: db.conn.execute("UPDATE copies SET status = 'released'"))
    place.root.joinpath("a").unlink()
    place.root.rename(tmp_path / "right")
    place.root.mkdir()
    place.write(b"of-others")
    place.scan()
    assert set(place.holds()) == {"root_replaced"}
    assert b"of-others" not in place.statuses()


def test_a_folder_that_never_held_anything_takes_what_it_finds_as_its_first(place, tmp_path):
    place.reopen(skip_existing=True)
    place.scan()
    place.root.rename(tmp_path / "bare")
    place.root.mkdir()
    place.write(b"a")
    time.sleep(0.05)
    place.watched.check()
    assert place.holds() == {}
    place.scan()
    assert place.statuses() == {b"a": "ineligible"}
    place.write(b"b")
    place.scan()
    assert place.statuses()[b"b"] == "settling"


def test_a_folder_of_which_all_was_left_out_leaves_out_all_of_another_in_its_place(place, tmp_path):
    place.reopen(skip_existing=True)
    place.write(b"a")
    time.sleep(0.05)
    place.scan()
    assert place.statuses() == {b"a": "ineligible"}
    place.root.rename(tmp_path / "earlier")
    place.root.mkdir()
    place.write(b"a", b"of another folder")
    place.write(b"b")
    time.sleep(0.05)
    place.watched.check()
    place.scan()
    assert place.statuses() == {b"a": "ineligible", b"b": "ineligible"}


@pytest.mark.row(65)
@pytest.mark.row(76)
def test_a_link_that_points_elsewhere_is_a_replaced_root(place, tmp_path):
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(place.root)
    place.reopen(path=link, watch="native")
    place.watched.start()
    place.synced(*FILES)
    other.mkdir()
    (other / "two").write_text("2")
    link.unlink()
    link.symlink_to(other)
    assert place.watched.check() is RootState.REPLACED
    place.scan()
    assert b"two" not in place.statuses()
    assert place.missing() == []
    assert place.watched.take_root("f")
    place.watched.observer.check()
    place.scan()
    assert sorted(place.missing()) == sorted(FILES)
    (other / "three").write_text("3")
    assert wait_for(lambda: b"three" in place.watched.hints.take())


@pytest.mark.parametrize("status", ["completed", "processing"])
def test_any_root_is_the_folder_where_that_is_configured(place, tmp_path, monkeypatch, status):
    monkeypatch.setitem(POLICIES, "f", Policy(mirror_deletions=False, any_root=True))
    place.reopen(any_root=True, mirror_deletions=False)
    place.synced(*FILES, status=status)
    replaced(place, tmp_path, (b"a",))
    place.write(b"b", b"another b")
    place.scan()
    assert place.holds() == {}
    assert place.copies() == ["released"] * 3
    assert {name: place.files()[name].sha256 for name in (b"a", b"b")} == {b"a": None, b"b": None}
    assert place.files()[b"d/c"].verdict == "kept"


@pytest.mark.parametrize("there", [FILES, FILES[:2]], ids=["whole", "not whole"])
def test_an_earlier_versions_identity_gives_way_to_one_where_every_file_is(place, there):
    place.synced(*FILES)
    known = place.store.read(lambda db: folders.parts(db, "f")[b""].identity)
    old = RootIdentity("1234567", known.inode)
    place.store.write(lambda db: folders.accept_part(db, "f", b"", old))
    for name in set(FILES) - set(there):
        (place.root / os.fsdecode(name)).unlink()
    state = RootState.OK if there == FILES else RootState.ALIKE
    assert place.watched.check() is state
    now = place.store.read(lambda db: folders.parts(db, "f")[b""].identity)
    assert now == (known if there == FILES else old)


def test_beneath_a_root_that_nothing_tells_from_others_nothing_is_deleted(place, monkeypatch):
    monkeypatch.setattr(identity, "_evidence_of", lambda _: ())
    place.synced(*FILES)
    place.root.joinpath("a").unlink()
    place.scan()
    assert place.files()[b"a"].verdict == "kept"


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


@pytest.mark.row(65)
def test_a_disk_that_is_mounted_anew_counts_once_it_was_judged(mounted, mounts):
    """An older image of it may have been mounted there."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 8):
        pytest.skip("this kernel gives the number of a mount to the next one")
    root = os.fsencode(mounted.root)
    assert path_check.look(mounted.store, "f", root, FILES).keys() == set(FILES)
    mounts.umount(mounted.root)
    mounted.remount()
    assert path_check.look(mounted.store, "f", root, FILES) == {}
    mounted.watched.check()
    assert path_check.look(mounted.store, "f", root, FILES).keys() == set(FILES)


# A disk as it was earlier


def known_later(place, *names):
    """Let files be known as they were an hour later: the disk is then as it was before that."""
    for name in names:
        place.store.write(
            lambda db, n=name: db.conn.execute(
                "UPDATE files SET ctime_ns = ctime_ns + 3600000000000, size = size + 1 "
                "WHERE path = ?",
                (n,),
            )
        )


@pytest.mark.row(65)
@pytest.mark.parametrize("gone", [False, True], ids=["older", "not there yet"])
def test_beneath_a_disk_that_is_as_it_was_earlier_nothing_is_recorded(place, gone):
    place.synced(*FILES)
    before = place.files()
    known_later(place, b"d/c")
    if gone:
        shutil.move(place.root / "d" / "c", place.root.with_name("c"))
    os.utime(place.root / "a", (1, 1))
    place.scan()
    place.look(*FILES, b"d", removal_seen=True)
    place.watched.look_due()
    assert {path: file.status for path, file in place.files().items()} == dict.fromkeys(
        FILES, before[b"a"].status
    )
    hold = place.holds()["root_replaced"]
    assert (hold.stops, hold.affects) == ("folder", 3)
    assert "is as it was earlier" in hold.message
    # A restart knows it, too; and what works in the folder.
    place.reopen()
    assert place.watched.check() is RootState.REPLACED
    assert path_check.look(place.store, "f", os.fsencode(place.root), FILES) == {}


@pytest.mark.row(65)
def test_the_hold_on_it_ends_once_the_disk_is_as_it_is_known(place):
    place.synced(*FILES)
    known_later(place, b"a")
    assert place.scan().state is RootState.REPLACED
    place.store.write(
        lambda db: db.conn.execute(
            "UPDATE files SET ctime_ns = ctime_ns - 3600000000000, size = size - 1 "
            "WHERE path = CAST('a' AS BLOB)"
        )
    )
    place.scan()
    assert (place.watched.check(), place.holds()) == (RootState.OK, {})


@pytest.mark.row(65)
def test_an_earlier_disk_that_a_person_approved_stays_the_folder(place):
    place.synced(*FILES)
    known_later(place, b"a", b"b")
    place.root.joinpath("b").unlink()
    assert place.scan().state is RootState.REPLACED
    assert place.watched.take_root("f")
    place.reopen()
    assert place.watched.check() is RootState.OK
    place.scan()
    assert (place.missing(), place.holds()) == ([b"b"], {})


@pytest.mark.row(65)
def test_what_people_do_with_files_makes_no_earlier_disk(place, monkeypatch):
    """Neither modification times nor the new content matter."""
    monkeypatch.setattr(likeness, "SKEW_NS", 0)
    place.write(b"old/a", b"an old one")
    place.write(b"elsewhere/c", b"an old one, too")
    time.sleep(0.05)
    place.synced(*FILES, b"e", b"gone/x")
    before = {path: file.fingerprint for path, file in place.files().items()}
    place.store.write(
        # As if syncd had known them for two hours.
        lambda db: db.conn.execute("UPDATE files SET changed_at = changed_at - 7200")
    )
    os.utime(place.root / "b", (1, 1))
    place.root.joinpath("old", "a").rename(place.root / "a")
    place.root.joinpath("d").rename(place.root / "d-old")
    place.root.joinpath("elsewhere").rename(place.root / "d")
    place.root.joinpath("e").unlink()
    shutil.rmtree(place.root / "gone")
    assert (place.scan().state, place.holds()) == (RootState.OK, {})
    assert before[b"b"] != place.files()[b"b"].fingerprint


@pytest.mark.row(65)
def test_times_from_when_the_clock_was_ahead_make_no_earlier_disk(place):
    place.synced(*FILES)
    known_later(place, b"a")
    place.store.write(lambda db: db.conn.execute("UPDATE files SET changed_at = changed_at + 3600"))
    assert place.scan().state is RootState.OK


@pytest.mark.row(65)
def test_a_file_of_the_size_and_time_that_are_known_is_not_from_earlier(place):
    place.synced(*FILES)
    known_later(place, b"a")
    place.store.write(
        lambda db: db.conn.execute(
            "UPDATE files SET size = size - 1 WHERE path = CAST('a' AS BLOB)"
        )
    )
    assert place.scan().state is RootState.OK


@pytest.mark.row(65)
def test_a_marker_vouches_for_an_earlier_disk(place):
    place.write(b".here")
    place.reopen(marker=b".here")
    place.synced(*FILES)
    known_later(place, b"a")
    assert place.scan().state is RootState.OK


@pytest.mark.row(65)
@pytest.mark.parametrize("running", [True, False], ids=["running", "between two passes"])
def test_an_older_image_of_the_same_disk_is_mounted_in_its_place(
    make_place, mounts, tmp_path, monkeypatch, running
):
    """It has the UUID, the root's inode and its time of birth; often the loop device as well."""
    # Look at once, instead of a minute later.
    monkeypatch.setattr(likeness, "SKEW_NS", 0)
    image, backup, root = (tmp_path / name for name in ("image", "backup", "mnt"))
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(2 << 20)
    if shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None:
        pytest.skip("there is no mkfs.ext4")
    assert run("mkfs.ext4", "-q", str(image)).returncode == 0
    mounts.mount("-o", "loop", image, root)
    place = make_place(root)
    place.synced(*FILES)
    mounts.umount(root)
    shutil.copy(image, backup)
    mounts.mount("-o", "loop", image, root)
    assert place.watched.check() is RootState.OK
    place.synced(b"d/since")
    before = place.files()
    mounts.umount(root)
    mounts.mount("-o", "loop", backup, root)
    if not running:
        place.reopen()
    place.write(b"new", b"is not sent")
    nothing_is_missed(place, "root_replaced")
    assert place.files() == before
    mounts.umount(root)
    mounts.mount("-o", "loop", image, root)
    assert (place.watched.check(), place.holds()) == (RootState.OK, {})
    assert place.scan().changed == 0


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
