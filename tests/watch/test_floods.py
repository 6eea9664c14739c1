"""Drops that mean harm, or are careless: very deep, very many, very fast."""

import os
import resource
import shutil
import threading
import time

import pytest

from syncd.state import overview, views
from syncd.watch import hints, open_files

pytestmark = pytest.mark.row(61)

#: `SYNCD_FLOOD_FILES=1000000 pytest -m long THIS` for the whole flood.
FILES = int(os.environ.get("SYNCD_FLOOD_FILES", "100000"))
DEPTH = 200


@pytest.mark.long
def test_a_file_two_hundred_directories_deep_is_seen_and_so_is_its_end(place, until):
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    deep = "/".join(["d"] * DEPTH)
    path = f"{deep}/file".encode()
    place.write(path)
    assert until(lambda: (place.watched.look_hints(), path in place.statuses())[1])
    place.synced(path)
    assert place.watched.last_scan.directories == DEPTH + 1
    assert until(lambda: place.watched.observer.live_watches == DEPTH + 1)
    shutil.rmtree(place.root / "d")
    assert until(lambda: (place.watched.look_hints(), place.missing())[1] == [path])


def test_names_as_long_as_they_can_be_are_seen_as_deep_as_a_path_can_be(place):
    directory = os.open(place.root, os.O_RDONLY)
    # Deeper than one path may say: whoever made it could only go there step by step.
    for _ in range(20):
        os.mkdir("x" * 255, dir_fd=directory)
        below = os.open("x" * 255, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
    report = place.scan()
    assert (report.complete, report.directories, report.files) == (True, 21, 1)
    assert [len(path) for path in place.statuses()] == [20 * 256 + 4]
    place.look(*place.statuses())
    assert place.missing() == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_flood_of_files_takes_bounded_memory_and_the_state_is_told_at_once(place, store):
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def pour():
        for number in range(FILES):
            if number % 1000 == 0:
                (place.root / f"{number}").mkdir()
            name = place.root / f"{number - number % 1000}" / f"{number}"
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))

    pouring = threading.Thread(target=pour)
    pouring.start()
    slowest, waiting = 0.0, 0
    while pouring.is_alive() or len(place.watched.hints) or place.watched.hints.scan_asked:
        waiting = max(waiting, len(place.watched.hints))
        assert len(place.watched.observer.open_files) <= open_files.LIMIT
        place.watched.look_hints()
        if not pouring.is_alive():
            place.later(1000)
            place.watched.scan_if_due()
        # In its own CPU time: beside other work, the clock would say nothing of the overview.
        began = time.thread_time()
        views.read(store.directory, lambda db: overview.overview(db, time.time()))
        slowest = max(slowest, time.thread_time() - began)
    assert waiting <= hints.LIMIT
    place.scan()
    known = store.read(lambda db: db.conn.execute("SELECT count(*) FROM files").fetchone()[0])
    assert known == FILES
    assert slowest < 1.0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 150 * 1024, f"{grown} KiB"
