import codecs
import os
from contextlib import contextmanager

import pytest
from watch_place import Place, wait_for


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
