import codecs
import os
from contextlib import contextmanager

import pytest
from watch_place import Place, wait_for

from syncd.watch.folder import WatchFolder
from syncd.watch.hints import Hints
from syncd.watch.inotify import Instances
from syncd.watch.observer import FolderObserver


@pytest.fixture
def place(store, tmp_path):
    """A place with an empty folder."""
    made = Place(store, tmp_path / "in")
    yield made
    made.watched.observer.stop()


@pytest.fixture
def make_place(store):
    """Make a place on a root of one's choice."""
    made = []

    def make(root, **settings):
        made.append(Place(store, root, **settings))
        return made[-1]

    yield make
    for place in made:
        place.watched.observer.stop()


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def observe(root):
    """Start an observer of a directory, which shares with the others; it has its hints."""
    instances, started = Instances(), []

    def start(path):
        path.mkdir()
        hints = Hints(lambda: None)
        folder = WatchFolder(path.name, os.fsencode(path), watch="native")
        observer = FolderObserver(folder=folder, hints=hints, instances=instances)
        observer.hints = hints
        observer.start()
        started.append(observer)
        return observer

    yield start
    for observer in started:
        observer.stop()


@pytest.fixture
def several(observe, root):
    """Three started observers of folders on one filesystem."""
    return [observe(root / name) for name in "abc"]


@pytest.fixture
def until():
    return wait_for


@contextmanager
def nobody():
    """Run as a user whom permissions bind: root becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    # Python may be where nobody else can read it: what is imported late has to be there already.
    codecs.lookup("ascii")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def as_nobody():
    return nobody
