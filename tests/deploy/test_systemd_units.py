"""The units that `syncd init --systemd` prints fit the configuration, and systemd accepts them."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from syncd.cli import group as cli
from syncd.deploy import access, obstacles, shipped, systemd

ME = pwd.getpwuid(os.geteuid()).pw_name


IS_OPEN, WHO, REACHES = systemd._is_open, systemd._who, access.reaches


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory to work in, without variables of ours."""
    for name in [name for name in os.environ if name.startswith(("SYNCD_", "AYMARA_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    # As a directory of a service is, and not as pytest makes one.
    monkeypatch.setattr(systemd, "_is_open", lambda path: path.name != "private")
    monkeypatch.setattr(systemd, "_who", lambda path: path.name)
    monkeypatch.setattr(obstacles, "programs", lambda: [Path("/opt/syncd")])
    monkeypatch.setattr(access, "reaches", lambda path, *_: path.name != "private")
    return tmp_path


def unpatched(monkeypatch):
    """Let modes and owners count as they are."""
    monkeypatch.setattr(systemd, "_is_open", IS_OPEN)
    monkeypatch.setattr(systemd, "_who", WHO)
    monkeypatch.setattr(access, "reaches", REACHES)


@pytest.fixture
def unit(place, capsys):
    """Return the lines of the unit for a configuration, as pairs; fail where there is none."""

    def printed(text, *options, config=None):
        if text is not None:
            (place / "syncd.toml").write_text(text)
        words = ["-c", str(config)] if config else []
        code = cli.call([*words, "init", "--systemd", *options])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        lines = [line for line in out.splitlines() if "=" in line and line[0] != "#"]
        return out, [tuple(line.split("=", 1)) for line in lines]

    return printed


def values(lines, key):
    return [value for name, value in lines if name == key]


PLAIN = '[[folders]]\npath = "/srv/drop"\n'


def test_the_unit_runs_this_installation_with_this_configuration(unit, place):
    _, lines = unit(PLAIN)
    (start,) = values(lines, "ExecStart")
    assert start.startswith((f"{sys.prefix}/bin/syncd run", f"{sys.executable} -m syncd run"))
    assert start.endswith(f" run --config {place}/syncd.toml")
    assert values(lines, "StateDirectory") == ["syncd"]
    assert values(lines, "DynamicUser") == ["yes"]
    assert values(lines, "ReadWritePaths") == []


def test_the_state_directory_is_the_one_that_is_configured(unit):
    _, lines = unit('[state]\ndirectory = "/var/lib/clips/state"\n' + PLAIN)
    assert values(lines, "StateDirectory") == ["clips/state"]
    _, lines = unit('[state]\ndirectory = "/mnt/fast/ada"\n' + PLAIN)
    assert values(lines, "StateDirectory") == []
    assert values(lines, "ReadWritePaths") == ["-/mnt/fast/ada"]
    assert (values(lines, "User"), values(lines, "DynamicUser")) == (["ada"], ["no"])


def test_the_directories_in_which_files_are_moved_are_writable_by_their_owner(unit):
    _, lines = unit(
        '[[folders]]\npath = "/srv/a b/ada"\nafter_upload = "move"\nmove_to = "/srv/50%/ada"\n'
    )
    assert values(lines, "ReadWritePaths") == ['"-/srv/a b/ada"', "-/srv/50%%/ada"]
    assert values(lines, "User") == ["ada"]
    assert values(lines, "Group") == []


def test_a_folder_that_others_may_not_read_is_read_by_its_owner(unit, monkeypatch):
    monkeypatch.setattr(systemd, "_who", lambda path: ME if ME != "root" else "ada")
    _, lines = unit('[[folders]]\npath = "/home/ada/private"\n')
    assert values(lines, "DynamicUser") == ["no"]
    assert values(lines, "ProtectHome") == ["read-only"]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("/srv/root", "/mnt/root"), "can be written by root alone"),
        (("/srv/ada", "/srv/bob"), "one service cannot serve folders of several users"),
    ],
)
def test_folders_that_no_one_user_can_serve_are_refused(place, capsys, paths, said):
    folders = "".join(f'[[folders]]\npath = "{p}"\nafter_upload = "delete"\n' for p in paths)
    (place / "syncd.toml").write_text(folders)
    assert cli.call(["init", "--systemd"]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_the_environment_of_the_caller_becomes_the_services_but_for_secrets(unit, monkeypatch):
    monkeypatch.setenv("SYNCD_API__BASE_URL", "http://127.0.0.1:8765")
    monkeypatch.setenv("SYNCD_DELETIONS__GRACE_SECONDS", "2")
    monkeypatch.setenv("AYMARA_AI_API_KEY", "a-secret-of-mine")
    monkeypatch.setenv("AYMARA_AI_API_KEY_FILE", "/run/keys/aymara key")
    text, lines = unit('[server]\ntoken_file = "/etc/syncd/token"\nlisten = "[::]:80"\n' + PLAIN)
    assert "a-secret-of-mine" not in text
    given = values(lines, "Environment")
    assert "SYNCD_API__BASE_URL=http://127.0.0.1:8765" in given
    assert "SYNCD_DELETIONS__GRACE_SECONDS=2" in given
    assert "SYNCD_SERVER__TOKEN_FILE=%d/server-token" in given
    assert values(lines, "LoadCredential") == [
        "aymara-api-key:/run/keys/aymara key",
        "server-token:/etc/syncd/token",
    ]


def test_a_proxys_password_is_not_printed_but_named(place, capsys, monkeypatch):
    monkeypatch.setenv("SYNCD_API__PROXY", "http://ada:a-secret@proxy:3128")
    monkeypatch.setenv("SYNCD_WATCH", "/srv/drop")
    for what in ("--systemd", "--compose", "--kubernetes"):
        assert cli.call(["init", what]) == 0
        out, err = capsys.readouterr()
        assert "a-secret" not in out + err
        assert "[api] proxy is left out" in err
        assert "set SYNCD_API__PROXY" in err


def test_the_users_unit_needs_no_root_and_says_how_it_outlives_a_session(unit, place):
    text, lines = unit(PLAIN, "--user")
    assert '# sudo loginctl enable-linger "$USER"\n' in text
    assert values(lines, "WantedBy") == ["default.target"]
    assert not {"User", "DynamicUser", "StateDirectory"} & {key for key, _ in lines}
    assert "AYMARA_AI_API_KEY_FILE=%h/.config/syncd/aymara-api-key" in values(lines, "Environment")


def test_options_that_do_not_go_together_are_refused(place, capsys):
    for words in (
        ["--user"],
        ["--compose", "--kubernetes"],
        ["--systemd", "--compose"],
        ["--grafana", "--prometheus-rules"],
        ["--drop-in", "group"],
        ["--systemd", "--drop-in", "unheard-of"],
        ["--systemd", "--user", "--drop-in", "home"],
        ["--systemd", "--force"],
        ["--compose", "--", "other.toml"],
    ):
        assert cli.call(["init", *words]) == 2
    assert cli.call(["init", "--systemd"]) == 78
    assert "no folder is configured" in capsys.readouterr().err
    assert [*place.iterdir()] == []


@pytest.mark.parametrize("name", shipped.drop_ins())
def test_each_drop_in_is_printed_below_the_command_that_installs_it(place, capsys, name):
    assert cli.call(["init", "--systemd", "--drop-in", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# syncd init --systemd --drop-in {name} | sudo install -D -m 644 ")
    assert f" /etc/systemd/system/syncd.service.d/{name}.conf\n" in out
    assert out.endswith(shipped.read(f"drop-ins/{name}.conf"))


def test_the_users_drop_in_goes_to_the_users_own_manager(place, capsys):
    assert cli.call(["init", "--systemd", "--user", "--drop-in", "backoff"]) == 0
    out = capsys.readouterr().out
    assert "/dev/stdin ~/.config/systemd/user/syncd.service.d/backoff.conf\n" in out
    assert "sudo" not in out


def test_a_unit_names_each_drop_in_by_its_command_unless_it_needs_it_no_more(unit):
    text, _ = unit(PLAIN)
    assert [name for name in shipped.drop_ins() if f"--drop-in {name}`" not in text] == []
    text, lines = unit('[[folders]]\npath = "/home/ada/drop"\n')
    assert values(lines, "ProtectHome") == ["read-only"]
    assert "--drop-in home" not in text


def of(path, user, group, mode):
    path.mkdir()
    os.chown(path, user, group)
    path.chmod(mode)
    return path


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_folder_of_roots_that_a_group_may_read_is_read_through_that_group(unit, monkeypatch):
    unpatched(monkeypatch)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        drop = of(top / "drop", 0, grp.getgrnam("daemon").gr_gid, 0o2750)
        monkeypatch.setattr(obstacles, "programs", list)
        file = top / "syncd.toml"
        file.write_text(f'[[folders]]\npath = "{drop}"\n')
        file.chmod(0o644)
        text, lines = unit(None, config=file)
        assert values(lines, "SupplementaryGroups") == ["daemon"]
        assert values(lines, "DynamicUser") == ["yes"]
        assert "--drop-in group" not in text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_folder_that_root_alone_may_read_is_refused_with_both_remedies(
    place, monkeypatch, capsys
):
    unpatched(monkeypatch)
    drop = of(place / "drop", 0, 0, 0o700)
    file = place / "syncd.toml"
    file.write_text(f'[[folders]]\npath = "{drop}"\n')
    assert cli.call(["-c", str(file), "init", "--systemd"]) == 78
    said = " ".join(capsys.readouterr().err.split())
    assert "can be read by root alone, and the service does not run as root" in said
    assert "give it to another user (chown) or a group (chgrp)" in said


def test_a_program_or_configuration_that_the_service_may_not_read_is_named(
    place, monkeypatch, capsys
):
    monkeypatch.setattr(systemd, "_state", lambda *_: None)
    private = place / "private"
    monkeypatch.setattr(obstacles, "programs", lambda: [place / "venv", private])
    private.write_text(PLAIN)
    assert cli.call(["-c", str(private), "init", "--systemd"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"the service's user may not read {private}; install syncd where everybody" in said
    assert f"may not read {private}; run: chmod a+r {private}" in said
    # A secret is not for everybody.
    private.write_text(PLAIN + '[alerts]\nwebhook = "https://x.example/secret"\n')
    assert cli.call(["-c", str(private), "init", "--systemd"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "chmod a+r" not in said
    assert "`syncd init --systemd --drop-in group`" in said


def test_an_interpreter_beneath_a_home_is_not_hidden(unit, monkeypatch):
    monkeypatch.setattr(obstacles, "programs", lambda: [Path("/opt/x"), Path("/root/.pyenv/py")])
    _, lines = unit(PLAIN)
    assert values(lines, "ProtectHome") == ["read-only"]
    monkeypatch.setattr(obstacles, "programs", lambda: [Path("/opt/x")])
    _, lines = unit(PLAIN)
    assert values(lines, "ProtectHome") == ["yes"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_state_outside_ones_home_that_is_anothers_is_named(place, capsys):
    file, state = place / "syncd.toml", of(place / "state", 1234, 1234, 0o700)
    file.write_text(PLAIN + f'[state]\ndirectory = "{state}"\n')
    assert cli.call(["-c", str(file), "init", "--systemd", "--user"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"[state] directory = {state} is not yours" in said
    os.chown(state, 0, 0)
    assert cli.call(["-c", str(file), "init", "--systemd", "--user"]) == 0
    assert capsys.readouterr().err == ""


def test_the_head_makes_the_keys_file_unless_it_is_there(unit, place, monkeypatch):
    key = place / "a key"
    monkeypatch.setenv("AYMARA_AI_API_KEY_FILE", str(key))
    made = f"""# install -D -m 600 /dev/stdin '{key}' <<< "$AYMARA_AI_API_KEY"\n"""
    for options in ((), ("--user",)):
        text, _ = unit(PLAIN, *options)
        assert text.startswith(made)
    key.touch()
    text, _ = unit(PLAIN)
    assert "/dev/stdin" not in text
    monkeypatch.delenv("AYMARA_AI_API_KEY_FILE")
    text, _ = unit(PLAIN, "--user")
    assert text.startswith("# install -D -m 600 /dev/stdin ~/.config/syncd/aymara-api-key <<< ")


@pytest.mark.parametrize(
    ("mode", "user", "groups", "may"),
    [
        (0o700, None, set(), False),
        (0o750, None, {5}, True),
        (0o755, None, set(), True),
        (0o740, None, {5}, False),
        (0o705, None, {5}, False),
    ],
)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_who_may_list_a_directory_is_told_by_the_modes_on_its_way(mode, user, groups, may):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        place = of(Path(name, "in"), 0, 5, mode)
        assert access.reaches(place, user, groups) is may
        assert access.reaches(place / "nothing", user, groups) is None


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("options", [(), ("--user",)], ids=["system", "user"])
def test_systemd_has_nothing_to_say_of_a_printed_unit(unit, place, options):
    (place / "runtime").mkdir()
    drop = place / 'a "b" 50% $c'
    drop.mkdir()
    config = f"[[folders]]\npath = '{drop}'\nafter_upload = 'delete'\n"
    text, _ = unit(config.replace("after_upload = 'delete'\n", "") if options else config, *options)
    if not options:
        text = text.replace(f"User={drop.name}", f"User={ME}")
    file = place / "syncd.service"
    file.write_text(text)
    said = subprocess.run(
        ["systemd-analyze", *options, "verify", "--man=no", file],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_RUNTIME_DIR": str(place / "runtime")},
    )
    ours = [line for line in said.stderr.splitlines() if "syncd.service" in line]
    # The user of this test may be nobody, of whom systemd warns.
    assert [line for line in ours if f"Special user {ME} configured" not in line] == []
    assert said.returncode == 0, said.stderr
