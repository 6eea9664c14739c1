import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from syncd.cli.setup import TEMPLATE
from syncd.config import loading as configuration
from syncd.config.settings import Settings
from syncd.exceptions import ConfigError

KEY = "sk-live-0123456789"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load with nothing from outside but what a test gives; the key is there unless taken."""
    monkeypatch.setattr("syncd.config.locations.SYSTEM_FILE", tmp_path / "etc/syncd.toml")

    def run(toml=None, *directories, env=None, key=KEY, **options):
        if toml is not None:
            (tmp_path / "syncd.toml").write_text(toml)
        environ = {"HOME": str(tmp_path / "home")} | (env or {})
        if key is not None:
            environ["AYMARA_AI_API_KEY"] = key
        options = {"config": None, "working_directory": tmp_path} | options
        return configuration.load(environ=environ, directories=directories, **options)

    return run


@pytest.fixture
def refused(load):
    """Return the message with which a configuration is refused."""

    def run(*arguments, **options):
        with pytest.raises(ConfigError) as caught:
            load(*arguments, **options)
        assert KEY not in str(caught.value)
        return str(caught.value)

    return run


FOLDER = '[[folders]]\npath = "drop"\n'


def test_defaults_are_those_that_are_written_down(load, tmp_path):
    config = load(FOLDER)
    assert config.api.base_url == "https://api.aymara.ai"
    assert (config.api.timeout_seconds, config.api.connect_seconds) == (60, 5)
    assert config.state.directory == tmp_path / "home/.local/state/syncd"
    assert config.upload.model_dump() == {
        "workers": None,
        "resend_after_seconds": 120,
        "drain_seconds": 10,
        "token": True,
        "method": "auto",
        "direct_max": 32 * 1024 * 1024,
        "bandwidth": "off",
    }
    assert config.processing.model_dump() == {
        "first_poll_seconds": 2,
        "max_poll_seconds": 60,
        "polls_per_second": 5,
        "stalled_after": 86_400,
    }
    assert config.folders[0].model_dump() == {
        "path": tmp_path / "drop",
        "name": "drop",
        "workspace_uuid": None,
        "include": (),
        "exclude": (),
        "hidden": False,
        "syncdignore": True,
        "max_size": None,
        "existing": "upload",
        "watch": "auto",
        "settle_seconds": 5,
        "rescan_seconds": 300,
        "grace_seconds": 60,
        "mirror_deletions": True,
        "hold_files": 20,
        "hold_percent": 20,
        "hold_max": 1000,
        "superseded_grace": 0,
        "hold_changes": False,
        "marker": "",
        "root": "known",
        "after_upload": "keep",
        "move_to": None,
        "receipts": False,
    }
    assert config.deletions.model_dump() == {
        "grace_seconds": 60,
        "hold_files": 20,
        "hold_percent": 20,
        "hold_max": 1000,
        "remote_gone": "hold",
    }
    assert config.warnings == ()


def test_the_template_loads(load):
    assert [folder.name for folder in load(TEMPLATE).folders] == ["drop"]


def test_every_setting_stands_in_the_template_with_its_default_or_an_example():
    folder, others = TEMPLATE.split("# [[folders]]")
    whole = folder + others[others.index("[api]") :].replace("# [[hooks]]", "[[hooks]]")
    shown = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", whole, flags=re.MULTILINE))
    settings = Settings.model_validate(shown)
    assert shown.keys() == Settings.model_fields.keys()
    for section in shown:
        is_list = section in ("folders", "hooks")
        (table,) = shown[section] if is_list else (shown[section],)
        (taken,) = getattr(settings, section) if is_list else (getattr(settings, section),)
        fields = type(taken).model_fields
        # A hook has either of them.
        assert fields.keys() - table.keys() == ({"url"} if section == "hooks" else set()), section
        assert table.keys() <= fields.keys(), section
        for key, field in fields.items():
            # A setting without a default shows an example.
            if isinstance(field.default, str | int | float) and field.default != "":
                assert getattr(taken, key) == field.default, (section, key)


def test_configuration_is_frozen(load):
    config = load(FOLDER)
    with pytest.raises(ValidationError):
        config.upload.workers = 3
    with pytest.raises(ValidationError):
        config.folders = ()


# Where it comes from


def test_the_first_file_there_is_is_read(load, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/syncd.toml").write_text(FOLDER + "[upload]\nworkers = 1\n")
    assert load().upload.workers == 1
    assert load(FOLDER + "[upload]\nworkers = 2\n").upload.workers == 2
    assert load(FOLDER + '[upload]\nworkers = "auto"\n').upload.workers is None
    (tmp_path / "env.toml").write_text(FOLDER + "[upload]\nworkers = 3\n")
    env = {"SYNCD_CONFIG": "env.toml"}
    assert load(env=env).upload.workers == 3
    (tmp_path / "named.toml").write_text(FOLDER + "[upload]\nworkers = 4\n")
    named = load(env=env, config=tmp_path / "named.toml")
    assert (named.upload.workers, named.file) == (4, tmp_path / "named.toml")


def test_a_named_file_that_is_missing_is_an_error(refused):
    missing = refused(config=Path("/nope it.toml"))
    assert "--config: there is no file /nope it.toml; `syncd -c '/nope it.toml' init`" in missing
    assert "SYNCD_CONFIG: there is no file" in refused(env={"SYNCD_CONFIG": "nope.toml"})


def test_a_file_that_is_no_toml_says_where(refused, tmp_path):
    message = refused("[upload\n")
    assert message.startswith(f"{tmp_path / 'syncd.toml'} is not valid TOML:")
    assert "line 1" in message


def test_a_file_that_is_no_text_says_where(refused, tmp_path):
    (tmp_path / "x.toml").write_bytes(b"[api]\nproxy = '\xff'\n")
    message = refused(config=tmp_path / "x.toml")
    assert message.endswith("x.toml is not valid TOML: byte 15 is no UTF-8; save it as UTF-8")


def test_a_file_that_is_a_directory_is_an_error(refused, tmp_path):
    said = f"{tmp_path}: cannot read the file: Is a directory; name a file"
    assert said in refused(config=tmp_path)


def test_variables_override_the_file(load):
    env = {"SYNCD_UPLOAD__WORKERS": "3", "SYNCD_LOG__LEVEL": "debug", "SYNCD_API__SANDBOX": "true"}
    config = load(FOLDER + "[upload]\nworkers = 2\ntoken = false\n", env=env)
    assert (config.upload.workers, config.upload.token) == (3, False)
    assert (config.log.level, config.api.sandbox) == ("debug", True)


def test_an_empty_variable_counts_as_not_there(load):
    assert load(FOLDER, env={"SYNCD_UPLOAD__WORKERS": "", "SYNCD_WATCH": ""}).upload.workers is None


def test_folders_come_as_json_or_one_by_watch(load, tmp_path):
    folders = json.dumps([{"path": "/data", "settle_seconds": 0.5}])
    (folder,) = load(FOLDER, env={"SYNCD_FOLDERS": folders}).folders
    assert (folder.path, folder.name, folder.settle_seconds) == (Path("/data"), "data", 0.5)
    (folder,) = load(env={"SYNCD_WATCH": "in"}).folders
    assert folder.path == tmp_path / "in"


def test_directories_replace_the_folders_and_a_configured_one_keeps_its_settings(load, tmp_path):
    toml = '[[folders]]\npath = "a"\nname = "first"\n[[folders]]\npath = "b"\n'
    config = load(toml, Path("a"), Path("c"), Path("c"))
    assert [(f.path, f.name) for f in config.folders] == [
        (tmp_path / "a", "first"),
        (tmp_path / "c", "c"),
    ]


def test_unknown_variables_are_warnings_that_name_the_nearest(load):
    env = {"SYNCD_LOG_LEVEL": "debug", "SYNCD_PORT_8080_TCP_ADDR": "10.0.0.1"}
    assert load(FOLDER, env=env).warnings == (
        "the environment variable SYNCD_LOG_LEVEL is not known; did you mean SYNCD_LOG__LEVEL?",
        "the environment variable SYNCD_PORT_8080_TCP_ADDR is not known",
    )


def test_state_directory_comes_from_systemd_xdg_or_home(load, tmp_path):
    assert load(FOLDER, env={"STATE_DIRECTORY": "/var/lib/syncd:/x"}).state.directory == Path(
        "/var/lib/syncd"
    )
    assert load(FOLDER, env={"XDG_STATE_HOME": "/xdg"}).state.directory == Path("/xdg/syncd")
    toml = FOLDER + '[state]\ndirectory = "here"\n'
    assert load(toml, env={"STATE_DIRECTORY": "/x"}).state.directory == tmp_path / "here"


# The service


@pytest.mark.parametrize(
    ("toml", "env", "url"),
    [
        ('environment = "staging"', {}, "https://staging-api.aymara.ai"),
        ('base_url = "https://x.test/prefix/"', {}, "https://x.test/prefix"),
        ("", {"AYMARA_AI_BASE_URL": "https://y.test"}, "https://y.test"),
        ('environment = "staging"', {"AYMARA_AI_BASE_URL": "https://y.test"},
         "https://staging-api.aymara.ai"),
        ('base_url = "https://x.test"', {"SYNCD_API__ENVIRONMENT": "staging"},
         "https://staging-api.aymara.ai"),
        ("", {"SYNCD_API__BASE_URL": "https://z.test", "AYMARA_AI_BASE_URL": "https://y.test"},
         "https://z.test"),
    ],
)  # fmt: skip
def test_the_base_url_is_resolved_from_what_is_most_ours(load, toml, env, url):
    assert load(f"{FOLDER}[api]\n{toml}\n", env=env).api.base_url == url


def test_a_base_url_that_is_not_used_is_a_warning(load):
    toml = FOLDER + '[api]\nenvironment = "staging"\n'
    (warning,) = load(toml, env={"AYMARA_AI_BASE_URL": "https://y.test"}).warnings
    assert "AYMARA_AI_BASE_URL is not used" in warning


def test_the_sandbox_of_the_official_client_is_honoured(load):
    assert load(FOLDER, env={"AYMARA_AI_USE_SANDBOX": "True"}).api.sandbox is True
    assert load(FOLDER).api.sandbox is None


@pytest.mark.parametrize(
    "url", ["api.test", "ftp://x", "https://", "https://u:pw@x.test", "https://x?a=1", "http://x:y"]
)
def test_a_base_url_that_is_none_is_refused(refused, url):
    message = refused(FOLDER, env={"SYNCD_API__BASE_URL": url})
    assert message.startswith("SYNCD_API__BASE_URL: [api] base_url: must be a URL")
    assert "pw" not in message


@pytest.fixture
def pair(tmp_path):
    """A certificate and its key, in files as they should be."""
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=us", "-keyout", key, "-out", cert]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    return cert, key


def test_a_client_certificate_and_its_key_stand_beside_the_file(load, pair):
    api = load(FOLDER + '[api]\nclient_cert = "client.pem"\nclient_key = "client.key"\n').api
    assert (api.client_cert, api.client_key) == pair


def test_the_key_of_a_client_certificate_is_guarded_like_any_key(load, pair):
    cert, key = pair
    env = {"SYNCD_API__CLIENT_CERT": str(cert), "SYNCD_API__CLIENT_KEY": str(key)}
    key.chmod(0o644)
    (warning,) = load(FOLDER, env=env).warnings
    assert f"may read the file; run: chmod 600 {key}" in warning
    key.chmod(0o606)
    with pytest.raises(ConfigError, match=r"SYNCD_API__CLIENT_KEY: client_key .* may write"):
        load(FOLDER, env=env)
    key.chmod(0o600)
    cert.chmod(0o646)
    with pytest.raises(ConfigError, match=r"CLIENT_CERT: client_cert .*: everyone .* chmod go-w"):
        load(FOLDER, env=env)
    # A certificate is public.
    cert.chmod(0o644)
    with pytest.raises(ConfigError, match=r"CLIENT_CERT: client_cert .* holds no private key; "):
        load(FOLDER, env={"SYNCD_API__CLIENT_CERT": str(cert)})
    with pytest.raises(ConfigError, match="CLIENT_KEY: client_key: needs client_cert, too"):
        load(FOLDER, env={"SYNCD_API__CLIENT_KEY": str(key)})
    with pytest.raises(ConfigError, match=r"CLIENT_CERT: client_cert .*x: cannot read"):
        load(FOLDER, env=env | {"SYNCD_API__CLIENT_CERT": str(cert) + "x"})


def test_a_proxy_may_hold_a_password_and_is_never_shown(load):
    config = load(FOLDER, env={"SYNCD_API__PROXY": "http://u:pass%20word@proxy:3128"})
    assert "pass%20word" not in repr(config)
    assert set(config.secrets()) == {KEY, "pass%20word", "pass word"}


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, False)])
def test_a_proxys_password_in_a_file_that_everyone_may_read_is_warned_of(
    load, tmp_path, mode, warns
):
    (tmp_path / "syncd.toml").touch(mode)
    (tmp_path / "syncd.toml").chmod(mode)
    warnings = load(FOLDER + '[api]\nproxy = "http://u:password@proxy:3128"\n').warnings
    remedy = f"run: chmod o-r {tmp_path / 'syncd.toml'}"
    assert [remedy in said for said in warnings] == [True] * warns


# Refused configurations


def test_unknown_keys_name_the_file_the_key_and_the_nearest(refused, tmp_path):
    message = refused(
        "[upload]\nworker = 3\n[uplaod]\nx = 1\n[[folders]]\npath = 'a'\nsettle = 1\n"
    )
    where = tmp_path / "syncd.toml"
    assert message.splitlines() == [
        f"{where}: [upload] worker: unknown setting; did you mean workers?",
        f"{where}: [[folders]] number 1 settle: unknown setting; did you mean settle_seconds?",
        f"{where}: uplaod: unknown setting; did you mean upload?",
    ]


def test_a_key_in_the_file_is_refused_without_showing_it(refused):
    message = refused(f'{FOLDER}[api]\napi_key = "{KEY}"\n', key=None)
    assert "[api] api_key: a key never stands here; use AYMARA_AI_API_KEY" in message


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[upload]\nworkers = 0", '[upload] workers: must be a number from 1 to 64, or "auto"'),
        ("[upload]\nworkers = 2.5", 'workers: must be a number from 1 to 64, or "auto"'),
        ('[deletions]\nhold_files = "few"', 'hold_files: must be a number, or "off"'),
        ('[upload]\ndirect_max = "3 pigs"', "[upload] direct_max: is not a size such as 32MiB"),
        ('[processing]\nstalled_after = "soon"', "stalled_after: is not a duration such as 24h"),
        ("[processing]\nmax_poll_seconds = nan", "max_poll_seconds: should be a finite"),
        ('[log]\nformat = "xml"', "[log] format: should be 'auto', 'text'"),
        ('upload = "fast"', "upload: should be a table"),
        ('folders = "x"', "folders: should be a list; in a file each folder is a table of its own"),
        ('[[folders]]\npth = "x"', "number 1 path: is missing"),
        ('[api]\nproxy = "me"', "proxy: must look like http://proxy:3128; a user"),
        ('[api]\nca_file = "/nope.pem"', "ca_file /nope.pem: cannot read the file: No such"),
    ],
)
def test_a_wrong_value_says_where_and_what_is_right(refused, toml, said):
    folder = FOLDER if "folders" not in toml else ""
    assert said in refused(f"{toml}\n{folder}" if "=" in toml.split("\n")[0] else folder + toml)


def test_several_problems_are_one_message(refused):
    message = refused("[upload]\nworkers = 0\nx = 1\n", key=None)
    assert len(message.splitlines()) == 3
    assert "no API key" in message


def test_a_wrong_variable_is_named(refused):
    assert refused(FOLDER, env={"SYNCD_UPLOAD__WORKERS": "many"}).startswith(
        "SYNCD_UPLOAD__WORKERS: [upload] workers: must be a number from 1 to 64"
    )


def test_folders_that_are_no_json_show_how_to_write_them(refused):
    message = refused(env={"SYNCD_FOLDERS": f"/data {KEY}"})
    assert message == 'SYNCD_FOLDERS is not valid JSON; write it as \'[{"path": "/data"}]\''


@pytest.mark.parametrize("folders", ['["/data"]', '{"path": "/data"}', '"/data"'])
def test_folders_of_another_form_show_how_to_write_them(refused, folders):
    message = refused(env={"SYNCD_FOLDERS": folders})
    assert 'write it as \'[{"path": "/data"}]\'' in message
    assert "[[folders]]:" not in message


def test_a_misspelled_variable_is_named_where_no_folder_is(refused):
    message = refused(env={"SYNCD_FOLDER": "/data", "SYNCD_UPLOAD_WORKERS": "4"})
    assert message.endswith("SYNCD_FOLDER is not known; did you mean SYNCD_FOLDERS?")
    assert "WORKERS" not in message


def test_watch_and_folders_together_are_refused(refused):
    env = {"SYNCD_FOLDERS": '[{"path": "/a"}]', "SYNCD_WATCH": "/b"}
    assert "set only one of them" in refused(env=env)


def test_no_folder_says_how_to_name_one(refused, load):
    assert "no folder to watch: name one (syncd run DIR)" in refused()
    assert load(to_sync=False, key=None).folders == ()


def test_overlapping_folders_are_refused_links_followed(refused, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    for other in ("a/b", "a", "link/c"):
        message = refused(f"[[folders]]\npath = 'a'\n[[folders]]\npath = '{other}'\n")
        assert "overlap; watch only the outer one" in message


def test_a_folder_beside_another_of_the_same_beginning_is_fine(load):
    assert len(load("[[folders]]\npath = 'a'\n[[folders]]\npath = 'ab'\n").folders) == 2


@pytest.mark.parametrize("state", ["drop/state", "drop", "."])
def test_a_state_directory_that_overlaps_a_folder_is_refused(refused, state):
    message = refused(f'{FOLDER}[state]\ndirectory = "{state}"\n')
    assert "overlap; set [state] directory" in message


def test_a_folder_that_cannot_even_be_looked_at_is_missing(load):
    """Such as one beneath a directory that may not be entered: stat fails, and is no crash."""
    folder = "/" + "x" * 300
    config = load(f'[[folders]]\npath = "{folder}"\n')
    assert [str(f.path) for f in config.missing_folders()] == [folder]


def test_a_missing_folder_is_no_error_and_is_told(load, tmp_path):
    (tmp_path / "b").mkdir()
    config = load("[[folders]]\npath = 'a'\n[[folders]]\npath = 'b'\n")
    assert [folder.name for folder in config.missing_folders()] == ["a"]


# Names


def test_default_names_are_made_unique_by_their_path(load):
    toml = "".join(f"[[folders]]\npath = '{path}'\n" for path in ("/a/data", "/b/data", "/c/data"))
    first, second, third = (folder.name for folder in load(toml).folders)
    assert len({first, second, third}) == 3
    assert all(name.startswith("data-") for name in (first, second, third))
    without_second = toml.replace("[[folders]]\npath = '/b/data'\n", "")
    assert load(without_second).folders[1].name == third


def test_a_given_name_goes_before_a_default_one(load):
    toml = "[[folders]]\npath = '/a/data'\n[[folders]]\npath = '/b'\nname = 'data'\n"
    names = [folder.name for folder in load(toml).folders]
    assert names[1] == "data"
    assert names[0].startswith("data-")


@pytest.mark.row(70)
def test_a_name_in_use_stays_and_is_given_to_no_other_folder(load):
    def names(*paths):
        toml = "".join(f"[[folders]]\npath = '{path}'\n" for path in paths)
        in_use = {b"/a/data": "data", b"/b/data": "data-of-b"}
        return [folder.name for folder in load(toml, names_in_use=lambda _: in_use).folders]

    assert names("/a/data", "/b/data") == ["data", "data-of-b"]
    assert names("/b/data") == ["data-of-b"]
    assert names("/c/data")[0].startswith("data-")


@pytest.fixture
def bound(tmp_path):
    """Bind-mount a directory at another path."""
    made = []

    def bind(name, elsewhere):
        for path in (tmp_path / name, tmp_path / elsewhere):
            path.mkdir(parents=True, exist_ok=True)
        command = ("mount", "--bind", tmp_path / name, tmp_path / elsewhere)
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        made.append(tmp_path / elsewhere)

    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    yield bind
    for path in made:
        subprocess.run(("umount", path), check=True)


@pytest.mark.row(76)
@pytest.mark.parametrize(
    ("name", "watched"),
    [("one", "other"), ("one/in it", "other"), ("one/in it", "other/deeper"), ("one", "other/in")],
)
def test_one_directory_at_two_paths_is_refused(refused, bound, tmp_path, name, watched):
    bound(name, "other")
    (tmp_path / watched).mkdir(exist_ok=True)
    toml = "".join(f"[[folders]]\npath = '{tmp_path}/{path}'\n" for path in ("one", watched))
    assert "are one directory that is mounted twice, or one is within" in refused(toml)


@pytest.mark.row(76)
def test_a_state_directory_that_is_mounted_from_a_folder_is_refused(refused, bound, tmp_path):
    bound("one/state", "other")
    toml = f"[state]\ndirectory = '{tmp_path}/other'\n[[folders]]\npath = '{tmp_path}/one'\n"
    assert "overlap; set [state] directory" in refused(toml)


@pytest.mark.row(76)
def test_the_roots_of_two_disks_are_not_one(load, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    mount = ("mount", "-t", "tmpfs", "tmpfs", tmp_path / "other")
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        toml = "".join(f"[[folders]]\npath = '{tmp_path}/{name}'\n" for name in ("one", "other"))
        assert len(load(toml).folders) == 2
    finally:
        subprocess.run(("umount", tmp_path / "other"), check=True)


@pytest.mark.row(76)
def test_two_directories_of_one_disk_are_not_one(load, bound, tmp_path):
    bound("one", "other")
    (tmp_path / "onefold").mkdir()
    paths = ("other", "onefold")
    toml = "".join(f"[[folders]]\npath = '{tmp_path}/{path}'\n" for path in paths)
    assert len(load(toml).folders) == 2


def test_equal_names_are_refused(refused):
    toml = "[[folders]]\npath = '/a'\nname = 'x'\n[[folders]]\npath = '/b'\nname = 'x'\n"
    assert "2 folders have the name 'x'" in refused(toml)


def test_a_folder_whose_name_is_not_utf8_gets_one_that_is(load):
    (folder,) = load(None, Path("/data/\udcff\n")).folders
    assert folder.name == "\\xff_"
    assert folder.place == b"/data/\xff\n"


def test_folders_take_workspace_and_grace_from_above(load):
    one, two = (f"00000000-0000-4000-8000-00000000000{number}" for number in "12")
    toml = (
        f"[api]\nworkspace_uuid = '{one}'\n[deletions]\ngrace_seconds = 7\n"
        f"[[folders]]\npath = 'a'\n[[folders]]\npath = 'b'\nworkspace_uuid = '{two}'\n"
        "grace_seconds = 60\n"
    )
    assert [(f.workspace_uuid, f.grace_seconds) for f in load(toml).folders] == [
        (one, 7),
        (two, 60),
    ]


@pytest.mark.parametrize("change", [str, str.upper, lambda text: text.replace("-", "")])
def test_a_workspace_is_the_same_however_its_uuid_is_spelled(load, change):
    uuid = "0a0b0c0d-0e0f-4a4b-8c8d-abcdefabcdef"
    toml = f"[api]\nworkspace_uuid = '{change(uuid)}'\n[[folders]]\npath = 'a'\n"
    config = load(toml)
    assert (config.api.workspace_uuid, config.folders[0].workspace_uuid) == (uuid, uuid)


def test_a_workspace_that_is_no_uuid_is_refused(refused):
    assert "workspace_uuid: must be a UUID" in refused("[api]\nworkspace_uuid = 'team-a'\n")


@pytest.fixture
def secret(tmp_path):
    """Make a file with a secret, which only we may read."""

    def make(name):
        path = tmp_path / "drop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0123456789abcdef")
        path.chmod(0o600)
        return path

    return make


@pytest.mark.parametrize("variable", ["AYMARA_AI_API_KEY_FILE", "AYMARA_AI_BEARER_TOKEN_FILE"])
def test_a_key_that_would_be_uploaded_is_refused(refused, secret, tmp_path, variable):
    key = secret("a/key")
    (tmp_path / "link").symlink_to(key)
    for path in (key, tmp_path / "link"):
        said = refused(FOLDER, env={variable: str(path)})
        assert f"{variable}: {path} lies in the folder {tmp_path / 'drop'}" in said


def test_a_token_of_the_listener_that_would_be_uploaded_is_refused(refused, secret):
    path = secret("token")
    said = refused(f"[server]\nlisten = '127.0.0.1:0'\ntoken_file = '{path}'\n{FOLDER}")
    assert f"[server] token_file: {path} lies in the folder" in said


def test_a_key_in_a_folder_that_does_not_send_it_is_used(load, refused, secret, tmp_path):
    for path in (secret(".config/key"), secret("../beside")):
        assert load(FOLDER, env={"AYMARA_AI_API_KEY_FILE": str(path)}, key=None).credentials
    hidden = {"AYMARA_AI_API_KEY_FILE": str(secret(".config/key"))}
    assert "would be uploaded" in refused(f"{FOLDER}hidden = true\n", env=hidden)


def test_the_limits_of_mass_deletions_can_be_set_and_turned_off_for_each_folder(load):
    toml = (
        "[deletions]\nhold_files = 7\nhold_max = 'off'\n[[folders]]\npath = 'a'\n"
        "hold_percent = 'off'\n[[folders]]\npath = 'b'\nhold_files = 'off'\nhold_max = 5\n"
    )
    assert [(f.hold_files, f.hold_percent, f.hold_max) for f in load(toml).folders] == [
        (7, None, None),
        (None, 20, 5),
    ]


@pytest.mark.parametrize("value", ["'of'", "-1", "true", "''"])
def test_a_limit_that_is_none_is_refused(load, value):
    with pytest.raises(ConfigError, match="hold_files"):
        load(f"[deletions]\nhold_files = {value}\n[[folders]]\npath = 'a'\n")


@pytest.mark.row(81)
@pytest.mark.parametrize("seconds", ["-1", "1e12", "inf", "nan"])
@pytest.mark.parametrize("name", ["grace_seconds", "superseded_grace"])
def test_an_absurd_grace_is_refused_with_the_range(load, name, seconds):
    with pytest.raises(ConfigError, match=f"{name}.*from 0 to 31536000 seconds"):
        load(f"[[folders]]\npath = 'a'\n{name} = {seconds}\n")


def test_a_file_is_moved_to_a_place_outside_every_watch_folder(load, tmp_path):
    move = '\nafter_upload = "move"\nmove_to = "{}"'
    config = load(FOLDER + move.format("sent"))
    assert config.folders[0].move_to == tmp_path / "sent"
    for inside in ("drop", "drop/sent", "."):
        with pytest.raises(ConfigError, match="outside every watch folder"):
            load(FOLDER + move.format(inside))
    with pytest.raises(ConfigError, match="needs move_to"):
        load(FOLDER + '\nafter_upload = "move"')


def test_receipts_go_beside_moved_files_or_to_a_place_outside_every_watch_folder(load, tmp_path):
    move = '\nafter_upload = "move"\nmove_to = "sent"'
    assert load(FOLDER).folders[0].receipts_to is None
    assert load(FOLDER + move + "\nreceipts = true").folders[0].receipts_to == tmp_path / "sent"
    for more in ("", move):
        folder = load(FOLDER + more + '\nreceipts = "told"').folders[0]
        assert folder.receipts_to == tmp_path / "told"
    for more in ("", '\nafter_upload = "delete"'):
        with pytest.raises(ConfigError, match='name a directory, as in receipts = "/srv/rec'):
            load(FOLDER + more + "\nreceipts = true")
    for inside in ("drop", "drop/told", "."):
        with pytest.raises(ConfigError, match=r"receipts = .* outside every watch folder"):
            load(FOLDER + f'\nreceipts = "{inside}"')


@pytest.mark.parametrize("marker", ["/etc/passwd", "../up", "a//b", "."])
def test_a_marker_is_a_file_beneath_its_folder(load, marker):
    with pytest.raises(ConfigError, match="beneath the folder"):
        load(FOLDER + f'\nmarker = "{marker}"')


def test_a_byte_order_mark_in_the_file_is_passed_over(load):
    assert load("\ufeff" + FOLDER).folders[0].path.name == "drop"


def test_a_home_that_is_not_there_is_a_mistake_in_that_setting(refused, tmp_path):
    said = refused('[[folders]]\npath = "~nosuchuser/drop"\n')
    assert said == (
        f"{tmp_path}/syncd.toml: path = ~nosuchuser/drop: there is no user nosuchuser; "
        "write the whole path instead of ~nosuchuser"
    )


def test_without_a_home_the_state_is_asked_for_and_nothing_else(refused, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("~").expanduser())
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert refused(FOLDER, env={"HOME": ""}) == (
        "no place for the state: this user has no home directory; set SYNCD_STATE__DIRECTORY"
    )


@pytest.mark.row(81)
@pytest.mark.parametrize("setting", ["grace_seconds", "settle_seconds", "rescan_seconds"])
@pytest.mark.parametrize("value", ["1e12", "inf", "nan", "-1"])
def test_a_time_that_is_absurd_is_refused(tmp_path, setting, value):
    file = tmp_path / "syncd.toml"
    file.write_text(f'[[folders]]\npath = "{tmp_path}"\n{setting} = {value}\n')
    with pytest.raises(ConfigError, match=setting):
        configuration.load(config=file, environ={"AYMARA_AI_API_KEY": "k"})
