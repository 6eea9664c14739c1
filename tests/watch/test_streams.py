"""Any stream of file operations and events ends in what a scan alone would find."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from watch_place import Place

from syncd.state.database.store import Store

NAMES = ["a", "b", "d", "d/a", "d/e", "d/e/b", "f.tmp"]
NAME = st.sampled_from(NAMES)
OPERATION = st.one_of(
    st.tuples(st.just("write"), NAME, st.binary(max_size=3)),
    st.tuples(st.just("remove"), NAME),
    st.tuples(st.just("rename"), NAME, NAME),
    st.tuples(st.just("directory"), NAME),
    st.tuples(st.just("link"), NAME),
    st.tuples(st.just("hint"), NAME, st.booleans()),
    st.tuples(st.just("stray hint"), NAME, st.booleans()),
    st.tuples(st.just("look")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("time"), st.sampled_from([1.0, 6.0, 70.0])),
    st.tuples(st.just("scan")),
)


def perform(place, operation, hints):
    """Do one thing to the disk, or let the stage do one; operations that cannot be do nothing."""
    match operation:
        case ("write", name, content):
            path = place.root / name
            if path.parent.is_dir() and not path.is_dir() and not path.is_symlink():
                path.write_bytes(content)
                hints.append((name, False))
        case ("remove", name):
            path = place.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            hints.append((name, True))
        case ("rename", old, new):
            try:
                (place.root / old).rename(place.root / new)
            except OSError:
                return
            hints.extend([(old, True), (new, False)])
            hints += [
                (os.path.relpath(p, place.root), False) for p in (place.root / new).rglob("*")
            ]
        case ("directory", name):
            if not (place.root / name).exists() and (place.root / name).parent.is_dir():
                (place.root / name).mkdir()
        case ("link", name):
            path = place.root / name
            if path.parent.is_dir() and not os.path.lexists(path):
                path.symlink_to("a")
                hints.append((name, False))
        case ("hint", _, keep) if hints:
            # Some events are lost, some come late: order and loss are nobody's to choose.
            name, removed = hints.pop(0)
            if keep:
                place.watched.hints.add(os.fsencode(name), removal_seen=removed)
        case ("stray hint", name, removed):
            place.watched.hints.add(os.fsencode(name), removal_seen=removed)
        case ("look",):
            place.watched.look_hints()
        case ("settle",):
            place.watched.look_due()
        case ("time", seconds):
            place.later(seconds)
        case ("scan",):
            place.scan()


def found(place):
    """Return what the table says is there: each eligible file with what it was seen as."""
    return {
        path: file.fingerprint
        for path, file in place.files().items()
        if file.status in ("ready", "settling")
    }


def scanned(root, directory):
    """Return what a scan alone finds there, with a table of its own."""
    store = Store(directory / "another")
    store.open(0.0)
    try:
        place = Place(store, root)
        place.later(1000)
        place.scan()
        return found(place)
    finally:
        store.close()


def streamed(operations):
    """Return what the table holds after `operations` and a last scan, and what it should."""
    directory = Path(tempfile.mkdtemp(prefix="syncd-stream-"))
    store = Store(directory / "state")
    store.open(0.0)
    try:
        place = Place(store, directory / "in")
        hints = []
        for operation in operations:
            perform(place, operation, hints)
        for _ in range(2):
            place.later(100)
            place.scan()
            place.watched.look_due()
        return found(place), scanned(place.root, directory), place.statuses()
    finally:
        store.close()
        shutil.rmtree(directory)


@pytest.mark.long
@pytest.mark.row(21)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(st.lists(OPERATION, max_size=25))
def test_a_stream_of_operations_and_events_ends_as_a_scan_alone_would(operations):
    table, alone, statuses = streamed(operations)
    assert table == alone
    assert "settling" not in statuses.values()
