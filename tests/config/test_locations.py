"""A health check finds the state directory where the configuration has it."""

import os

import pytest

from syncd import config as configuration, locations

FOLDER = '[[folders]]\npath = "/srv/drop"\n'


@pytest.fixture(autouse=True)
def _no_system_file(monkeypatch, tmp_path):
    monkeypatch.setattr(locations, "SYSTEM_FILE", tmp_path / "etc/syncd.toml")


@pytest.mark.parametrize(
    ("file", "environ"),
    [
        (None, {}),
        (None, {"STATE_DIRECTORY": "/var/lib/syncd:/var/lib/other"}),
        (None, {"XDG_STATE_HOME": "/xdg"}),
        (None, {"XDG_STATE_HOME": "relative", "HOME": "/home/x"}),
        (None, {"SYNCD_STATE__DIRECTORY": "there"}),
        (FOLDER, {"STATE_DIRECTORY": "/var/lib/syncd"}),
        ('[state]\ndirectory = "here"\n', {}),
        ('[state]\ndirectory = ""\n', {"STATE_DIRECTORY": "/var/lib/syncd"}),
        ('[state]\ndirectory = "/a/../b"\n', {"STATE_DIRECTORY": "/var/lib/syncd"}),
        ('[state]\ndirectory = "~/s"\n', {"SYNCD_STATE__DIRECTORY": ""}),
        ('[state]\ndirectory = "here"\n', {"SYNCD_STATE__DIRECTORY": "/there"}),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_it_is_the_one_that_the_configuration_names(tmp_path, file, environ, named):
    path = tmp_path / ("etc/other.toml" if named else "syncd.toml")
    path.parent.mkdir(exist_ok=True)
    if file is not None:
        path.write_text(file)
    chosen = path if named and file is not None else None
    environ = {"HOME": os.environ.get("HOME", "/root"), **environ}
    wanted = configuration.load(
        config=chosen, environ=environ, working_directory=tmp_path, to_sync=False
    )
    assert locations.state_directory(chosen, environ, tmp_path) == wanted.state.directory


@pytest.mark.parametrize("file", ["no toml", "state = 1", "[state]\ndirectory = 7", None])
def test_what_is_odd_is_left_to_a_closer_look(tmp_path, file):
    path = tmp_path / "named.toml"
    if file is not None:
        path.write_text(file)
    assert locations.state_directory(path, {}, tmp_path) is None
