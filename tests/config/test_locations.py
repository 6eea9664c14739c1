"""A health check finds the state directory where the configuration has it."""

import os

import pytest

from syncd.config import loading as configuration, locations
from syncd.exceptions import ConfigError

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


@pytest.mark.parametrize(
    ("file", "environ"),
    [
        ("", {}),
        ('[api]\nenvironment = "staging"\n', {}),
        ('[api]\nenvironment = "staging"\n', {"AYMARA_AI_BASE_URL": "https://other.example"}),
        ("", {"AYMARA_AI_BASE_URL": "https://other.example/v1/"}),
        ('[api]\nbase_url = "https://a.example/"\n', {"SYNCD_API__ENVIRONMENT": "development"}),
        ('[api]\nbase_url = "https://a.example/"\n', {"SYNCD_API__BASE_URL": "http://[::1]:8"}),
        ('[api]\nbase_url = ""\n', {"SYNCD_API__ENVIRONMENT": ""}),
    ],
)
def test_the_service_is_the_one_that_the_configuration_names(tmp_path, file, environ):
    (tmp_path / "syncd.toml").write_text(f'state.directory = "here"\n{file}')
    wanted = configuration.load(
        config=None, environ=environ, working_directory=tmp_path, to_sync=False
    )
    seen = locations.glance(None, environ, tmp_path)
    if "::1" in wanted.api.base_url:
        assert seen is None
    else:
        assert seen == (wanted.state.directory, wanted.api.base_url, bool(wanted.folders))


@pytest.mark.parametrize(
    "file",
    [
        "api = 1",
        "[api]\nenvironment = 1",
        '[api]\nenvironment = "elsewhere"',
        '[api]\nbase_url = "https://user:password@a.example"',
        '[api]\nproxy = "http://user:password@proxy:1"',
        "state.directory = 7",
    ],
)
def test_a_service_that_is_odd_or_behind_a_proxy_takes_a_closer_look(tmp_path, file):
    (tmp_path / "syncd.toml").write_text(file)
    assert locations.glance(None, {}, tmp_path) is None


@pytest.mark.parametrize("file", ["no toml", "state = 1", "[state]\ndirectory = 7", None])
def test_what_is_odd_is_left_to_a_closer_look(tmp_path, file):
    path = tmp_path / "named.toml"
    if file is not None:
        path.write_text(file)
    assert locations.state_directory(path, {}, tmp_path) is None


# Whose files are believed


def root_only():
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")


def loaded(tmp_path, **environ):
    environ = {"AYMARA_AI_API_KEY": "k" * 20, "SYNCD_WATCH": "/srv/drop", **environ}
    return configuration.load(config=None, environ=environ, working_directory=tmp_path)


@pytest.mark.row(83)
@pytest.mark.parametrize("how", ["a file", "a link to ours"])
def test_a_strangers_file_in_the_current_directory_is_not_used(tmp_path, how):
    root_only()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/syncd.toml").write_text('[state]\ndirectory = "/ours"\n')
    file = tmp_path / "syncd.toml"
    if how == "a file":
        file.write_text('[state]\ndirectory = "/theirs"\n')
    else:
        (tmp_path / "ours.toml").write_text('[state]\ndirectory = "/theirs"\n')
        file.symlink_to(tmp_path / "ours.toml")
    os.chown(file, 65_534, 65_534, follow_symlinks=False)
    config = loaded(tmp_path)
    assert str(config.state.directory) == "/ours"
    assert config.file == tmp_path / "etc/syncd.toml"
    (warning,) = config.warnings
    assert warning.startswith(f"{file} is not used: it belongs to user 65534")
    found = locations.state_directory(None, {}, tmp_path)
    assert str(found) == "/ours"
    # A path that is named explicitly is meant.
    config = configuration.load(config=file, environ={}, working_directory=tmp_path, to_sync=False)
    assert str(config.state.directory) == "/theirs"


@pytest.mark.row(83)
def test_where_nothing_else_is_configured_the_error_says_why_the_file_there_is_not_used(tmp_path):
    root_only()
    (tmp_path / "syncd.toml").write_text(FOLDER)
    os.chown(tmp_path / "syncd.toml", 65_534, 65_534)
    with pytest.raises(ConfigError, match=r"no folder to watch.* is not used: it belongs to user"):
        loaded(tmp_path, SYNCD_WATCH="")


@pytest.mark.row(54)
@pytest.mark.parametrize("chosen", [True, False])
def test_a_configuration_that_others_may_write_is_refused(tmp_path, chosen):
    file = tmp_path / "syncd.toml"
    file.write_text(FOLDER)
    file.chmod(0o646)
    with pytest.raises(ConfigError, match="everyone on this machine may write the file"):
        configuration.load(
            config=file if chosen else None,
            environ={"AYMARA_AI_API_KEY": "k" * 20},
            working_directory=tmp_path,
        )
    assert locations.state_directory(None, {}, tmp_path) is None


@pytest.mark.row(54)
def test_authorities_that_others_may_write_are_refused(tmp_path):
    authorities = tmp_path / "ca.pem"
    authorities.write_text("of whoever comes by")
    authorities.chmod(0o646)
    with pytest.raises(ConfigError, match=r"__CA_FILE: ca_file .*: everyone .* chmod go-w"):
        loaded(tmp_path, SYNCD_API__CA_FILE=str(authorities))


@pytest.mark.row(54)
def test_a_file_that_a_group_may_write_is_believed_where_the_group_is_our_own(tmp_path):
    file = tmp_path / "syncd.toml"
    file.write_text(FOLDER)
    file.chmod(0o664)
    os.chown(file, -1, os.getegid())
    assert locations.read_config(file, chosen=True) == FOLDER
    root_only()
    os.chown(file, 1000, 54_321)
    with pytest.raises(ConfigError, match="group 54321 may write the file"):
        locations.read_config(file, chosen=True)
    # A bind-mounted file of another user is fine.
    file.chmod(0o644)
    assert locations.read_config(file, chosen=True) == FOLDER
