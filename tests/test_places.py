"""A folder whose disk hangs keeps neither a command nor the other folders waiting."""

import random
import threading
import time

import pytest

from syncd import places
from syncd.config import loading


@pytest.fixture
def hung(monkeypatch):
    """Have the disk of every path that ends in `hung` be silent until the test is over."""
    over, look = threading.Event(), places._look

    def slow(path):
        if str(path).endswith("hung"):
            over.wait(30)
        return look(path)

    monkeypatch.setattr(places, "_look", slow)
    monkeypatch.setattr(places, "ANSWER_SECONDS", 0.1)
    yield
    over.set()


def test_a_path_is_taken_as_it_is_spelled_while_its_disk_hangs(tmp_path, hung):
    (tmp_path / "hung").mkdir()
    at = places.look(tmp_path / "hung")
    assert (at.real, at.answers, at.is_directory) == (str(tmp_path / "hung"), False, False)
    at = places.look(tmp_path)
    assert (at.real, at.answers, at.is_directory) == (str(tmp_path), True, True)


@pytest.mark.row(78)
def test_a_configuration_is_read_though_one_of_its_folders_hangs(tmp_path, hung):
    for name in ("hung", "works"):
        (tmp_path / name).mkdir()
    folders = f'[{{"path": "{tmp_path}/hung"}}, {{"path": "{tmp_path}/works"}}]'
    began = time.monotonic()
    loaded = loading.load(
        config=None,
        directories=(),
        environ={"SYNCD_FOLDERS": folders, "SYNCD_STATE__DIRECTORY": str(tmp_path / "state")},
        to_sync=False,
        working_directory=tmp_path,
    )
    assert loaded.missing_folders() == ()
    assert time.monotonic() - began < 10


def test_of_many_directories_exactly_those_that_hold_one_another_are_found():
    draw = random.Random(1)
    names = [b"a", b"a!", b"b", b"a0", b"\xff"]
    for _ in range(200):
        paths = [
            b"/" + b"/".join(draw.choice(names) for _ in range(draw.randrange(4)))
            for _ in range(draw.randrange(12))
        ]
        held = {
            (one, other)
            for one, first in enumerate(paths)
            for other, second in enumerate(paths[:one])
            if (second.rstrip(b"/") + b"/").startswith(first.rstrip(b"/") + b"/")
            or (first.rstrip(b"/") + b"/").startswith(second.rstrip(b"/") + b"/")
        }
        found = places.nested([*paths, None])
        assert {(one, other) for one, others in found.items() for other in others} == held
