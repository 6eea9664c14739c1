"""Planted bugs, each of which a test of the same row must see: a test that cannot fail is none."""

import errno
import os

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent

from syncd import disk
from syncd.disk import Found, Sight
from syncd.exceptions import FileChangedError, UnreadableError
from syncd.metrics import WATCH_OVERFLOWS
from syncd.watch.hints import Hints
from syncd.watch.scan_pass import ScanPass


@pytest.mark.row(3)
def test_taking_what_cannot_be_read_for_missing_is_seen(place, monkeypatch):
    """Row 3: an error on the way to a file, believed to be its absence, deletes a whole tree."""
    place.synced(b"shut/a", b"keep")
    real = disk.directory

    def refuse(root, path=b""):
        if path == b"shut":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(root, path)

    monkeypatch.setattr(disk, "directory", refuse)
    place.scan()
    place.look(b"shut/a")
    assert place.missing() == []
    monkeypatch.setattr(disk, "_without_parent", lambda *_: Sight(Found.ABSENT))
    place.look(b"shut/a")
    assert place.missing() == [b"shut/a"]


@pytest.mark.row(7)
@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "planted"])
def test_an_overflow_that_asks_for_no_scan_is_seen(place, until, monkeypatch, planted):
    """Row 7: events that were lost are never made up for."""
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    if planted:
        monkeypatch.setattr(Hints, "ask_scan", lambda *_: None)
    # The queue is full, so that none of these events comes through.
    monkeypatch.setattr(Hints, "add", lambda *_, **__: None)
    place.write("a")
    counted = WATCH_OVERFLOWS.values()["f",]
    overflow = InotifyEvent(-1, InotifyConstants.IN_Q_OVERFLOW, 0, b"")
    place.watched.observer._inotify.handle_event(overflow)
    assert place.watched.health().watch_reason == "events were lost once, and a scan made up for it"
    assert WATCH_OVERFLOWS.values()["f",] == counted + 1
    place.later(2)
    place.watched.scan_if_due()
    assert (b"a" in place.statuses()) is not planted


@pytest.mark.row(17)
@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "planted"])
def test_a_comparison_without_ctime_is_seen(place, monkeypatch, planted):
    """Row 17: new bytes of the same size, with the old mtime put back."""
    place.synced(b"a")
    if planted:
        of = disk.Fingerprint.of
        monkeypatch.setattr(disk.Fingerprint, "of", lambda s: of(s)._replace(ctime_ns=0))
        monkeypatch.setattr(ScanPass, "_unchanged", lambda *_: set())
        place.scan()
        place.later()
        place.scan()
    path = place.root / "a"
    before = path.stat()
    path.write_bytes(b"CONTENT OF a")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert bool(place.scan().changed) is not planted


@pytest.mark.row(56)
@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "planted"])
def test_a_walk_that_follows_links_is_seen(place, tmp_path, monkeypatch, planted):
    """Row 56: a directory that became a link leads out of the root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (place.root / "d").mkdir()
    place.scan()
    if planted:
        for flags in ("_DIRECTORY", "LISTING", "CONTENT"):
            monkeypatch.setattr(disk, flags, getattr(disk, flags) & ~os.O_NOFOLLOW)
    # Between the look at the directory and its opening, it becomes a link.
    (place.root / "d").rmdir()
    (place.root / "d").symlink_to(outside)
    try:
        with disk.open_beneath(os.fsencode(place.root), b"d/secret") as descriptor:
            content = os.pread(descriptor, 10, 0)
    except (FileChangedError, UnreadableError):
        content = b""
    assert (content == b"secret") is planted
