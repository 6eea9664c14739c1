"""A folder whose disk hangs keeps neither a command nor the other folders waiting."""

import threading
import time

import pytest

from syncd import config, places


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
    loaded = config.load(
        config=None,
        directories=(),
        environ={"SYNCD_FOLDERS": folders, "SYNCD_STATE__DIRECTORY": str(tmp_path / "state")},
        to_sync=False,
        working_directory=tmp_path,
    )
    assert loaded.missing_folders() == ()
    assert time.monotonic() - began < 10
