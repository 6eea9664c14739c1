import os
import threading

import pytest

from syncd import disk
from syncd.exceptions import ConfigError, StateError
from syncd.state import files
from syncd.state.planner import Policy
from syncd.watch import stage
from syncd.watch.folder import WatchFolder
from syncd.watch.stage import Watch
from syncd.watch.watched import Watched


@pytest.fixture
def started(place):
    """A place that is watched natively, scanned once."""
    place.reopen(watch="native")
    place.watched.start()
    assert place.watched.scan_if_due() > 200
    return place


def looks(place, until, condition):
    """Look at hints as they come, until the table says what it should."""

    def look():
        place.watched.look_hints()
        return condition(place.statuses())

    return until(look)


def test_a_new_file_is_in_the_table_at_its_event_and_ready_once_quiet(started, until):
    started.write(b"a")
    assert looks(started, until, lambda s: s == {b"a": "settling"})
    assert started.woken
    started.closed()
    started.later()
    started.watched.look_due()
    assert started.statuses() == {b"a": "ready"}


def test_a_file_removed_under_our_eyes_is_missing_with_its_removal_seen(started, until):
    started.synced(b"a", b"keep")
    started.watched.look_hints()
    started.root.joinpath("a").unlink()
    assert looks(
        started,
        until,
        lambda s: s[b"a"] == "missing" and started.files()[b"a"].removal_seen,
    )


@pytest.mark.row(48)
def test_a_scan_that_a_reload_cut_short_is_made_again_at_once(place):
    place.write(b"a")
    place.reopen(watch="native")
    cut = place.watched
    cut.start()
    place.stopped = True
    assert cut.scan_if_due() > 200
    place.stopped = False
    place.reopen(watch="native")
    cut.rebind(place.watched)
    place.watched = cut
    place.later()
    cut.scan_if_due()
    assert place.statuses() == {b"a": "ready"}


@pytest.mark.row(21)
def test_a_second_removal_that_events_alone_told_of_begins_the_grace_anew(place):
    place.synced(b"a", b"keep")
    (place.root / "a").unlink()
    place.look(b"a", removal_seen=True)
    first = place.files()[b"a"]
    place.later(50)
    # Back and gone again before anybody looked: its events came together.
    place.look(b"a", removal_seen=True)
    second = place.files()[b"a"]
    assert second.missing_since == pytest.approx(first.missing_since + 50, abs=2)
    assert second.due_at == pytest.approx(first.due_at + 50, abs=2)
    # A scan, or an event of its making alone, is no news.
    place.later(5)
    place.look(b"a")
    place.scan()
    assert place.files()[b"a"] == second


@pytest.mark.row(21)
@pytest.mark.parametrize("order", [1, -1])
def test_a_second_removal_of_its_directory_begins_the_grace_anew(place, order):
    place.synced(b"d/a", b"keep")
    away = place.root.parent / "away"
    (place.root / "d").rename(away)
    place.look(b"d", removal_seen=True)
    first = place.files()[b"d/a"]
    place.later(50)
    # It was back, with events for its files, and gone again with one for itself.
    for path, removal_seen in ((b"d/a", False), (b"d", True))[::order]:
        place.watched.hints.add(path, removal_seen=removal_seen)
    place.watched.look_hints()
    assert place.files()[b"d/a"].due_at == pytest.approx(first.due_at + 50, abs=2)


def test_a_renamed_file_is_missing_here_and_present_there(started, until):
    started.synced(b"a")
    started.root.joinpath("a").rename(started.root / "b")
    assert looks(started, until, lambda s: s == {b"a": "missing", b"b": "ready"})


@pytest.mark.long
@pytest.mark.parametrize("away", [True, False], ids=["out of the folder", "within the folder"])
def test_a_directory_moved_away_takes_its_known_files_with_it(started, until, tmp_path, away):
    started.synced(b"d/a", b"d/e/b", b"d.txt", b"d0/c")
    target = tmp_path / "out" if away else started.root / "n"
    started.root.joinpath("d").rename(target)
    expected = {b"d/a": "missing", b"d/e/b": "missing", b"d.txt": "ready", b"d0/c": "ready"}
    if not away:
        expected |= {b"n/a": "ready", b"n/e/b": "ready"}
    assert looks(started, until, lambda s: s == expected and started.files()[b"d/e/b"].removal_seen)


def test_a_tree_emptied_under_our_eyes_holds_nothing(started, until):
    started.synced(b"a", b"d/b", b"d/c")
    for name in ("a", "d/b", "d/c"):
        started.root.joinpath(name).unlink()
    started.root.joinpath("d").rmdir()
    assert looks(started, until, lambda s: set(s.values()) == {"missing"} and not started.holds())


def test_excluded_files_leave_no_trace_however_many_events_they_make(started, until):
    started.write(b"a.tmp")
    started.write(b".git/x")
    started.write(b"a")
    assert looks(started, until, lambda s: s == {b"a": "settling"})


def test_a_scan_comes_round_and_at_once_when_asked_for(started):
    assert started.watched.scan_if_due() > 200
    started.later(331)
    started.watched.scan_if_due()
    before = started.watched.last_scan
    started.watched.hints.ask_scan("a test")
    # Not at once after another: a storm of requests must not become a storm of scans.
    assert 0 < started.watched.scan_if_due() <= 1
    assert started.watched.last_scan is before
    started.later(1.1)
    started.watched.scan_if_due()
    assert started.watched.last_scan is not before


