"""Files left out by size, and files that were there before the first scan."""

import logging
import resource

import pytest

from syncd import disk
from syncd.exceptions import ShortageError
from syncd.state import history


@pytest.mark.row(14)
def test_a_file_over_max_size_is_left_out_before_a_byte_of_it_is_read(place, monkeypatch):
    place.reopen(max_size=1000)
    with (place.root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    place.write("fits", b"x" * 1000)
    place.later()
    monkeypatch.setattr(disk, "sha256", None)
    place.scan()
    place.look(b"sparse")
    assert place.statuses() == {b"fits": "ready"}


def test_a_file_that_grows_over_max_size_is_released_and_taken_up_when_it_shrinks(place):
    place.reopen(max_size=1000)
    place.synced(b"a")
    place.write("a", b"x" * 1001)
    place.scan()
    assert place.statuses() == {b"a": "ineligible"}
    assert "max_size 1000 (it has 1001 bytes)" in place.files()[b"a"].error
    assert place.copies() == ["released"]
    place.write("a", b"x" * 1000)
    place.later()
    place.scan()
    assert place.statuses() == {b"a": "ready"}


def skipping(place, **more):
    place.reopen(skip_existing=True, **more)
    place.watched.check()
    return place


def test_what_was_there_before_the_first_scan_is_left_out_until_it_changes(place, caplog):
    place.write("old", b"12345")
    place.write("d/older")
    place.later()
    skipping(place)
    place.later()
    with caplog.at_level(logging.INFO):
        place.scan()
    assert place.statuses() == {b"old": "ineligible", b"d/older": "ineligible"}
    assert "the first scan found 2 files, 12 B, left as they are" in caplog.text
    assert place.scan().changed == 0
    place.write("new")
    place.write("old", b"changed")
    place.later()
    place.scan()
    assert place.statuses() == {b"old": "ready", b"new": "ready", b"d/older": "ineligible"}


def test_what_arrives_during_a_first_scan_that_was_cut_short_is_new(place):
    place.write("old")
    skipping(place)
    place.stopped = True
    assert not place.scan().complete
    place.stopped = False
    import time

    time.sleep(0.02)
    place.write("arrived")
    place.later()
    skipping(place)
    place.scan()
    assert place.statuses()[b"arrived"] == "ready"


def test_uploading_what_exists_takes_up_what_was_skipped(place):
    place.write("old")
    place.later()
    skipping(place)
    place.scan()
    assert place.statuses() == {b"old": "ineligible"}
    place.reopen()
    place.scan()
    assert place.statuses() == {b"old": "ready"}


def test_what_is_left_out_from_the_first_scan_on_outlives_the_daily_cleaning(place):
    place.write("old")
    place.later()
    skipping(place)
    place.scan()
    place.store.write(lambda db: history.prune(db, place.now()))
    place.scan()
    assert place.statuses() == {b"old": "ineligible"}


def test_the_first_scan_tells_what_it_found_once(place, caplog):
    place.write("a", b"x" * 2048)
    with caplog.at_level(logging.INFO):
        place.scan()
        place.scan()
    assert caplog.text.count("the first scan found 1 file, 2.0 KiB, to be sent") == 1


@pytest.mark.row(50)
def test_without_open_files_nothing_is_missing_unreadable_or_held(place):
    place.synced(b"a", b"d/b")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for step in (place.scan, place.watched.check, lambda: place.look(b"a", b"d/b")):
            with pytest.raises(ShortageError, match="raise the limit"):
                step()
        # The table is still read: its descriptors were there first.
        assert set(place.statuses().values()) == {"ready"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert place.holds() == {}
    assert place.watched.hints.scan_asked
    assert place.scan().complete