def test_a_polled_folder_is_scanned_every_few_seconds(place):
    place.reopen(watch="polling")
    place.watched.start()
    assert 4 < place.watched.scan_if_due() < 6
    heartbeat = place.watched.health()
    assert (heartbeat.watch, heartbeat.watch_reason) == ("polling", "by configuration")


def test_vitals_say_how_well_a_folder_is_seen(started, until):
    started.write(b"d/a")
    until(lambda: started.watched.observer.live_watches == 2)
    until(lambda: started.watched.hints.last_event_at)
    started.scan()
    heartbeat = started.watched.health()
    assert (heartbeat.watch, heartbeat.watched_directories, heartbeat.directories) == (
        "native",
        2,
        2,
    )
    assert heartbeat.last_event_at == pytest.approx(started.now(), abs=5)
    assert heartbeat.trouble == ""


def test_a_missing_root_is_trouble_and_is_scanned_at_once_on_its_return(started, tmp_path, until):
    started.synced(b"a")
    started.root.rename(tmp_path / "away")
    started.watched.check()
    assert "cannot be listed" in started.watched.health().trouble
    started.later(331)
    assert started.watched.scan_if_due() <= 10
    tmp_path.joinpath("away").rename(started.root)
    started.write(b"b")
    started.watched.check()
    started.later(2)
    started.watched.scan_if_due()
    assert b"b" in started.statuses()
    assert started.watched.health().trouble == ""


def make_watch(store, tmp_path, **more):
    folders = []
    for name in ("one", "two"):
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        folders.append(WatchFolder(name, os.fsencode(path), watch="native", settle_seconds=0))
    policies = {folder.name: Policy() for folder in folders}
    return Watch(store=store, folders=folders, policies=policies, wake=lambda: None, **more)


def test_it_watches_several_folders_and_stops_every_thread(store, tmp_path, until):
    watch = make_watch(store, tmp_path)
    threads = set(threading.enumerate())
    watch.start()
    assert all(watched.scan_if_due() > 200 for watched in watch.folders.values())
    tmp_path.joinpath("one/a").write_bytes(b"x")
    tmp_path.joinpath("two/b").write_bytes(b"x")

    def ready():
        for watched in watch.folders.values():
            watched.look_hints()
        rows = store.read(lambda db: files.where(db, "status = 'ready'"))
        return {file.path for file in rows} == {b"a", b"b"} and watch.look_due() is None

    assert until(ready)
    for watched in watch.folders.values():
        watched.check_all()
    assert set(watch.health()) == {"one", "two"}
    watch.stop()
    watch.stop()
    assert set(threading.enumerate()) <= threads


def test_a_single_pass_needs_no_watcher(store, tmp_path):
    watch = make_watch(store, tmp_path)
    tmp_path.joinpath("one/a").write_bytes(b"x")
    reports = watch.scan_all()
    assert [report.files for report in reports] == [1, 0]
    assert all(report.complete for report in reports)


def test_a_stopped_watch_ends_a_scan_early(store, tmp_path):
    tmp_path.joinpath("one").mkdir()
    tmp_path.joinpath("one/a").write_bytes(b"x")
    assert not make_watch(store, tmp_path, stopped=lambda: True).scan_all()[0].complete


def test_a_pattern_that_cannot_be_read_is_refused_before_anything_starts(store, tmp_path):
    folder = WatchFolder("f", os.fsencode(tmp_path), exclude=("!",))
    with pytest.raises(ConfigError):
        Watch(store=store, folders=[folder], policies={}, wake=lambda: None)


@pytest.mark.row(78)
def test_a_folder_that_hangs_keeps_no_other_from_being_watched(store, tmp_path, monkeypatch):
    watch, over, begun = make_watch(store, tmp_path), threading.Event(), []

    def start(watched):
        if watched.folder.name == "one":
            over.wait(30)
        begun.append(watched.folder.name)

    monkeypatch.setattr(Watched, "start", start)
    monkeypatch.setattr(stage, "START_SECONDS", 0.2)
    watch.start()
    assert begun == ["two"]
    over.set()


def test_what_keeps_a_folder_from_being_watched_is_raised(store, tmp_path, monkeypatch):
    def start(_):
        raise StateError("it cannot be written")

    monkeypatch.setattr(Watched, "start", start)
    with pytest.raises(StateError, match="it cannot be written"):
        make_watch(store, tmp_path).start()


def test_at_rest_the_root_is_checked_less_often_until_something_happens(place):
    place.synced(b"a")
    place.reopen(watch="native", rescan_seconds=60.0)
    place.watched.start()
    pauses = [place.watched.check_all() for _ in range(4)]
    assert pauses == [20.0, 40.0, 60.0, 60.0]
    place.watched.hints.add(b"a")
    assert place.watched.check_all() == 10.0
    place.root.rename(place.root.parent / "away")
    assert [place.watched.check_all() for _ in range(3)] == [10.0, 10.0, 10.0]


def test_a_look_when_nothing_is_due_leaves_the_disk_alone(place, monkeypatch):
    place.synced(b"a")

    def refuse(*_, **__):
        raise AssertionError("the disk was touched")

    monkeypatch.setattr(disk, "open_directory", refuse)
    assert place.watched.look() is None
